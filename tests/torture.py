"""A tree with everything in it that a file system of Linux can hold and somebody might forget."""

# Paths of trees are bytes, and names are used in open folders; pathlib knows neither.
# ruff: noqa: PTH101, PTH102, PTH103, PTH123

from __future__ import annotations

import json
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from statelesskit.audit.keys import create_record_key
from statelesskit.config import Site
from statelesskit.fs import remove_tree

DEEP = 3000  # levels
SECOND = 1_000_000_000
LONG = b"\xc3\xa9" * 127 + b"x"  # 255 bytes
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # linux/capability.h: cap_net_bind_service+ep


def acl(*entries: tuple[int, int, int]) -> bytes:
    """linux/posix_acl_xattr.h: version 2, then tag, permissions and id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACL = acl((1, 6, NOBODY), (2, 4, 65534), (4, 4, NOBODY), (8, 7, 12345), (16, 7, NOBODY), (32, 0, NOBODY))
DEFAULT_ACL = acl((1, 7, NOBODY), (2, 5, 33), (4, 5, NOBODY), (16, 5, NOBODY), (32, 5, NOBODY))


def build(top: Path) -> None:
    """Fill ``top``, which is not there yet; needs root."""
    top.mkdir()
    _types(top)
    _modes_and_owners(top)
    _contents(top)
    _names(top)
    _attributes(top)
    _hard_links(top)
    _long_path(top, b"long", [LONG] * 20)
    _long_path(top, b"deep", [b"d"] * DEEP)
    _times(top)


def _types(top: Path) -> None:
    here = top / "types"
    here.mkdir()
    (here / "file").write_text("a file")
    (here / "symlink").symlink_to("nowhere/at all")
    (here / "symlink to a folder").symlink_to("..")
    (here / "long symlink").symlink_to("x/" * 2000)
    os.mkfifo(here / "fifo")
    os.mknod(here / "char", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    os.mknod(here / "block", stat.S_IFBLK | 0o600, os.makedev(259, 300_000))
    os.mknod(here / "whiteout", stat.S_IFCHR, 0)
    folder = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"/proc/self/fd/{folder}/socket")  # the address of a socket holds 108 bytes only
    os.close(folder)
    os.chmod(here / "socket", 0o666)


def _modes_and_owners(top: Path) -> None:
    here = top / "modes"
    here.mkdir()
    for mode in (0o000, 0o001, 0o400, 0o644, 0o777, 0o2755, 0o4755, 0o6711, 0o1644, 0o7777):
        (here / f"file {mode:o}").write_text("x")
        (here / f"folder {mode:o}").mkdir()
        (here / f"folder {mode:o}/inside").write_text("y")
        for uid, gid in ((65534, 0), (0, 65534), (2**31 + 5, 2**32 - 2)):
            (here / f"file {mode:o} {uid}").write_text("z")
            os.chown(here / f"file {mode:o} {uid}", uid, gid)
            os.chmod(here / f"file {mode:o} {uid}", mode)
        os.chmod(here / f"file {mode:o}", mode)
        os.chmod(here / f"folder {mode:o}", mode)
    (here / "link").symlink_to("file 0")
    os.chown(here / "link", 2**31 + 5, 7, follow_symlinks=False)


def _contents(top: Path) -> None:
    here = top / "contents"
    here.mkdir()
    noise = random.Random(5)
    for size in (0, 1, 4095, 4096, 256 * 1024, 4 * 2**20 - 1, 4 * 2**20, 4 * 2**20 + 1):
        (here / f"{size} bytes").write_bytes(noise.randbytes(size))
    (here / "large").write_bytes(noise.randbytes(11_000_003))
    for name in ("equal", "equal again"):
        (here / name).write_bytes(b"equal" * 1000)
    (here / "large again").write_bytes((here / "large").read_bytes())
    _sparse(here / "hole at the start", 3 * 2**20, (2**20, b"data"))
    _sparse(here / "hole in the middle", 9 * 2**20, (0, b"a" * 5000), (8 * 2**20 + 17, b"b" * 70_000))
    _sparse(here / "hole at the end", 200_000, (0, b"data"))
    _sparse(here / "many holes", 5 * 2**20, *((n * 65536, b"!" * 100) for n in range(80)))
    _sparse(here / "only a hole", 50 * 2**20)
    _sparse(here / "only a small hole", 100)
    # As many blocks as it is long: the attribute takes some, and so does what lies beyond the end.
    _sparse(here / "hole behind an attribute", 8192, (4096, b"x" * 4096))
    os.setxattr(here / "hole behind an attribute", "trusted.large", bytes(range(256)) * 12)
    _sparse(here / "hole and room to grow", 64 * 1024, (0, b"x" * 4096))
    beyond = ["fallocate", "--keep-size", "--offset", "64KiB", "--length", "1MiB", here / "hole and room to grow"]
    subprocess.run(beyond, check=True)
    (here / "zeros, no hole").write_bytes(bytes(100_000))


def _sparse(path: Path, size: int, *parts: tuple[int, bytes]) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    for offset, data in parts:
        os.pwrite(fd, data, offset)
    os.ftruncate(fd, size)
    os.fsync(fd)  # until then some file systems are not sure where the holes are
    os.close(fd)


def _names(top: Path) -> None:
    here = os.fsencode(top / "names")
    os.mkdir(here)
    names = [
        b"new\nline",
        b"\xff\xfe\x80",
        b"\xed\xa0\x80",
        b"-rf",
        b"--help",
        b"..a",
        b"...",
        b" ",
        b"a\\b",
        b"~",
        b"*?[x]",
    ]
    names += [b"\x1b[31mred", b'"quote"', b"'", b"tab\t", b"\r", b"#", b"\x01", "ä€𝄞".encode(), LONG]
    # The order of whole paths is not the order of names: "a", "a-b", "a.b", "a/…", "a0".
    names += [b"a", b"a-b", b"a.b", b"a0"]
    for name in names:
        os.mkdir(here + b"/" + name)
        with open(here + b"/" + name + b"/" + name, "wb") as file:
            file.write(name)
    for name in (b"a!", b"a-", b"a-b!", b"a/b.c", b"a/b/c"):
        os.makedirs(here + b"/" + name, exist_ok=True)


def _attributes(top: Path) -> None:
    here = top / "attributes"
    here.mkdir()
    for name in ("file", "folder"):
        path = here / name
        path.write_text("x") if name == "file" else path.mkdir()
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.bytes", bytes(range(256)))
        os.setxattr(path, os.fsdecode(b"user.\xff"), b"name that is no UTF-8")
        os.setxattr(path, "user.\ufffd", b"sorts after it as text")
        os.setxattr(path, "trusted.kept", b"for root")
        os.setxattr(path, "user.large", b"v" * 3000)
        os.setxattr(path, "system.posix_acl_access", ACL)
    os.setxattr(here / "folder", "system.posix_acl_default", DEFAULT_ACL)
    (here / "folder/inherits").write_text("x")
    (here / "folder/inherits too").mkdir()
    (here / "capable").write_text("x")
    os.chown(here / "capable", 1, 1)
    os.setxattr(here / "capable", "security.capability", CAPABILITY)
    (here / "link").symlink_to("file")
    os.setxattr(here / "link", "trusted.of.link", b"1", follow_symlinks=False)
    os.mkfifo(here / "fifo")
    os.setxattr(here / "fifo", "trusted.of.fifo", b"1")
    os.setxattr(here / "fifo", "system.posix_acl_access", ACL)


def _hard_links(top: Path) -> None:
    here = top / "links"
    (here / "below").mkdir(parents=True)
    (here / "m file").write_text("one of three")
    (here / "m symlink").symlink_to("m file")
    os.mknod(here / "m device", stat.S_IFCHR | 0o600, os.makedev(5, 1))
    os.mkfifo(here / "m fifo")
    for kind in ("file", "symlink", "device", "fifo"):
        for other in (f"a {kind}", f"z {kind}", f"below/{kind}"):
            os.link(here / f"m {kind}", here / other, follow_symlinks=False)
    os.link(here / "m file", top / "z of links")


def _long_path(top: Path, first: bytes, names: list[bytes]) -> None:
    """Make folders in folders by their names alone, with a file and a hard link of the first at the bottom."""
    folder = os.open(top, os.O_RDONLY)
    for name in [first, *names]:
        os.mkdir(name, dir_fd=folder)
        below = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    fd = os.open(b"bottom", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=folder)
    os.write(fd, first)
    os.close(fd)
    os.symlink(b"bottom", b"link", dir_fd=folder)
    os.link(b"bottom", b"hard", src_dir_fd=folder, dst_dir_fd=folder)
    os.link(b"bottom", os.fsencode(top) + b"/a link to " + first, src_dir_fd=folder)
    os.setxattr(f"/proc/self/fd/{folder}/bottom", "trusted.deep", b"1")
    os.utime(b"bottom", ns=(1, 7), dir_fd=folder)
    os.close(folder)


def _times(top: Path) -> None:
    here = top / "times"
    here.mkdir()
    for name, when in (
        ("1960", -315_619_200),
        ("1901", -(2**31)),
        ("1970", 0),
        ("2200", 7_258_118_400),
        ("2040", 2**31 + 9),
    ):
        for kind in ("file", "folder", "link"):
            path = here / f"{kind} {name}"
            path.write_text(name) if kind == "file" else path.mkdir() if kind == "folder" else path.symlink_to("x")
            os.utime(path, ns=(SECOND, when * SECOND + 123_456_789), follow_symlinks=False)
    for path in (here, top / "names", top / "types", top / "modes", top):
        os.utime(path, ns=(SECOND, 987_654_321_123_456_789))


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for trees that pytest's own could not remove: too deep, or with mounts."""
    folder = Path(tempfile.mkdtemp(prefix="statelesskit-test-"))
    try:
        yield folder
    finally:
        mounts = Path("/proc/self/mountinfo").read_text().split("\n")
        for line in reversed(mounts):
            if line and line.split()[4].startswith(f"{folder}/"):
                subprocess.run(["umount", line.split()[4]], check=True)
        remove_tree(folder)


def add_prototype(site: Site, name: str = "desktop") -> Path:
    """Make a prototype with an empty tree; return the tree's path, which is not there yet."""
    create_record_key(site.keys)
    folder = site.prototypes / name
    folder.mkdir()
    about = {"format": 1, "source": "dir:/x", "created_at": "2026-11-23T07:30:00+00:00", "created_by": "t", "note": ""}
    (folder / "prototype.json").write_text(json.dumps(about))
    return folder / "tree"


def statelesskit(site: Site, *words: str | Path) -> list[str]:
    """The command line that runs the product on this site."""
    return [sys.executable, "-m", "statelesskit", "--site", os.fspath(site.root), *map(os.fspath, words)]
