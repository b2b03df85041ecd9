"""A witness of its own: describes a tree with system calls alone, sharing no code with the product."""

# Paths of trees are bytes, and names are used in open folders; pathlib knows neither.
# ruff: noqa: PTH115, PTH208

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
from pathlib import Path
from typing import Any

Facts = dict[bytes, dict[str, Any]]


def look(top: Path, *, times_of_reading: bool = False) -> Facts:
    """Describe everything below ``top``, paths as bytes, hard links by the set of their paths.

    Args:
        times_of_reading: also the access times (not of symlinks: reading one moves it, whoever does it).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        facts, groups = _look(top, times_of_reading)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for paths in groups.values():
        for path in paths:
            facts[path]["same_as"] = tuple(sorted(paths))
    return facts


def _look(top: Path, times_of_reading: bool) -> tuple[Facts, dict[tuple[int, int], list[bytes]]]:
    facts: Facts = {}
    groups: dict[tuple[int, int], list[bytes]] = {}
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    facts[b""] = _one(root, b".", os.fstat(root), times_of_reading)
    todo: list[tuple[int, bytes, list[str] | None]] = [(root, b"", None)]
    while todo:
        folder, prefix, names = todo.pop()
        if names is None:
            names = os.listdir(folder)
        if not names:
            os.close(folder)
            continue
        name = os.fsencode(names.pop())
        todo.append((folder, prefix, names))
        info = os.lstat(os.fsencode(f"/proc/self/fd/{folder}/") + name)
        path = prefix + name
        facts[path] = _one(folder, name, info, times_of_reading)
        if stat.S_ISDIR(info.st_mode):
            below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=folder)
            todo.append((below, path + b"/", None))
        else:
            groups.setdefault((info.st_dev, info.st_ino), []).append(path)
    return facts, groups


def _one(folder: int, name: bytes, info: os.stat_result, times_of_reading: bool) -> dict[str, Any]:
    here = os.fsencode(f"/proc/self/fd/{folder}/") + name
    facts: dict[str, Any] = {
        "mode": oct(info.st_mode),
        "owner": (info.st_uid, info.st_gid),
        "mtime": info.st_mtime_ns,
        "xattrs": {key: os.getxattr(here, key, follow_symlinks=False) for key in _keys(here)},
    }
    if times_of_reading and not stat.S_ISLNK(info.st_mode):
        facts |= {"atime": info.st_atime_ns, "ctime": info.st_ctime_ns}
    if stat.S_ISLNK(info.st_mode):
        facts["target"] = os.readlink(here)
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        facts["device"] = info.st_rdev
    if stat.S_ISREG(info.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=folder)
        facts["size"] = info.st_size
        facts["data"] = _data(fd, info.st_size)
        with os.fdopen(fd, "rb") as file:
            file.seek(0)
            facts["content"] = hashlib.file_digest(file, "blake2b").hexdigest()
    return facts


def _keys(here: bytes) -> list[str]:
    try:
        return os.listxattr(here, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []


def _data(fd: int, size: int) -> list[tuple[int, int]]:
    """Return where a file's data is, the gaps between being holes."""
    found, place = [], 0
    while place < size:
        try:
            start = os.lseek(fd, place, os.SEEK_DATA)
        except OSError:
            break
        place = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, place))
    return found
