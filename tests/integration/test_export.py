"""Exports: equal in every field or not there at all, whatever the manifest, the store or the target are like."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import (
    DamagedError,
    ExistsError,
    FormatError,
    NoSpaceError,
    NotFoundError,
    StatelessError,
)
from statelesskit.export import tree
from statelesskit.export.compare import compare
from statelesskit.export.images import make_image
from statelesskit.export.tree import export_tree
from statelesskit.manifest import HEADER, Entry, Manifest
from statelesskit.store import Store, Writer
from statelesskit.take import take_tree
from statelesskit.write_tree import write_tree
from tests.torture import DEFAULT_ACL, add_prototype, scratch, statelesskit
from tests.witness import look

pytestmark = pytest.mark.root
TOP = Entry(b"", "dir", mode=0o755)


def export_squashfs(manifest: Manifest, store: Store, target: Path) -> None:
    make_image(manifest, store, target, "squashfs")


def export_erofs(manifest: Manifest, store: Store, target: Path) -> None:
    make_image(manifest, store, target, "erofs", verity=True)


EXPORTS = [export_tree, export_squashfs, export_erofs]


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, content: bytes) -> str:
    with Writer(store, 1) as writer:
        digest = writer.add(0, content)
        writer.finish()
    return digest.hex()


def file(store: Store, path: bytes, content: bytes, **fields: object) -> Entry:
    return replace(Entry(path, "file", mode=0o644, sha256=put(store, content), size=len(content)), **fields)


def taken(top: Path, store: Store) -> Manifest:
    lines: list[bytes] = []
    assert take_tree(top, store, lines.append).findings == []
    return Manifest.parse(HEADER + b"".join(lines))


def nothing_at(target: Path) -> bool:
    return not [path for path in target.parent.iterdir() if path.name.startswith((target.name, f".{target.name}"))]


# --- tree -------------------------------------------------------------------------------------


def test_a_tree_is_equal_and_stays_so_when_exported_again(tmp_path: Path, store: Store) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("x")
    os.setxattr(source, "user.top", b"1")
    os.utime(source, ns=(0, -5))
    source.chmod(0o2711)
    os.chown(source, 5, 6)
    manifest = taken(source, store)
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be there
    assert export_tree(manifest, store, out, reread=True) == []
    assert look(out) == look(source)
    with pytest.raises(ExistsError):
        export_tree(manifest, store, out)
    assert export_tree(taken(out, store), store, tmp_path / "again") == []
    assert look(tmp_path / "again") == look(source)


def test_what_the_folder_above_hands_down_is_not_in_the_tree(tmp_path: Path, store: Store) -> None:
    source, above = tmp_path / "source", tmp_path / "above"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("x")
    above.mkdir()
    os.setxattr(above, "system.posix_acl_default", DEFAULT_ACL)
    os.chown(above, 0, 33)
    above.chmod(0o2770)
    export_tree(taken(source, store), store, above / "out")
    assert look(above / "out") == look(source)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.write_text("x"), ExistsError),
        (lambda path: path.symlink_to("nowhere"), ExistsError),
        (lambda path: path.symlink_to("."), ExistsError),
        (lambda path: (path / "below").mkdir(parents=True), ExistsError),
        (lambda path: os.mkfifo(path), ExistsError),
    ],
)
@pytest.mark.parametrize("export", EXPORTS)
def test_a_target_that_is_taken_is_refused(
    tmp_path: Path,
    store: Store,
    make: Callable[[Path], object],
    error: type[StatelessError],
    export: Callable[..., object],
) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in/target")
    before = look(tmp_path / "in")
    with pytest.raises(error, match="already there"):
        export(Manifest.of([TOP]), store, tmp_path / "in/target")
    assert look(tmp_path / "in") == before


@pytest.mark.parametrize("export", EXPORTS)
def test_a_target_without_a_folder_above_is_refused(
    tmp_path: Path, store: Store, export: Callable[..., object]
) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        export(Manifest.of([TOP]), store, tmp_path / "in/target")


def test_a_mount_point_is_refused_before_anything_is_written(place: Path, store: Store) -> None:
    (place / "mount").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place / "mount"], check=True)
    with pytest.raises(ExistsError, match="mounted"):
        export_tree(Manifest.of([TOP]), store, place / "mount")


def test_an_image_does_not_replace_an_empty_folder(tmp_path: Path, store: Store) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(ExistsError, match="is a folder"):
        export_erofs(Manifest.of([TOP]), store, tmp_path / "target")


@pytest.mark.parametrize("export", EXPORTS)
def test_what_would_not_fit_is_refused_before(tmp_path: Path, store: Store, export: Callable[..., object]) -> None:
    huge = Manifest.of([TOP, Entry(b"f", "file", sha256="ab" * 32, size=2**60)])
    with pytest.raises(NoSpaceError, match="MB are free") as raised:
        export(huge, store, tmp_path / "out")
    assert raised.value.exit_code == 8
    assert nothing_at(tmp_path / "out")
    sparse = file(store, b"f", bytes(2**20), holes=((0, 2**20),))
    export_tree(Manifest.of([TOP, replace(sparse, size=2**20)]), store, tmp_path / "out")


def test_a_disk_that_fills_up_leaves_nothing(place: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place / "small"], check=True)
    # With a hole in it, so that it is written piece by piece.
    content = b"x" * 900_000 + bytes(8192) + os.urandom(2 * 2**20)
    entry = file(store, b"f", content, holes=((901_120, 4096),))
    monkeypatch.setattr(tree, "check_space", lambda *args, **more: None)
    with pytest.raises(NoSpaceError):
        export_tree(Manifest.of([TOP, entry]), store, place / "small/out")
    assert list((place / "small").iterdir()) == []


@pytest.mark.parametrize("export", EXPORTS)
def test_wrong_content_is_never_left_at_the_target(tmp_path: Path, store: Store, export: Callable[..., object]) -> None:
    good, other = file(store, b"a", b"good"), put(store, b"other")
    wrong = [
        Entry(b"b", "file", sha256="00" * 32, size=1),  # not in the store
        Entry(b"b", "file", sha256=other, size=4),  # of another length
    ]
    if export is export_tree:  # an image has no holes, and gets what the digest says
        wrong.append(Entry(b"b", "file", sha256=put(store, b"data" * 2000), size=8000, holes=((0, 4096),)))
    for bad in wrong:
        manifest = Manifest.parse(HEADER + TOP.encode() + good.encode() + bad.encode())
        with pytest.raises(DamagedError) as raised:
            export(manifest, store, tmp_path / "out")
        assert raised.value.exit_code == 9
        assert nothing_at(tmp_path / "out")


def test_a_flipped_byte_in_the_store_is_never_left_at_the_target(tmp_path: Path, store: Store) -> None:
    entry = file(store, b"a", hashlib.shake_128(b"noise").digest(600_000))
    (pack,) = store.packs.iterdir()
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[300_000] ^= 1
    pack.write_bytes(data)
    with pytest.raises(DamagedError, match="damaged"):
        export_tree(Manifest.of([TOP, entry]), Store(tmp_path / "store"), tmp_path / "out")
    assert nothing_at(tmp_path / "out")


def test_reread_sees_what_the_disk_made_of_it(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent error of the disk: the bytes change after they were written and hashed."""
    manifest = Manifest.of([TOP, file(store, b"a", b"as it was")])

    def written(*args: object) -> None:
        write_tree(*args)  # type: ignore[arg-type]
        path = next(tmp_path.glob(f".out{fs.PARTIAL}*")) / "a"
        times = path.stat()
        path.write_bytes(b"as it is.")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    monkeypatch.setattr(tree, "write_tree", written)
    with pytest.raises(DamagedError, match="sha256"):
        export_tree(manifest, store, tmp_path / "out", reread=True)
    assert nothing_at(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda path: path.chmod(0o600), "mode"),
        (lambda path: os.chown(path, 7, 0), "uid"),
        (lambda path: os.chown(path, 0, 7), "gid"),
        (lambda path: os.utime(path, ns=(0, 1)), "mtime_ns"),
        (lambda path: os.setxattr(path, "user.more", b""), "xattrs"),
        (lambda path: os.truncate(path, 3), "size"),
        (lambda path: path.unlink(), "path"),
        (lambda path: (path.parent / "extra").symlink_to("x"), "path"),
        (lambda path: (path.unlink(), path.symlink_to("x")), "type"),
        (lambda path: (path.unlink(), os.link(path.parent / "other", path)), "type"),
    ],
)
def test_any_difference_is_found(tmp_path: Path, store: Store, change: Callable[[Path], object], field: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a file", "other"):
        (source / name).write_text("four")
    manifest = taken(source, store)
    assert list(compare(manifest, source, reread=True)) == []
    change(source / "a file")
    found = [mismatch for mismatch in compare(manifest, source, reread=False) if mismatch.path != b""]
    assert field in {name for mismatch in found for name in mismatch.fields}


def test_hard_links_deep_below_are_found_again(place: Path, store: Store) -> None:
    """More folders than are kept open lie between the names of one file."""
    deep = b"/".join([b"d"] * 300)
    entries = [TOP, *(Entry(b"/".join([b"d"] * n), "dir", mode=0o755) for n in range(1, 301))]
    entries.append(file(store, deep + b"/a", b"deep"))
    entries += [Entry(deep + b"/b", "link", link_to=deep + b"/a"), Entry(b"e", "dir", mode=0o755)]
    entries += [Entry(b"/".join([b"e"] * n), "dir", mode=0o755) for n in range(2, 301)]
    entries.append(Entry(b"/".join([b"e"] * 300) + b"/c", "link", link_to=deep + b"/a"))
    export_tree(Manifest.parse(HEADER + b"".join(entry.encode() for entry in entries)), store, place / "out")
    (names,) = {facts["same_as"] for facts in look(place / "out").values() if "same_as" in facts}
    assert len(names) == 3


def hostile(store: Store) -> list[list[Entry]]:
    here = file(store, b"evil", b"evil")
    return [
        [TOP, replace(here, path=b"../evil")],
        [TOP, replace(here, path=b"a/../../evil")],
        [TOP, Entry(b"a", "dir"), replace(here, path=b"a/../../evil")],
        [TOP, Entry(b"a", "symlink", target=b".."), replace(here, path=b"a/evil")],
        [TOP, Entry(b"a", "symlink", target=b".."), Entry(b"a/evil", "dir")],
        [TOP, Entry(b"a", "symlink", target=b".."), Entry(b"a/evil", "fifo")],
        [TOP, Entry(b"a", "symlink", target=b"../victim"), Entry(b"a", "dir", mode=0o777)],
        [TOP, here, Entry(b"f", "link", link_to=b"../victim")],
        [TOP, here, Entry(b"f", "link", link_to=b"/etc/passwd")],
        [TOP, Entry(b"a", "symlink", target=b"../victim"), replace(here, path=b"a")],
    ]


@pytest.mark.parametrize("number", range(10))
def test_a_hostile_manifest_writes_nothing_outside(
    place: Path, store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = hostile(store)[number]
    (place / "victim").write_text("untouched")
    before = look(place)
    text = HEADER + b"".join(entry.encode() for entry in entries)
    with pytest.raises(FormatError):
        Manifest.parse(text)
    for export in EXPORTS:
        with pytest.raises(StatelessError):
            export(Manifest.parse_header(text), store, place / "out")
    # Even if the manifest had got past its checks, nothing is followed on the way to where a file goes.
    monkeypatch.setattr("statelesskit.manifest._check_place", lambda *args: None)
    with fs.work_folder(place / "out") as work:
        (work / "top").mkdir()
        if number > 2:
            with pytest.raises((StatelessError, OSError)):
                write_tree(Manifest.parse_header(text), store, work / "top")
            assert {path.name for path in work.iterdir()} == {"top"}
    now = look(place)
    del now[b""], before[b""]
    assert now == before


AS_NOBODY = """
import os, sys
from pathlib import Path
from statelesskit.errors import PermissionNeededError
from statelesskit.export.images import make_image
from statelesskit.export.tree import export_tree
from statelesskit.manifest import Entry, Manifest
from statelesskit.store import Store
os.setgroups([]); os.setgid(65534); os.setuid(65534)
place = Path(sys.argv[1])
manifest = Manifest.of([Entry(b"", "dir", mode=0o755), Entry(b"closed", "dir"), Entry(b"closed/x", "dir", uid=1)])
for kind in ("tree", "squashfs", "erofs"):
    try:
        if kind == "tree":
            export_tree(manifest, Store(place / "store"), place / "out")
        else:
            make_image(manifest, Store(place / "store"), place / "out", kind)
    except PermissionNeededError as error:
        print(error.hint)
"""


def test_without_root_it_says_so_and_leaves_nothing(place: Path) -> None:
    import sys

    place.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, place], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.count("root only") == 3
    assert list(place.iterdir()) == []


def test_the_command_line_exports_and_says_it_is_equal(site: Site, tmp_path: Path) -> None:
    top = add_prototype(site)
    top.mkdir()
    (top / "file").write_text("x")
    subprocess.run(statelesskit(site, "snapshot", "take", "desktop"), check=True, capture_output=True)
    (name,) = (path.name for path in site.snapshots.iterdir())
    argv = statelesskit(site, "export", "tree", name, tmp_path / "out", "--json")
    done = subprocess.run(argv, capture_output=True, check=True)
    assert json.loads(done.stdout)["equal"] is True
    assert look(tmp_path / "out") == look(top)
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 2


# --- killed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tree", "squashfs", "erofs"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_is_stopped_in_the_middle_leaves_nothing_half_made(
    site: Site, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    top = add_prototype(site)
    top.mkdir()
    for name in range(40):
        (top / f"noise{name}").write_bytes(os.urandom(2 * 2**20))
    subprocess.run(statelesskit(site, "snapshot", "take", "desktop"), check=True, capture_output=True)
    (name,) = (path.name for path in site.snapshots.iterdir())
    out = tmp_path / "in/out"
    out.parent.mkdir()
    argv = statelesskit(site, "export", kind, name, out)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while len(list(out.parent.glob(f".out{fs.PARTIAL}*/**/*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert not out.exists()
    assert b"Traceback" not in err
    if number == signal.SIGINT:
        assert process.returncode == 143
        assert list(out.parent.iterdir()) == []
    # What was killed is cleaned up by the next one; what still lives is not.
    with fs.work_folder(out) as living:
        (living / "x").touch()
        subprocess.run(argv, check=True, capture_output=True)
        assert (living / "x").exists()
        assert {path.name for path in out.parent.iterdir()} == {"out", living.name}
    if kind == "tree":
        assert look(out) == look(top)
