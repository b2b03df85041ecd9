"""Images: all of a snapshot but what was said before, the same bytes every time, and nothing else at the target."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from statelesskit.config import Site
from statelesskit.errors import DamagedError, EnvironmentLacksError, RefusedError, UsageError
from statelesskit.export import erofs, images, squashfs, verity
from statelesskit.export.images import KINDS, best_kind, losses, make_image
from statelesskit.manifest import HEADER, Entry, Manifest
from statelesskit.store import Store, Writer
from statelesskit.take import take_tree
from tests.torture import ACL, CAPABILITY, DEFAULT_ACL, SECOND, add_prototype, scratch, statelesskit
from tests.witness import Facts, look

pytestmark = pytest.mark.root
TOP = Entry(b"", "dir", mode=0o755)
EACH = pytest.mark.parametrize("kind", list(KINDS))


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def taken(top: Path, store: Store) -> Manifest:
    lines: list[bytes] = []
    assert take_tree(top, store, lines.append).findings == []
    return Manifest.parse(HEADER + b"".join(lines))


def nothing_at(target: Path) -> bool:
    return not [path for path in target.parent.iterdir() if path.name.startswith((target.name, f".{target.name}"))]


def said(manifest: Manifest, kind: str) -> set[tuple[bytes, str]]:
    return {(loss.path, loss.finding) for loss in losses(manifest, kind)}


def add_file(store: Store, content: bytes) -> Entry:
    with Writer(store, 1) as writer:
        digest = writer.add(0, content).hex()
        writer.finish()
    return Entry(b"file", "file", mode=0o644, sha256=digest, size=len(content))


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def lossy(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("plain", "set-id", "1960", "1969", "2200", "labels", "-rf", "new\nline", "x" * 254):
        (source / name).write_text(name)
    (source / "large").write_bytes(b"".join(b"%d\n" % number for number in range(100_000)))
    (source / "noise").write_bytes(os.urandom(200_000))
    (source / "set-id").chmod(0o6755)
    os.chown(source / "plain", 2**31 + 5, 7)
    os.utime(source / "1960", ns=(0, -315_619_200 * SECOND + 5))
    os.utime(source / "1969", ns=(0, -1))
    os.utime(source / "2200", ns=(0, 7_258_118_400 * SECOND))
    os.utime(source / "plain", ns=(0, SECOND + 5))
    (source / "sparse").touch()
    os.truncate(source / "sparse", 10**6)
    os.setxattr(source / "labels", "security.capability", CAPABILITY)
    os.setxattr(source / "labels", "user.empty", b"")
    os.setxattr(source / "labels", "trusted.bytes", bytes(range(256)))
    os.mkfifo(source / "fifo")
    os.mknod(source / "null", 0o020666, os.makedev(1, 3))
    os.link(source / "plain", source / "hard link")
    (source / "symlink").symlink_to("plain")
    os.setxattr(source / "symlink", "trusted.of.link", b"1", follow_symlinks=False)
    (source / "folder").mkdir()
    for name in ("symlink", "fifo", "null"):
        os.link(source / name, source / "folder" / name, follow_symlinks=False)
    return source


def as_squashfs(facts: dict[str, Any], path: bytes) -> dict[str, Any]:
    """Take away just what was said to be lost."""
    seconds = min(max(facts["mtime"] // SECOND, 0), 2**32 - 1) * SECOND
    return facts | {"mtime": seconds} | ({"same_as": (path,)} if "target" in facts else {})


def as_erofs(facts: dict[str, Any], path: bytes) -> dict[str, Any]:
    return facts | ({"mtime": -2 * SECOND} if path == b"1969" else {})


def expect_equal(kind: str, expected: Facts, found: Facts) -> None:
    """Hold an image's tree against its source, as far as the kind holds it; holes are where the reader says."""
    assert found.keys() == expected.keys()
    for path, facts in expected.items():
        kept = as_squashfs(facts, path) if kind == "squashfs" else as_erofs(facts, path)
        assert found[path] | {"data": None} == kept | {"data": None}, path


@EACH
def test_an_image_holds_all_but_what_was_said(
    lossy: Path, tmp_path: Path, place: Path, store: Store, kind: str
) -> None:
    manifest = taken(lossy, store)
    expected = {(b"sparse", "its holes are filled")}
    if kind == "squashfs":
        expected |= {
            (b"1960", "its time is before 1970 or after 2106 and is lost"),
            (b"1969", "its time is before 1970 or after 2106 and is lost"),
            (b"2200", "its time is before 1970 or after 2106 and is lost"),
            (b"symlink", "it is no longer a hard link"),
        }
    else:
        expected.add((b"1969", "its time in the last two seconds of 1969 is lost"))
    assert said(manifest, kind) == expected
    image = tmp_path / "image"
    made = make_image(manifest, store, image, kind)
    assert {(loss.path, loss.finding) for loss in made.lost} == expected
    assert not list(tmp_path.glob(".image*"))
    assert made.bytes == image.stat().st_size
    assert made.sha256 == subprocess.run(["sha256sum", image], capture_output=True, check=True).stdout[:64].decode()
    with mounted(image, place / "mounted") as top:
        expect_equal(kind, look(lossy), look(top))


def test_unsquashfs_lists_and_unpacks_the_same(lossy: Path, tmp_path: Path, store: Store) -> None:
    image = tmp_path / "image"
    make_image(taken(lossy, store), store, image, "squashfs")
    listed = subprocess.run(["unsquashfs", "-lln", "-d", "", image], capture_output=True, check=True).stdout
    rows = re.findall(rb"^([-a-zA-Z]{10}) (\d+)/(\d+) .*? (/[^\n]*?)(?: -> .*)?$", listed, re.MULTILINE)
    assert (b"-rwsr-sr-x", b"0", b"0", b"/set-id") in rows
    assert (b"-rw-r--r--", b"%d" % (2**31 + 5), b"7", b"/plain") in rows
    assert (b"prw-r--r--", b"0", b"0", b"/fifo") in rows
    subprocess.run(["unsquashfs", "-q", "-n", "-d", tmp_path / "unpacked", image], check=True, capture_output=True)
    expect_equal("squashfs", look(lossy), look(tmp_path / "unpacked"))


def test_fsck_erofs_extracts_the_same_but_what_it_does_not_know(lossy: Path, tmp_path: Path, store: Store) -> None:
    """Version 1.5 gives back no attributes, hard links and set-id bits; the mount above shows that they are there."""
    image = tmp_path / "image"
    make_image(taken(lossy, store), store, image, "erofs")
    subprocess.run(["fsck.erofs", f"--extract={tmp_path / 'out'}", image], check=True, capture_output=True)

    def known(facts: dict[str, Any]) -> dict[str, Any]:
        return facts | {"xattrs": None, "same_as": None, "mode": int(facts["mode"], 8) & ~0o6000}

    found = {path: known(facts) for path, facts in look(tmp_path / "out").items()}
    expect_equal("erofs", {path: known(facts) for path, facts in look(lossy).items()}, found)


# --- what a kind can't hold -------------------------------------------------------------------


def with_access_lists(source: Path) -> None:
    (source / "folder").mkdir(parents=True)
    (source / "file").write_text("x")
    os.setxattr(source / "file", "system.posix_acl_access", ACL)
    os.setxattr(source / "folder", "system.posix_acl_default", DEFAULT_ACL)


def test_squashfs_refuses_access_lists_unless_waived(tmp_path: Path, store: Store) -> None:
    with_access_lists(tmp_path / "source")
    manifest = taken(tmp_path / "source", store)
    image = tmp_path / "image"
    with pytest.raises(RefusedError, match=r"file: its system.posix_acl_access is lost, and 1 more") as raised:
        make_image(manifest, store, image, "squashfs")
    assert raised.value.exit_code == 3
    assert nothing_at(image)
    made = make_image(manifest, store, image, "squashfs", waive=True)
    assert [loss.path for loss in made.lost] == [b"file", b"folder"]
    assert image.stat().st_size > 0


def test_erofs_holds_access_lists(tmp_path: Path, place: Path, store: Store) -> None:
    with_access_lists(tmp_path / "source")
    assert make_image(taken(tmp_path / "source", store), store, tmp_path / "image", "erofs").lost == ()
    with mounted(tmp_path / "image", place / "mounted") as top:
        assert look(top)[b"file"]["xattrs"] == {"system.posix_acl_access": ACL}
        assert look(top)[b"folder"]["xattrs"] == {"system.posix_acl_default": DEFAULT_ACL}


def path_of(length: int) -> list[Entry]:
    names = [b"d" * 200] * (length // 201) + ([b"e" * (length % 201)] if length % 201 else [])
    paths = [b"/".join(names[:number]) for number in range(1, len(names) + 1)]
    assert len(paths[-1]) in (length, length - 1)
    return [TOP, *(Entry(path, "dir", mode=0o755) for path in paths)]


@pytest.mark.parametrize(
    ("fits", "too_much", "why"),
    [
        ([TOP, Entry(b"n" * 254, "fifo")], [TOP, Entry(b"n" * 255, "fifo")], "name is longer than 254"),
        (path_of(3800), path_of(3802), "path is longer than 3800"),
    ],
)
def test_what_erofs_can_not_hold_is_refused_and_what_it_can_is_made(
    place: Path, store: Store, fits: list[Entry], too_much: list[Entry], why: str
) -> None:
    make_image(Manifest.of(fits), store, place / "fits", "erofs")
    for waive in (False, True):
        with pytest.raises(RefusedError, match=why) as raised:
            make_image(Manifest.of(too_much), store, place / "image", "erofs", waive=waive)
        assert "--waive" not in raised.value.hint
    assert nothing_at(place / "image")


def test_mkfs_erofs_fails_on_what_is_refused(place: Path) -> None:
    """When this fails, a newer mkfs.erofs can do it: the limit may go."""
    (place / "tree").mkdir()
    (place / "tree" / ("n" * 255)).touch()
    done = subprocess.run(["mkfs.erofs", place / "image", place / "tree"], capture_output=True, check=False)
    assert done.returncode


def test_an_attribute_too_large_for_erofs_is_known(store: Store) -> None:
    large = Manifest.of([TOP, replace(TOP, path=b"d", xattrs=((b"trusted.large", bytes(2**16)),))])
    assert said(large, "erofs") == {(b"d", "its trusted.large is longer than 65535 bytes")}


def test_the_best_kind_loses_nothing_that_matters() -> None:
    lists = ((b"system.posix_acl_access", ACL),)
    long = Entry(b"n" * 255, "fifo")
    assert best_kind(Manifest.of([TOP, Entry(b"f", "fifo", xattrs=lists)])) == "erofs"
    assert best_kind(Manifest.of([TOP, long])) == "squashfs"
    with pytest.raises(RefusedError) as raised:
        best_kind(Manifest.of([TOP, replace(long, xattrs=lists)]))
    assert "erofs: nnn" in raised.value.message
    assert "squashfs: nnn" in raised.value.message
    with pytest.raises(UsageError, match="no image of the kind"):
        losses(Manifest.of([TOP]), "ntfs")


# --- the same bytes ---------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("other_file_system", [False, True])
def test_the_same_snapshot_gives_the_same_bytes_elsewhere(
    lossy: Path,
    tmp_path: Path,
    place: Path,
    store: Store,
    kind: str,
    other_file_system: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In another folder, on a file system that lists names in another order, in another time zone."""
    folder = place / "another"
    folder.mkdir()
    if other_file_system:
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        for name in ("user.empty", "trusted.bytes"):  # it lists the attributes of one file in another order, too
            os.removexattr(lossy / "labels", name)
    manifest = taken(lossy, store)
    first = make_image(manifest, store, tmp_path / "image", kind, verity=True)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    assert make_image(manifest, store, folder / "other name", kind, verity=True) == first
    assert (folder / "other name").read_bytes() == (tmp_path / "image").read_bytes()


@EACH
def test_an_image_has_no_time_but_the_snapshots(lossy: Path, tmp_path: Path, store: Store, kind: str) -> None:
    """What would take the clock's time is the superblock: both say when they were made, which is always the same."""
    make_image(taken(lossy, store), store, tmp_path / "image", kind)
    head = (tmp_path / "image").read_bytes()[: 1024 + 128]
    if kind == "squashfs":
        assert int.from_bytes(head[8:12], "little") == 0  # mkfs_time
    else:
        assert int.from_bytes(head[1024 + 24 : 1024 + 32], "little") == erofs.EPOCH  # build_time


# --- verity -----------------------------------------------------------------------------------


@EACH
def test_a_flipped_byte_is_found_by_veritysetup(lossy: Path, tmp_path: Path, store: Store, kind: str) -> None:
    manifest = taken(lossy, store)
    image = tmp_path / "image"
    made = make_image(manifest, store, image, kind, verity=True)
    assert made.verity_offset % 4096 == 0
    assert image.stat().st_size > made.verity_offset
    words = ["veritysetup", "verify", f"--hash-offset={made.verity_offset}", image, image, made.verity_root_hash]
    subprocess.run(words, check=True, capture_output=True)
    whole = image.read_bytes()
    for place in (0, 1030, made.verity_offset - 1, made.verity_offset + 4096):
        image.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert subprocess.run(words, check=False, capture_output=True).returncode
        with pytest.raises(DamagedError, match="root hash"):
            verity.verify(image, verity.Verity(made.verity_root_hash, made.verity_offset))
    plain = make_image(manifest, store, tmp_path / "plain", kind)
    assert whole.startswith((tmp_path / "plain").read_bytes())
    assert (plain.verity_root_hash, plain.verity_offset) == ("", 0)


# --- failures ---------------------------------------------------------------------------------


@EACH
def test_an_image_that_came_out_wrong_is_not_left(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = {"squashfs": squashfs, "erofs": erofs}[kind]
    real = module.run

    def run(argv: list[str | Path], **options: object) -> object:
        for word in argv:
            if (file := Path(word) / "file").exists():
                file.write_text("something else")
        return real(argv, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "run", run)
    with pytest.raises(DamagedError, match="file"):
        make_image(Manifest.of([TOP, add_file(store, b"content")]), store, tmp_path / "image", kind)
    assert nothing_at(tmp_path / "image")


def test_where_nothing_can_be_mounted_it_says_so(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erofs, "_MOUNT", "echo no loop device here >&2; exit 1")
    with pytest.raises(EnvironmentLacksError, match="no loop device here") as raised:
        make_image(Manifest.of([TOP]), store, tmp_path / "image", "erofs")
    assert "squashfs" in raised.value.hint
    assert nothing_at(tmp_path / "image")


def test_nothing_stays_mounted_after_a_failure(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **more: object) -> None:
        raise DamagedError("as if")

    monkeypatch.setattr(images, "check_tree", fail)
    with pytest.raises(DamagedError, match="as if"):
        make_image(Manifest.of([TOP]), store, tmp_path / "image", "erofs")
    assert nothing_at(tmp_path / "image")
    losetup = subprocess.run(["losetup", "--list", "--output", "BACK-FILE"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in losetup.stdout


@EACH
def test_the_command_line_makes_it_and_tells_the_root_hash(site: Site, tmp_path: Path, kind: str) -> None:
    top = add_prototype(site)
    with_access_lists(top)
    subprocess.run(statelesskit(site, "snapshot", "take", "desktop"), check=True, capture_output=True)
    (name,) = (path.name for path in site.snapshots.iterdir())
    argv = statelesskit(site, "export", kind, name, tmp_path / "image", "--verity", "--json")
    done = subprocess.run(argv, capture_output=True, check=False)
    if kind == "squashfs":
        assert done.returncode == 3
        done = subprocess.run([*argv, "--waive"], capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert told["bytes"] == (tmp_path / "image").stat().st_size
    assert len(told["findings"]) == (2 if kind == "squashfs" else 0)
    words = ["veritysetup", "verify", f"--hash-offset={told['verity_offset']}", *[tmp_path / "image"] * 2]
    subprocess.run([*words, told["verity_root_hash"]], check=True, capture_output=True)
