"""The one door to durable writes.

What must survive a crash is written here: to a temporary name beside its place, flushed to the disk,
renamed into place, and the folder flushed. A reader sees the old state or the new one, never a
half. All of it goes through the few primitives at the top, so a test can record them and rebuild
every state a crash could leave.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from statelesskit.errors import NoSpaceError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
PARTIAL = ".partial-"  # names that hold this are unfinished; a writer that lives keeps what it fills locked
DEEP = 65536  # open files: one for each level of the deepest path a manifest can hold

# --- primitives -------------------------------------------------------------------------------


def create(path: Path, mode: int) -> int:
    """Make a file that is not there yet; return it open for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte at the file's position, or raise."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def truncate(fd: int, size: int) -> None:
    """Cut an open file off, and write on from there."""
    os.ftruncate(fd, size)
    os.lseek(fd, size, os.SEEK_SET)


def open_log(path: Path, mode: int) -> int:
    """Open a file to append to, made if it is not there; the folder is not flushed."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)


def fsync(fd: int) -> None:
    """Flush one open file or folder to the disk."""
    os.fsync(fd)


def make_folder(path: Path, mode: int) -> None:
    """Make one folder that is not there yet."""
    os.mkdir(path, mode)


def rename(source: Path, target: Path) -> None:
    """Rename within one file system, replacing ``target``."""
    os.rename(source, target)


def unlink(name: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove one name that is no folder's, of an open folder or by its whole path."""
    os.unlink(name, dir_fd=dir_fd)


def remove_folder(name: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove one empty folder, of an open folder or by its whole path."""
    os.rmdir(name, dir_fd=dir_fd)


# --- built from them --------------------------------------------------------------------------


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync(fd)
    finally:
        os.close(fd)


def rename_durably(source: Path, target: Path) -> None:
    """Rename a finished file or folder into place and flush the folder that now names it.

    When that can't be flushed, a new folder goes back to its old name: who is told of the error must not
    find the thing made. A file may have replaced another, so it stays.
    """
    rename(source, target)
    try:
        fsync_folder(target.parent)
    except OSError:
        if target.is_dir():
            rename(target, source)
        raise


def partial_name(target: Path) -> Path:
    """Return a fresh temporary name beside ``target``."""
    return target.with_name(f".{target.name}{PARTIAL}{os.urandom(4).hex()}")


def new_partial_file(target: Path, mode: int) -> tuple[Path, int]:
    """Make an unfinished file beside ``target``; return its name, and it open and locked."""
    while True:
        path = partial_name(target)
        fd = create(path, mode)
        if _locked(fd):
            return path, fd
        os.close(fd)


def new_partial_folder(target: Path) -> tuple[Path, int]:
    """Make an unfinished folder beside ``target``; return its name, and it open and locked."""
    while True:
        path = partial_name(target)
        make_folder(path, 0o700)
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _locked(fd):
                return path, fd
            os.close(fd)


def _locked(fd: int) -> bool:
    """Lock what was just made; false if somebody cleaning up took it for a leftover before."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    return os.fstat(fd).st_nlink > 0


def remove_leftovers(target: Path) -> None:
    """Remove what writers that died left of ``target``: the unfinished files and folders that nobody locks."""
    for path in target.parent.glob(f".{glob.escape(target.name)}{PARTIAL}{'[0-9a-f]' * 8}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # gone by now, or none that we made
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EBUSY):  # its writer lives, or something is mounted in it
                raise
        finally:
            os.close(fd)


@contextmanager
def disk_full_named(what: Path) -> Iterator[None]:
    """Turn "no space" from the system into our error, naming the place that is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise NoSpaceError(
            f"no space left (or over quota) where {what} is kept",
            hint="free some space there and run the same command again; nothing half-made was left",
        ) from error


@contextmanager
def new_file(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[int]:
    """Make a file that appears under its name only when it is whole; yields it open, to be written.

    On any error it is removed again, and what was there stays. What dead writers left is removed first.

    Args:
        durable: false for what is derived and knows by itself that a crash tore it: nothing is flushed.
    """
    with disk_full_named(path):
        remove_leftovers(path)
        temporary, fd = new_partial_file(path, 0o600)
        try:
            yield fd
            os.fchmod(fd, mode)
            if durable:
                fsync(fd)
                rename_durably(temporary, path)
            else:
                rename(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):  # it was renamed, and the folder could not be flushed
                unlink(temporary)
            raise
        finally:
            os.close(fd)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put a whole file in place, durably and at once; the old one stays when anything fails."""
    with new_file(path, mode=mode) as fd:
        write_all(fd, data)


def make_folders(path: Path, *, mode: int = 0o755) -> None:
    """Make a folder and those above it, durably; nothing is done to what is there."""
    if not path.is_dir():
        make_folders(path.parent, mode=mode)
        with suppress(FileExistsError):
            make_folder(path, mode)
        fsync_folder(path.parent)


def append_line(fd: int, line: bytes) -> None:
    """Append one line to an open log and flush it; after a crash the log may end in a part of it."""
    write_all(fd, line + b"\n")
    fsync(fd)


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical_json(value: Any) -> bytes:
    """Encode as ASCII JSON with sorted keys and no spaces, so that equal values have equal bytes."""
    return _canonical(value).encode("ascii")


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Put a readable JSON file in place, durably and at once."""
    write_file(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True).encode() + b"\n", mode=mode)


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Make a temporary folder beside ``target``; it is removed in the end, unless it was renamed.

    What dead writers left of ``target`` is removed first.
    """
    with disk_full_named(target):
        remove_leftovers(target)
        temporary, fd = new_partial_folder(target)
        try:
            yield temporary
        finally:
            remove_tree(temporary)
            os.close(fd)


@contextmanager
def new_folder(target: Path, *, mode: int = 0o755) -> Iterator[Path]:
    """Make a folder that appears under its name only when it is whole.

    Yields the temporary folder to fill; files in it must already be flushed. On any error it is
    removed again.

    Raises:
        FileExistsError: ``target`` is there, and is not an empty folder.
    """
    with work_folder(target) as temporary:
        yield temporary
        temporary.chmod(mode)
        fsync_folder(temporary)
        try:
            rename_durably(temporary, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(f"{target} is already there") from None
            raise


def remove_tree(path: Path) -> None:
    """Remove a file or folder with all below it; nothing is followed, no depth is too deep.

    Raises:
        OSError: with EBUSY and before anything is removed, if something is mounted below.
    """
    try:
        top = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(top.st_mode):
        unlink(path)
        return
    # Of a bind mount the device number tells nothing, and emptying it would empty the original.
    if mounted := mounts_below(path):
        raise OSError(errno.EBUSY, "a file system is mounted there", os.fspath(path / os.fsdecode(min(mounted))))
    allow_deep_trees()
    # Each stack element: an open folder, its name in the one above, the names of its folders still to do.
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack: list[tuple[int, str, list[str]]] = []
    try:
        stack.append((fd, "", _remove_files(fd)))
        while stack:
            fd, name, folders = stack[-1]
            if folders:
                child = folders.pop()
                below = os.open(child, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                if os.fstat(below).st_dev != top.st_dev:
                    os.close(below)
                    raise OSError(errno.EBUSY, "a file system is mounted there", os.fspath(path / child))
                stack.append((below, child, _remove_files(below)))
                continue
            stack.pop()
            os.close(fd)
            if stack:
                remove_folder(name, dir_fd=stack[-1][0])
    finally:
        for fd, _, _ in stack:
            os.close(fd)
    remove_folder(path)


def _remove_files(fd: int) -> list[str]:
    """Remove what is no folder from an open folder; return the names of its folders."""
    folders = []
    with os.scandir(fd) as children:
        for child in list(children):
            if child.is_dir(follow_symlinks=False):
                folders.append(child.name)
            else:
                unlink(child.name, dir_fd=fd)
    return folders


def mounts_below(top: Path) -> set[bytes]:
    """Return the paths, relative to ``top``, where something is mounted: bind mounts of one file system too."""
    prefix = os.fsencode(top.resolve()).rstrip(b"/") + b"/"
    found = set()
    for line in Path("/proc/self/mountinfo").read_bytes().rstrip(b"\n").split(b"\n"):
        # proc_pid_mountinfo(5): the fifth field, with space, tab, newline and backslash in octal
        place = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4])
        if place.startswith(prefix) and place != prefix:
            found.add(place.removeprefix(prefix))
    return found


def allow_deep_trees() -> None:
    """Let this process open a file for each level of a deep tree, as far as the system's limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(hard, DEEP):  # never less than it was; not all of it, as some programs make a table for each
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DEEP), hard))


def sync_filesystem(path: Path) -> None:
    """Flush everything written to the file system that holds ``path``; cheaper than many single flushes."""
    from statelesskit.run import run

    run(["sync", "--file-system", path])


def free_bytes(path: Path) -> int:
    """Return how many bytes may still be written where ``path`` is (or will be)."""
    while not path.exists():
        path = path.parent
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize
