"""Walk a file tree and describe what is there: relative to open folders, following nothing.

A path is never handed to the kernel as a whole, so a folder that becomes a symlink under our feet
leads nowhere, and paths may be longer than PATH_MAX.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from statelesskit import fs
from statelesskit.manifest import NAME_MAX, PATH_MAX, Entry
from statelesskit.memory import Memory, Stretch, fingerprint

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_ENCODING = sys.getfilesystemencoding()  # os.fsencode takes five times as long
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A file that turned into a FIFO must not block us, reading must not move the access time.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


FS_IOC_GETFLAGS = 0x80086601
PROTECTIONS = {0x10: "immutable", 0x20: "append-only"}  # linux/fs.h: FS_IMMUTABLE_FL, FS_APPEND_FL
PROTECTED = sum(PROTECTIONS)
_FLAGS = struct.Struct("=L4x")

LeavesOut = Callable[[bytes], bool] | None
Xattrs = tuple[tuple[bytes, bytes], ...]
Holes = tuple[tuple[int, int], ...]
Links = defaultdict[tuple[int, bool], dict[int, bytes]]  # by file system: a million of them must be small


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a tree that could not be taken as it is."""

    path: bytes
    finding: str

    def as_json(self) -> dict[str, str]:
        return {"path": self.path.decode("utf-8", "surrogateescape"), "finding": self.finding}


@dataclass(slots=True)  # frozen, it would take twice as long to make
class Found:
    """One name met on the walk; ``folder`` is an open descriptor that is valid until the next one is asked for."""

    path: bytes
    folder: int
    name: bytes
    info: os.stat_result


@dataclass(slots=True)
class _Level:
    """A folder we are in: ``names`` are still to come, ``inside`` are its folders that still must be entered.

    Attributes:
        closely: the last name of a stretch in which something changed, so up to it we look at each.
        hidden: something mounted may lie over its names, or they are too long: nothing is remembered.
    """

    fd: int
    prefix: bytes
    info: os.stat_result
    names: list[bytes]
    inside: list[Found] = field(default_factory=list)
    closely: bytes = b""
    hidden: bool = False


@overload
def walk(top: Path, report: Callable[[Finding], None], *, leaves_out: LeavesOut = ...) -> Iterator[Found]: ...
@overload
def walk(
    top: Path, report: Callable[[Finding], None], memory: Memory, *, leaves_out: LeavesOut = ...
) -> Iterator[Found | Stretch]: ...
def walk(
    top: Path, report: Callable[[Finding], None], memory: Memory | None = None, *, leaves_out: LeavesOut = None
) -> Iterator[Found | Stretch]:
    """Yield everything below ``top``, itself first, in the order of the full paths' bytes.

    What can't be reached, what another file system mounted in the tree hides, and folders that change
    while we are in them are reported.

    Args:
        memory: of an earlier walk; where nothing changed since, the lines it holds are yielded instead.
        leaves_out: says of a path that it, and all below it, is not to be seen; asked of every path but the top.
    """
    fs.allow_deep_trees()  # one descriptor stays open for each level we are deep
    mounted = fs.mounts_below(top)
    root = _open_quietly(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    info = os.fstat(root)
    levels = [_Level(root, b"", info, [])]
    try:
        levels[0].names = _names(root, b"", leaves_out)
        levels[0].hidden = bool(mounted)
        yield Found(b"", root, b".", info)
        while levels:
            level = levels[-1]
            enter: Found | None = None
            # "a", "a.b", "a/c": a name comes before the inside of the folder "a" if it sorts before "a/".
            if level.inside and (not level.names or level.inside[-1].name + b"/" < level.names[-1]):
                enter = level.inside.pop()
            elif level.names:
                if memory and not level.hidden and (known := _recall(level, memory)):
                    yield known
                    continue
                name = level.names.pop()
                if here := _look(level, name, mounted, report):
                    if stat.S_ISDIR(here.info.st_mode):
                        level.inside.append(here)
                    yield here
            else:
                if _moment(os.fstat(level.fd)) != _moment(level.info):
                    report(Finding(level.prefix[:-1], "the folder changed while it was read"))
                os.close(levels.pop().fd)
            if enter is None:
                continue
            if enter.path in mounted or enter.info.st_dev != info.st_dev:
                report(Finding(enter.path, "something is mounted here; what is on it is not part of the tree"))
            elif below := _enter(enter, report, leaves_out):
                levels.append(below)
                # What is mounted over a name has a fingerprint of its own; look at each.
                over = any(path.startswith(below.prefix) for path in mounted)
                below.hidden = over or len(below.prefix) > PATH_MAX - NAME_MAX
    finally:
        for level in levels:
            os.close(level.fd)


def _recall(level: _Level, memory: Memory) -> Stretch | None:
    """If nothing changed in the stretch that begins with the next name, let it stand for its names."""
    if level.names[-1] <= level.closely:
        return None
    stretch = memory.stretch(level.prefix, level.names[-1])
    if stretch is None:
        return None
    level.closely = last = stretch.last
    count = stretch.entries
    names = level.names[-count:][::-1]
    if b"/".join(names) + b"/" != stretch.names:
        return None
    try:
        infos = [os.stat(name, dir_fd=level.fd, follow_symlinks=False) for name in names]
    except OSError:
        return None  # the closer look will say what it is
    if b"".join(map(fingerprint, infos)) != stretch.fingerprints:
        return None
    folders = [
        Found(level.prefix + name, level.fd, name, info)
        for name, info in zip(names, infos, strict=True)
        if stat.S_ISDIR(info.st_mode)
    ]
    if any(folder.name + b"/" < last for folder in (*level.inside[-1:], *folders)):
        return None  # the inside of one comes between
    del level.names[-count:]
    level.inside += folders
    return stretch


def _names(folder: int, prefix: bytes, leaves_out: LeavesOut) -> list[bytes]:
    """List an open folder as a stack: the first name is the last."""
    names = [name.encode(_ENCODING, "surrogateescape") for name in os.listdir(folder)]
    names.sort(reverse=True)
    return names if leaves_out is None else [name for name in names if not leaves_out(prefix + name)]


def _look(level: _Level, name: bytes, mounted: set[bytes], report: Callable[[Finding], None]) -> Found | None:
    path = level.prefix + name
    try:
        info = os.stat(name, dir_fd=level.fd, follow_symlinks=False)
    except FileNotFoundError:
        report(Finding(path, "it vanished while the tree was read"))
    except OSError as error:
        report(Finding(path, f"it could not be looked at: {error.strerror}"))
    else:
        if len(path) > PATH_MAX:
            report(Finding(path, f"its path is longer than {PATH_MAX} bytes; it and all below it are left out"))
        elif path in mounted and not stat.S_ISDIR(info.st_mode):
            report(Finding(path, "something is mounted over this file, which is left out"))
        else:
            return Found(path, level.fd, name, info)
    return None


def _enter(found: Found, report: Callable[[Finding], None], leaves_out: LeavesOut) -> _Level | None:
    try:
        below = open_folder(found)
    except OSError as error:
        report(Finding(found.path, f"the folder could not be entered: {error.strerror}"))
        return None
    try:
        if os.path.samestat(os.fstat(below), found.info):
            return _Level(below, found.path + b"/", found.info, _names(below, found.path + b"/", leaves_out))
        report(Finding(found.path, "the folder was replaced while the tree was read"))
    except OSError as error:
        report(Finding(found.path, f"the folder could not be listed: {error.strerror}"))
    os.close(below)
    return None


def _moment(info: os.stat_result) -> tuple[int, int]:
    return info.st_mtime_ns, info.st_ctime_ns


def _open_quietly(name: Path | bytes, flags: int, folder: int | None = None) -> int:
    """Open for reading, without moving the access time where we may (as root, or as its owner)."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError:
        return os.open(name, flags, dir_fd=folder)


def describe(
    found: Found,
    info: os.stat_result,
    xattrs: Xattrs,
    *,
    sha256: str = "",
    size: int = 0,
    holes: Holes = (),
) -> Entry:
    """Return the entry of what was found; of a regular file with what is said of its content."""
    kind = TYPES[stat.S_IFMT(info.st_mode)]
    device = kind in ("char", "block")
    return Entry(
        path=found.path,
        type=kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=info.st_mtime_ns,
        xattrs=xattrs,
        sha256=sha256,
        size=size,
        holes=holes,
        target=os.readlink(found.name, dir_fd=found.folder) if kind == "symlink" else b"",
        major=os.major(info.st_rdev) if device else 0,
        minor=os.minor(info.st_rdev) if device else 0,
    )


def link_of(path: bytes, info: os.stat_result, links: Links, *, empty: bool = False) -> Entry | None:
    """Return the entry of what has another name that came before; ``links`` holds the first names so far.

    Args:
        empty: it is taken without its content, so it is no other name of what is taken with it.
    """
    if stat.S_ISDIR(info.st_mode) or info.st_nlink < 2:
        return None
    first = links[info.st_dev, empty].setdefault(info.st_ino, path)
    return Entry(path, "link", link_to=first) if first != path else None


def open_file(found: Found) -> int:
    """Open a regular file for reading; it may be something else by now."""
    return _open_quietly(found.name, OPEN_FILE, found.folder)


def open_folder(found: Found) -> int:
    """Open a folder; raises OSError if it is something else by now."""
    return _open_quietly(found.name, OPEN_FOLDER, found.folder)


def xattrs_of(place: int | str) -> Xattrs:
    """Return all extended attributes, sorted; ``place`` is an open file or what :func:`in_folder` gives."""
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # the file system has none
            raise
        return ()
    if not names:
        return ()
    return tuple(sorted((os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow)) for name in names))


def protection_of(fd: int) -> str:
    """Say how an open file or folder is kept from being changed, which no snapshot keeps: ioctl_iflags(2)."""
    try:
        (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(_FLAGS.size)))
    except OSError:  # the file system knows none
        return ""
    if not flags & PROTECTED:
        return ""
    return " and ".join(name for flag, name in PROTECTIONS.items() if flags & flag)


def in_folder(folder: int, name: bytes) -> str:
    """Return a path for system calls that know no open folders; it goes through /proc, so it stays short."""
    return f"/proc/self/fd/{folder}/{os.fsdecode(name)}"


def holes_of(fd: int, size: int) -> Holes:
    """Return the ranges of an open file that take no space, as (offset, length)."""
    holes = []
    position = 0
    # How many blocks it has tells nothing: some are for attributes, or lie beyond the end.
    while (hole := _seek(fd, position, os.SEEK_HOLE, size)) < size:
        position = _seek(fd, hole, os.SEEK_DATA, size)
        if position > hole:
            holes.append((hole, position - hole))
    return tuple(holes)


def _seek(fd: int, position: int, whence: int, size: int) -> int:
    try:
        return min(os.lseek(fd, position, whence), size)
    except OSError as error:
        if error.errno != errno.ENXIO:  # there is no more of it
            raise
        return size
