"""What the last take of a prototype saw of each folder, so that the next reads only what changed.

A folder's record holds its names, for each name a fingerprint (inode, mtime, ctime, size, mode, links), and the
manifest's lines of those names. Where all fingerprints are the same, nothing in the folder can have changed
(every change moves the ctime), and its lines stand; in a folder where some differ, the others' lines stand.

Never believed are: what something was found of, names that have hard links (the first of them may lie in a
folder that was moved), and what changed so shortly before the take that another change in the same step of the
kernel's clock would look the same (git's index calls that racy).

The file is derived: without it, or when it is damaged or does not fit, a take reads everything. It is only
believed while every pack is as it was when it was written, so its lines name no lost object.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from statelesskit import fs

MAGIC = b"SKMEMO01"
FINGERPRINT = struct.Struct("<QqqQII")
HEAD = struct.Struct("<IIIIIQ")  # lengths of path, names, fingerprints, lines; files; their bytes
SIZE = struct.Struct("<Q")
NEVER = bytes(FINGERPRINT.size)  # of a name that must be looked at again
RACY_NS = 20_000_000  # the kernel's clock for files steps by up to 10 ms


Packs = frozenset[tuple[str, int, int]]  # name, size and time of each


def fingerprint(info: os.stat_result) -> bytes:
    """Return what a name's change would change."""
    return FINGERPRINT.pack(
        info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_mode, info.st_nlink & 0xFFFFFFFF
    )


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder's record."""

    names: bytes  # each ended by a slash, in the order of their bytes
    fingerprints: bytes
    lines: bytes
    files: int
    content_bytes: int

    def by_name(self) -> dict[bytes, tuple[bytes, bytes]]:
        """Return each name's fingerprint and line."""
        names, size = self.names.split(b"/"), FINGERPRINT.size
        return {
            name: (self.fingerprints[number * size : (number + 1) * size], line)
            for number, (name, line) in enumerate(zip(names, self.lines.splitlines(keepends=True), strict=False))
        }


class Memory:
    """The records of the last take, by the folder's path with a slash at its end ("" for the top)."""

    def __init__(self, folders: dict[bytes, Folder]) -> None:
        self.folders = folders
        self._opened: tuple[bytes, dict[bytes, tuple[bytes, bytes]]] = (b"/", {})

    @classmethod
    def load(cls, path: Path, tree: bytes, packs: Packs) -> Memory:
        """Read the file; empty when it is not there, damaged, of another tree, or when a pack is gone or altered.

        Args:
            tree: what tells one tree from another.
        """
        try:
            data = path.read_bytes()
        except OSError:
            return cls({})
        head = MAGIC + hashlib.sha256(tree).digest()
        if not data.startswith(head) or hashlib.sha256(memoryview(data)[:-32]).digest() != data[-32:]:
            return cls({})
        position = len(head)
        (size,) = SIZE.unpack_from(data, position)
        needed = json.loads(data[position + SIZE.size : position + SIZE.size + size])
        if not {tuple(pack) for pack in needed} <= packs:
            return cls({})
        return cls(dict(_folders(data, position + SIZE.size + size, len(data) - 32)))

    def unchanged(self, prefix: bytes, names: Iterable[bytes], infos: Iterable[os.stat_result]) -> Folder | None:
        """Return the folder's record if all in it is as it was."""
        known = self.folders.get(prefix)
        if known is None or known.names != b"".join([name + b"/" for name in names]):
            return None
        return known if known.fingerprints == b"".join(map(fingerprint, infos)) else None

    def line(self, prefix: bytes, name: bytes, info: os.stat_result) -> bytes | None:
        """Return the line of one name in a folder where others changed, if this one did not."""
        if self._opened[0] != prefix:
            known = self.folders.get(prefix)
            self._opened = (prefix, known.by_name() if known else {})
        before, line = self._opened[1].get(name, (NEVER, b""))
        return line if before == fingerprint(info) else None


def _folders(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, Folder]]:
    while position < end:
        *lengths, files, size = HEAD.unpack_from(data, position)
        position += HEAD.size
        parts = []
        for length in lengths:
            parts.append(data[position : position + length])
            position += length
        yield parts[0], Folder(parts[1], parts[2], parts[3], files, size)


class Recorder:
    """Gathers the records of a take that is going on."""

    def __init__(self, began_ns: int) -> None:
        self._settled_before = began_ns - RACY_NS
        self._folders: dict[bytes, Folder] = {}
        self._open: dict[bytes, list[tuple[bytes, os.stat_result, bytes]]] = {}
        self._doubtful: set[bytes] = set()

    def keep(self, prefix: bytes, folder: Folder) -> None:
        """Take a record over as it is."""
        self._folders[prefix] = folder

    def add(self, path: bytes, info: os.stat_result, line: bytes) -> None:
        """Note one name's line, in the order of the paths."""
        if path:
            prefix, name = split(path)
            self._open.setdefault(prefix, []).append((name, info, line))

    def doubt(self, path: bytes) -> None:
        """Never believe the line of this path."""
        self._doubtful.add(path)

    def save(self, path: Path, tree: bytes, packs: Packs, before: Memory) -> None:
        """Put the records in place, unless they are those of before.

        They are not flushed to the disk: a file torn by a crash is known by its digest.
        """
        for prefix, children in self._open.items():
            self._folders[prefix] = self._record(prefix, children)
        if self._folders == before.folders:
            return
        total = hashlib.sha256()
        with fs.new_file(path, durable=False) as fd:
            for part in _parts(tree, packs, self._folders):
                total.update(part)
                fs.write_all(fd, part)
            fs.write_all(fd, total.digest())

    def _record(self, prefix: bytes, children: list[tuple[bytes, os.stat_result, bytes]]) -> Folder:
        regular = [info.st_size for _, info, _ in children if stat.S_ISREG(info.st_mode)]
        return Folder(
            names=b"".join([name + b"/" for name, _, _ in children]),
            fingerprints=b"".join(
                [fingerprint(info) if self._sure(prefix + name, info) else NEVER for name, info, _ in children]
            ),
            lines=b"".join([line for _, _, line in children]),
            files=len(regular),
            content_bytes=sum(regular),
        )

    def _sure(self, path: bytes, info: os.stat_result) -> bool:
        multiple = info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)
        return not multiple and info.st_ctime_ns < self._settled_before and path not in self._doubtful


def _parts(tree: bytes, packs: Packs, folders: dict[bytes, Folder]) -> Iterator[bytes]:
    needed = fs.canonical_json(sorted(packs))
    yield MAGIC + hashlib.sha256(tree).digest() + SIZE.pack(len(needed)) + needed
    for prefix, one in folders.items():
        lengths = len(prefix), len(one.names), len(one.fingerprints), len(one.lines)
        head = HEAD.pack(*lengths, one.files, one.content_bytes)
        yield head + prefix + one.names + one.fingerprints + one.lines


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the folder a path is in, with a slash at its end, and the name there."""
    above, slash, name = path.rpartition(b"/")
    return above + slash, name
