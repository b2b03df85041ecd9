"""Discs: the parts that firmware and kernel look for are where they look, the same bytes every time, all read again.

That they boot is shown in tests/system. Here the kernel is a file of any content: a disc needs no Debian to be made.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.boot.initrd import BootFiles
from statelesskit.errors import DamagedError, ExistsError, RefusedError, UsageError
from statelesskit.export import iso
from statelesskit.export.iso import make_iso, medium_bytes
from statelesskit.manifest import HEADER, Entry, Manifest
from statelesskit.progress import Progress
from statelesskit.store import Store
from statelesskit.take import take_tree
from tests.torture import ACL, scratch

pytestmark = pytest.mark.root
NAME = "desktop-20261123T073000Z"
TOP = Entry(b"", "dir", mode=0o755)


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def manifest(tmp_path: Path, store: Store) -> Manifest:
    source = tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    (source / "etc/os-release").write_text("ID=debian\n")
    lines: list[bytes] = []
    take_tree(source, store, lines.append)
    return Manifest.parse(HEADER + b"".join(lines))


@pytest.fixture
def boot_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(tree: Path, dest: Path, progress: Progress) -> BootFiles:
        assert (tree / "etc/os-release").is_file()
        (dest / "vmlinuz").write_bytes(b"kernel" * 1000)
        (dest / "initrd.img").write_bytes(b"initrd" * 1000)
        return BootFiles("6.1", dest / "vmlinuz", dest / "initrd.img")

    monkeypatch.setattr(iso, "build_boot_files", build)


def said(*argv: str | Path) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("boot_files")
@pytest.mark.parametrize("kind", ["erofs", "squashfs"])
def test_a_disc_holds_what_boots_and_says_what_it_is(
    manifest: Manifest, store: Store, tmp_path: Path, place: Path, kind: str
) -> None:
    target = tmp_path / "disc.iso"
    disc = make_iso(manifest, store, target, NAME, kind, append=["console=ttyS0"])
    assert disc.bytes == target.stat().st_size
    assert said("sha256sum", target).startswith(disc.sha256)
    assert not list(tmp_path.glob(".disc*"))
    records = said("xorriso", "-indev", target, "-report_el_torito", "plain", "-report_system_area", "plain")
    assert re.search(r"El Torito boot img :\s+1\s+BIOS\s+y", records)
    assert re.search(r"El Torito boot img :\s+2\s+UEFI\s+y", records)
    assert "grub2-mbr" in records
    assert re.search(r"GPT type GUID\s+:\s+2\s+28732ac11ff8d211ba4b00a0c93ec93b", records)  # an EFI system partition
    assert target.read_bytes()[510:512] == b"\x55\xaa"

    top = place / "read"
    top.mkdir()
    subprocess.run(["bsdtar", "-xf", target, "-C", top], check=True)  # reads ISO 9660, and shares no code with xorriso
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=top, check=True, capture_output=True)
    about = json.loads((top / f"statelesskit/{manifest.digest.removeprefix('sha256:')}.json").read_bytes())
    assert about == {"abi": 1, "snapshot": NAME, "digest": manifest.digest, "arguments": list(disc.arguments)}
    menu = (top / "boot/grub/grub.cfg").read_text()
    assert f"linux /boot/vmlinuz {' '.join(disc.arguments)}\n" in menu
    assert f"sk.root=live:{disc.label} " in menu
    assert disc.arguments[-1] == "console=ttyS0"
    assert said("blkid", "-o", "value", "-s", "LABEL", target).strip() == disc.label
    image = top / f"statelesskit/root.{kind}"
    words = ["veritysetup", "verify", f"--hash-offset={disc.image.verity_offset}", image, image]
    subprocess.run([*words, disc.image.verity_root_hash], check=True)
    below = place / "root"
    below.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", image, below], check=True)
    assert (below / "etc/os-release").read_text() == "ID=debian\n"


@pytest.mark.usefixtures("boot_files")
def test_the_same_snapshot_gives_the_same_disc(
    manifest: Manifest, store: Store, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_iso(manifest, store, tmp_path / "disc.iso", NAME, "erofs")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    subprocess.run(["sleep", "2.1"], check=True)  # FAT counts two seconds
    assert make_iso(manifest, store, place / "other.iso", NAME, "erofs") == first
    assert (place / "other.iso").read_bytes() == (tmp_path / "disc.iso").read_bytes()


@pytest.mark.usefixtures("boot_files")
def test_what_does_not_fit_on_the_medium_is_refused(manifest: Manifest, store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(RefusedError, match="the medium holds 5 MB"):
        make_iso(manifest, store, tmp_path / "in/disc.iso", NAME, "erofs", medium="5000000")
    assert list((tmp_path / "in").iterdir()) == []
    make_iso(manifest, store, tmp_path / "in/disc.iso", NAME, "erofs", medium="cd")


def test_a_medium_is_a_name_or_a_number() -> None:
    assert (medium_bytes("cd"), medium_bytes("dvd"), medium_bytes("123")) == (737_280_000, 4_700_372_992, 123)
    for bad in ("", "0", "-1", "1e9", "floppy", "٣"):
        with pytest.raises(UsageError, match="no medium"):
            medium_bytes(bad)


def _taken(target: Path) -> None:
    target.write_text("x")


@pytest.mark.parametrize(
    ("make", "options", "error"),
    [
        (_taken, {}, ExistsError),
        (Path.mkdir, {}, ExistsError),
        (lambda _: None, {"append": ["a b"]}, UsageError),
        (lambda _: None, {"append": ["x;reboot"]}, UsageError),
        (lambda _: None, {"append": ["$x"]}, UsageError),
        (lambda _: None, {"append": ["x\n"]}, UsageError),
        (lambda _: None, {"medium": "floppy"}, UsageError),
        (lambda _: None, {"kind": "ntfs"}, UsageError),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(
    manifest: Manifest,
    store: Store,
    tmp_path: Path,
    make: Callable[[Path], object],
    options: dict[str, object],
    error: type[Exception],
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder / "disc.iso")
    before = sorted(folder.iterdir())
    with pytest.raises(error):
        make_iso(manifest, store, folder / "disc.iso", NAME, **{"kind": "erofs"} | options)  # type: ignore[arg-type]
    assert sorted(folder.iterdir()) == before


@pytest.mark.usefixtures("boot_files")
def test_access_lists_are_refused_before_anything_is_made(store: Store, tmp_path: Path) -> None:
    lists = Manifest.of([TOP, Entry(b"f", "fifo", xattrs=((b"system.posix_acl_access", ACL),))])
    with pytest.raises(RefusedError, match="squashfs can't hold"):
        make_iso(lists, store, tmp_path / "disc.iso", NAME, "squashfs")


@pytest.mark.usefixtures("boot_files")
def test_a_disc_that_came_out_wrong_is_not_left(
    manifest: Manifest, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = iso._write_disc

    def write(work: Path, content: Path, disc: Path, label: str, seed: str) -> None:
        (content / "boot/vmlinuz").write_bytes(b"another" * 1000)
        real(work, content, disc, label, seed)

    monkeypatch.setattr(iso, "_write_disc", write)
    with pytest.raises(DamagedError, match="vmlinuz"):
        make_iso(manifest, store, tmp_path / "disc.iso", NAME, "erofs")
    assert not list(tmp_path.glob(f"*disc*{fs.PARTIAL}*"))
    assert not (tmp_path / "disc.iso").exists()
