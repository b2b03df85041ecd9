"""Reading files nobody vouches for: nothing is followed, opened or waited for but a regular file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from statelesskit.errors import AuditError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


_otherwise: Callable[[Path], bytes | None] | None = None


def read_otherwise(reader: Callable[[Path], bytes | None]) -> None:
    """Have the bytes of files that this user may not open from ``reader``; it returns None where it has none."""
    global _otherwise  # a process has one site
    _otherwise = reader


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Raises:
        AuditError: it is missing, is of another kind, or cannot be read, now or in the block. The
            message is the end of a sentence that begins with the file's name.
    """
    try:
        _check_kind(os.lstat(path))  # before it is opened: opening a device may do something
        with os.fdopen(_opened(path), "rb") as file:
            _check_kind(os.fstat(file.fileno()))
            yield file
    except FileNotFoundError:
        raise AuditError("is missing") from None
    except OSError as error:
        raise AuditError(f"cannot be read: {error.strerror}") from None


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        if _otherwise is None or (data := _otherwise(path)) is None:
            raise
    fd = os.memfd_create(path.name)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _check_kind(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise AuditError(f"is {_KINDS.get(stat.S_IFMT(info.st_mode), 'something else')}, not a file")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a regular file of any size, in hex; raises as :func:`open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        AuditError: see :func:`open_regular`; or it is longer than ``limit`` bytes.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise AuditError(f"is longer than {limit} bytes")
    return data
