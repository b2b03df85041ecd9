from __future__ import annotations

import io
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from statelesskit.config import Site
from statelesskit.errors import CommandError, ExistsError, NoSpaceError, RefusedError, UsageError
from statelesskit.progress import Progress
from statelesskit.prototype import sources
from statelesskit.prototype.create import create
from statelesskit.run import find_tool
from statelesskit.tree import Finding

pytestmark = pytest.mark.root


def describe(tree: Path) -> dict[bytes, tuple[Any, ...]]:
    """Say everything about every name in a tree but its times of access and change."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(tree)
    found[b"/"] = _describe(top, first)
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[path.removeprefix(top)] = _describe(path, first)
    return found


def _describe(path: bytes, first: dict[tuple[int, int], bytes]) -> tuple[Any, ...]:
    info = os.lstat(path)
    content: object = None
    if stat.S_ISLNK(info.st_mode):
        content = Path(os.fsdecode(path)).readlink()
    elif stat.S_ISREG(info.st_mode):
        content = Path(os.fsdecode(path)).read_bytes()
    same_as = first.setdefault((info.st_dev, info.st_ino), path.rpartition(b"/")[2])
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)}
    size = info.st_size if content is not None else 0
    return (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_rdev, size, same_as, xattrs, content)


def _xattrs(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def small_root(tree: Path) -> Path:
    for name in ("etc", "usr/bin", "proc", "sys", "dev", "run", "tmp"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=test\n")
    return tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return small_root(tmp_path / "tree")


@pytest.fixture
def awkward(tree: Path) -> Path:
    """A root tree with one of everything a file system can hold."""
    none = 2**32 - 1
    entries = [(1, 6, none), (2, 4, 1234), (4, 4, none), (16, 4, none), (32, 0, none)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    file = tree / "usr/bin/ping"
    file.write_bytes(b"\x7fELF")
    os.chown(file, 1001, 1002)
    file.chmod(0o4755)
    os.setxattr(file, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))
    os.setxattr(file, "user.note", b"\0\xff")
    os.setxattr(file, "trusted.mark", b"yes")
    os.setxattr(tree / "etc/os-release", "system.posix_acl_access", acl)
    os.setxattr(tree / "etc", "system.posix_acl_default", acl)
    os.setxattr(tree / "etc", "user.on-a-folder", b"1")
    os.link(file, tree / "usr/bin/ping4")
    (tree / "bin").symlink_to("usr/bin")
    os.lchown(tree / "bin", 5, 6)
    os.link(tree / "bin", tree / "bin2", follow_symlinks=False)
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tree / "socket"))
    with (tree / "sparse").open("wb") as sparse:
        sparse.truncate(50_000_000)
    Path(os.fsdecode(os.fsencode(tree) + b"/etc/\xff\n'\xfe")).write_text("name")
    os.utime(tree / "etc/os-release", ns=(0, -123_456_789))
    os.utime(tree / "bin", ns=(0, 987_654_321), follow_symlinks=False)
    os.utime(tree / "etc", ns=(0, 1_234_567_891))
    tree.chmod(0o711)
    os.utime(tree, ns=(0, 1_111_111_111))
    return tree


def test_a_copied_tree_loses_nothing(site: Site, awkward: Path) -> None:
    made = create(site, "desktop", f"dir:{awkward}")
    assert made.tree == site.prototypes / "desktop/tree"
    assert describe(made.tree) == describe(awkward)
    assert (made.tree / "sparse").stat().st_blocks < 100
    assert stat.S_IMODE((site.prototypes / "desktop").stat().st_mode) == 0o755


@pytest.mark.parametrize("options", [[], ["--gzip"], ["--xz"]])
def test_an_archive_loses_nothing(site: Site, awkward: Path, tmp_path: Path, options: list[str]) -> None:
    (awkward / "socket").unlink()  # tar keeps no sockets
    archive = tmp_path / "host:tree.tar"
    keep = ["--format=posix", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse"]
    subprocess.run(["tar", "-c", "--force-local", *options, *keep, f"-f{archive}", f"-C{awkward}", "."], check=True)
    made = create(site, "desktop", f"tar:{archive}")
    assert describe(made.tree) == describe(awkward)


def archive_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in ("etc", "usr"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for member in members:
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def test_nothing_in_an_archive_is_written_outside_the_tree(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    up = "../" * 20
    for number, members in enumerate(
        [
            [member(f"{outside}/absolute")],
            [member(f"{up}{outside}/dots")],
            [member("way", tarfile.SYMTYPE, str(outside)), member("way/through")],
            [member("way", tarfile.SYMTYPE, f"{up}{outside}"), member("way/through")],
            [member("a", tarfile.SYMTYPE, "."), member("a/b", tarfile.SYMTYPE, f"../{up}{outside}"), member("b/c")],
            [member("kept", tarfile.SYMTYPE, f"{outside}/kept"), member("kept")],
            [member("hard", tarfile.LNKTYPE, f"{outside}/kept"), member("hard")],
            [member("etc", tarfile.SYMTYPE, str(outside)), member("etc/passwd")],
        ]
    ):
        name = f"p{number}"
        try:
            made = create(site, name, f"tar:{archive_of(tmp_path / f'{name}.tar', *members)}")
            assert made.tree.is_dir()
        except (CommandError, UsageError):
            assert not list(site.prototypes.glob(f"*{name}*"))
        assert [path.name for path in outside.iterdir()] == ["kept"]
        assert (outside / "kept").read_text() == "kept"


def test_what_is_no_archive_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("no archive")
    with pytest.raises(CommandError, match="tar archive"):
        create(site, "desktop", f"tar:{tmp_path / 'x.tar'}")
    with pytest.raises(UsageError, match="no archive"):
        create(site, "desktop", f"tar:{tmp_path}")
    assert list(site.prototypes.iterdir()) == []


def test_an_archive_with_no_root_tree_leaves_nothing(site: Site, tmp_path: Path, tree: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tree, "rootfs")
    with pytest.raises(UsageError, match="found rootfs"):
        create(site, "desktop", f"tar:{tmp_path / 'x.tar'}")
    assert list(site.prototypes.iterdir()) == []


def test_the_site_is_not_copied_into_itself(site: Site) -> None:
    small_root(site.root / "prototypes/x")
    for path in (site.root, site.root / "prototypes/x", Path("/")):
        with pytest.raises((RefusedError, UsageError)):
            create(site, "desktop", f"dir:{path}")


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", site.prototypes], check=True)
    yield site.prototypes
    subprocess.run(["umount", site.prototypes], check=True)


def test_a_tree_with_a_mount_inside_is_not_copied(site: Site, tree: Path) -> None:
    (tree / "a b").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree / "a b"], check=True)
    try:
        with pytest.raises(RefusedError, match=r"mounted inside .*a b"):
            create(site, "desktop", f"dir:{tree}")
    finally:
        subprocess.run(["umount", tree / "a b"], check=True)


def test_a_tree_that_does_not_fit_is_not_begun(site: Site, tree: Path, small_disk: Path) -> None:
    (tree / "big").write_bytes(os.urandom(6_000_000))
    with pytest.raises(NoSpaceError, match="only 4 MB are free"):
        create(site, "desktop", f"dir:{tree}")
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_leaves_nothing(site: Site, tree: Path, small_disk: Path, tmp_path: Path) -> None:
    (tree / "big").write_bytes(os.urandom(6_000_000))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tree, ".")
    with pytest.raises(NoSpaceError, match="nothing half-made was left"):
        create(site, "desktop", f"tar:{tmp_path / 'x.tar'}")
    assert list(small_disk.iterdir()) == []


def test_a_taken_name_is_refused_and_left_alone(site: Site, tree: Path) -> None:
    made = create(site, "desktop", f"dir:{tree}")
    with pytest.raises(ExistsError):
        create(site, "desktop", f"dir:{tree}")
    assert made.tree.is_dir()


CREATE_SLOWLY = """
import sys
from dataclasses import replace
from pathlib import Path
from statelesskit.config import load_site
from statelesskit.prototype import sources
from statelesskit.prototype.create import create
from statelesskit.prototype.source import run_to_the_end

def build(argument, tree, progress):
    folder.build(argument, tree, progress)
    print("copied", flush=True)
    run_to_the_end(["tail", "--follow", f"{tree}/etc/os-release"], progress)
    return []

folder = sources.SOURCES["dir"]
sources.SOURCES["dir"] = replace(folder, build=build)
create(load_site(Path(sys.argv[1])), "desktop", f"dir:{sys.argv[2]}")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_creation_cut_short_leaves_nothing(site: Site, tree: Path, number: signal.Signals) -> None:
    neighbour = site.prototypes / ".desktop.partial-x.partial-01234567"
    neighbour.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", CREATE_SLOWLY, site.root, tree], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"copied\n"
        process.send_signal(number)
        assert process.wait(timeout=5) != 0
    wait_until_gone(f"{site.prototypes}/.desktop")
    left = sorted(path.name for path in site.prototypes.iterdir())
    if number == signal.SIGINT:
        assert left == [neighbour.name]
    else:
        assert len(left) == 2
        create(site, "desktop", f"dir:{tree}")
        assert sorted(path.name for path in site.prototypes.iterdir()) == [neighbour.name, "desktop"]


def wait_until_gone(argument: str) -> None:
    """Wait until no process has an argument that holds this text."""
    for _ in range(100):
        if not processes_with(argument):
            return
        time.sleep(0.02)
    pytest.fail(f"still running: {processes_with(argument)}")


def processes_with(argument: str) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if argument.encode() in words:
            found.append(words)
    return found


def test_what_the_program_says_is_shown(site: Site, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Progress):
        lines: list[str]

        def say(self, line: str) -> None:
            self.lines.append(line)

    def build(argument: str, tree: Path, progress: Progress) -> list[Finding]:
        from statelesskit.prototype.source import run_to_the_end

        run_to_the_end(["cp", "--archive", "--verbose", "/nowhere", tree], progress)
        return []

    monkeypatch.setitem(sources.SOURCES, "dir", replace(sources.SOURCES["dir"], build=build))
    told = Told()
    told.lines = []
    with pytest.raises(CommandError) as failed:
        create(site, "desktop", f"dir:{tree}", progress=told)
    assert failed.value.argv[0] == find_tool("cp")
    assert "/nowhere" in told.lines[0]
