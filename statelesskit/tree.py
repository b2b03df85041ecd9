"""Walk a file tree and describe what is there: relative to open folders, following nothing.

A path is never handed to the kernel as a whole, so a folder that becomes a symlink under our feet
leads nowhere, and paths may be longer than PATH_MAX.
"""

from __future__ import annotations

import os
import re
import resource
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from statelesskit.manifest import Entry

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A file that turned into a FIFO must not block us, reading must not move the access time.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a tree that could not be taken as it is."""

    path: bytes
    finding: str

    def as_json(self) -> dict[str, str]:
        return {"path": self.path.decode("utf-8", "surrogateescape"), "finding": self.finding}


@dataclass(frozen=True, slots=True)
class Found:
    """One name met on the walk; ``folder`` is an open descriptor that is valid until the next one is asked for."""

    path: bytes
    folder: int
    name: bytes
    info: os.stat_result


def walk(top: Path, report: Callable[[Finding], None]) -> Iterator[Found]:
    """Yield everything below ``top``, itself first, in the order of the full paths' bytes.

    Another file system mounted in the tree is reported and not entered. So is a folder that is
    replaced while we come to it.
    """
    # One descriptor stays open for each level we are deep.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    mounted = mounts_below(top)
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    info = os.fstat(root)
    stack = [(root, b"", _children(root, b"", report))]
    try:
        yield Found(b"", root, b".", info)
        while stack:
            folder, prefix, todo = stack[-1]
            if not todo:
                os.close(stack.pop()[0])
                continue
            key, found = todo.pop()
            path = prefix + found.name
            if not key.endswith(b"/"):
                yield Found(path, folder, found.name, found.info)
            elif path in mounted or found.info.st_dev != info.st_dev:
                report(Finding(path, "another file system is mounted here; what is on it is not part of the tree"))
            elif (below := _enter(folder, found, path, report)) is not None:
                stack.append((below, path + b"/", _children(below, path + b"/", report)))
    finally:
        for folder, _, _ in stack:
            os.close(folder)


def _children(folder: int, prefix: bytes, report: Callable[[Finding], None]) -> list[tuple[bytes, Found]]:
    """List an open folder as a stack. A folder stands there twice: as a name, and as ``name/`` for its inside.

    So ``a``, ``a.b``, ``a/c`` come in the order of the whole paths, in which a dot sorts before the slash.
    """
    events = []
    with os.scandir(folder) as listing:
        names = [os.fsencode(item.name) for item in listing]
    for name in names:
        try:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            report(Finding(prefix + name, "it vanished while the tree was read"))
            continue
        found = Found(prefix + name, folder, name, info)
        events.append((name, found))
        if stat.S_ISDIR(info.st_mode):
            events.append((name + b"/", found))
    events.sort(key=lambda event: event[0], reverse=True)
    return events


def _enter(folder: int, found: Found, path: bytes, report: Callable[[Finding], None]) -> int | None:
    try:
        below = os.open(found.name, OPEN_FOLDER, dir_fd=folder)
    except OSError as error:
        report(Finding(path, f"the folder could not be entered: {error.strerror}"))
        return None
    now = os.fstat(below)
    if (now.st_dev, now.st_ino) != (found.info.st_dev, found.info.st_ino):
        os.close(below)
        report(Finding(path, "the folder was replaced while the tree was read"))
        return None
    return below


def describe(found: Found, info: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...]) -> Entry:
    """Return the entry of what was found, without the content of a regular file."""
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
        target=os.readlink(found.name, dir_fd=found.folder) if kind == "symlink" else b"",
        major=os.major(info.st_rdev) if device else 0,
        minor=os.minor(info.st_rdev) if device else 0,
    )


def open_file(found: Found) -> int:
    """Open a regular file for reading, without moving its access time where we may."""
    try:
        return os.open(found.name, OPEN_FILE | os.O_NOATIME, dir_fd=found.folder)
    except PermissionError:
        return os.open(found.name, OPEN_FILE, dir_fd=found.folder)


def xattrs_of(place: int | str) -> tuple[tuple[bytes, bytes], ...]:
    """Return all extended attributes, sorted; ``place`` is an open file or what :func:`in_folder` gives."""
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError:  # the file system has none
        return ()
    return tuple(sorted((os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow)) for name in names))


def in_folder(folder: int, name: bytes) -> str:
    """Return a path for system calls that know no open folders; it goes through /proc, so it stays short."""
    return f"/proc/self/fd/{folder}/{os.fsdecode(name)}"


def holes_of(fd: int, info: os.stat_result) -> tuple[tuple[int, int], ...]:
    """Return the ranges of a file that take no space, as (offset, length)."""
    if info.st_blocks * 512 >= info.st_size:
        return ()
    holes = []
    position, size = 0, info.st_size
    while position < size:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            data = size
        if data > position:
            holes.append((position, data - position))
        position = os.lseek(fd, data, os.SEEK_HOLE) if data < size else size
    os.lseek(fd, 0, os.SEEK_SET)
    return tuple(holes)


def mounts_below(top: Path) -> set[bytes]:
    """Return the paths, relative to ``top``, where something is mounted: bind mounts of one file system too."""
    prefix = os.fsencode(top.resolve()).rstrip(b"/") + b"/"
    found = set()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        # proc_pid_mountinfo(5): the fifth field, with space, tab, newline and backslash in octal
        place = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4])
        if place.startswith(prefix) and place != prefix:
            found.add(place.removeprefix(prefix))
    return found
