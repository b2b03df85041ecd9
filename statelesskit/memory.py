"""What the last take of a prototype saw, so that the next reads only what changed.

The file holds stretches of the manifest, in its order. A stretch is some names of one folder that follow each
other: for each name a fingerprint (inode, mtime, ctime, size, mode, links) and the manifest's line. Where all
fingerprints are the same, nothing in the stretch can have changed (every change moves the ctime), and its lines
stand; where some differ, the others' lines stand. It is read and written along with the walk, a stretch at a time.

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from statelesskit import fs

MAGIC = b"SKMEMO02"
FINGERPRINT = struct.Struct("<QqqQII")
HEAD = struct.Struct("<IIIIIQ")  # lengths of folder, names, fingerprints, lines; files; their bytes
SIZE = struct.Struct("<Q")
START = len(MAGIC) + 32  # where the stretches begin, after the digest of what the tree is
NEVER = bytes(FINGERPRINT.size)  # of a name that must be looked at again
RACY_NS = 20_000_000  # the kernel's clock for files steps by up to 10 ms
STRETCH = 256  # names at most: so much is held at once, and looked at name by name when one of them changed
PIECE = 1024 * 1024

Packs = frozenset[tuple[str, int, int]]  # name, size and time of each


def fingerprint(info: os.stat_result) -> bytes:
    """Return what a name's change would change."""
    return FINGERPRINT.pack(
        info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_mode, info.st_nlink & 0xFFFFFFFF
    )


@dataclass(slots=True)
class Stretch:
    """Names of one folder that follow each other.

    Attributes:
        prefix: the folder's path with a slash at its end ("" for the top).
        names: each ended by a slash.
        at: where it is in the file it was read from.
    """

    prefix: bytes
    names: bytes
    fingerprints: bytes
    lines: bytes
    files: int
    content_bytes: int
    at: int = 0

    @property
    def entries(self) -> int:
        return len(self.fingerprints) // FINGERPRINT.size

    @property
    def last(self) -> bytes:
        """The last of its names."""
        return self.names[self.names.rfind(b"/", 0, -1) + 1 : -1]

    def encode(self) -> bytes:
        lengths = len(self.prefix), len(self.names), len(self.fingerprints), len(self.lines)
        head = HEAD.pack(*lengths, self.files, self.content_bytes)
        return b"".join((head, self.prefix, self.names, self.fingerprints, self.lines))

    def by_name(self) -> dict[bytes, tuple[bytes, bytes]]:
        """Return each name's fingerprint and line."""
        names, size = self.names.split(b"/"), FINGERPRINT.size
        return {
            name: (self.fingerprints[number * size : (number + 1) * size], line)
            for number, (name, line) in enumerate(zip(names, self.lines.splitlines(keepends=True), strict=False))
        }


class Memory:
    """What the last take left, read once from its beginning to its end, as the walk goes on."""

    def __init__(self, file: BinaryIO | None = None, end: int = 0) -> None:
        """Take the open file, known to be whole; without one nothing is remembered.

        Args:
            end: where its stretches end.
        """
        self._file, self.end = file, end
        self._next = START
        self._stretch: Stretch | None = None
        self._last = b""  # the path of the stretch's last name
        self._opened: dict[bytes, tuple[bytes, bytes]] | None = None
        self._advance()

    @classmethod
    def load(cls, path: Path, tree: bytes, packs: Packs) -> Self:
        """Open the file; empty when it is not there, damaged, of another tree, or when a pack is gone or altered.

        Args:
            tree: what tells one tree from another.
        """
        with suppress(OSError):
            file = path.open("rb", buffering=PIECE)
            try:
                if end := _end(file, tree, packs):
                    file.seek(START)
                    return cls(file, end)
            except BaseException:
                file.close()
                raise
            file.close()
        return cls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def stretch(self, prefix: bytes, name: bytes) -> Stretch | None:
        """Return the stretch that has, or would have, a name. Names must be asked for in the order of their paths."""
        path = prefix + name
        while self._stretch and self._last < path:
            self._advance()
        return self._stretch if self._stretch and self._stretch.prefix == prefix else None

    def line(self, prefix: bytes, name: bytes, info: os.stat_result) -> bytes | None:
        """Return the line of one name in a stretch where others changed, if this one did not."""
        stretch = self.stretch(prefix, name)
        if stretch is None:
            return None
        if self._opened is None:
            self._opened = stretch.by_name()
        before, line = self._opened.get(name, (NEVER, b""))
        return line if before == fingerprint(info) else None

    def bytes_at(self, position: int, size: int) -> bytes:
        """Return bytes of the file's stretches, fewer at their end."""
        return os.pread(self._file.fileno(), min(size, self.end - position), position) if self._file else b""

    def _advance(self) -> None:
        self._stretch = self._opened = None
        if self._file is None or self._next >= self.end:
            return
        head = self._file.read(HEAD.size)
        *lengths, files, size = HEAD.unpack(head)
        parts = [self._file.read(length) for length in lengths]
        self._stretch = Stretch(parts[0], parts[1], parts[2], parts[3], files, size, self._next)
        self._last = parts[0] + self._stretch.last
        self._next += HEAD.size + sum(lengths)


def _end(file: BinaryIO, tree: bytes, packs: Packs) -> int:
    """Return where the stretches of a file end that is to be believed, else 0."""
    total, left = hashlib.sha256(), os.fstat(file.fileno()).st_size - 32
    if file.read(START) != _start(tree):
        return 0
    file.seek(0)
    while left > 0 and (piece := file.read(min(PIECE, left))):
        total.update(piece)
        left -= len(piece)
    if file.read() != total.digest():
        return 0
    end = file.seek(-32 - SIZE.size, os.SEEK_END)
    (size,) = SIZE.unpack(file.read(SIZE.size))
    file.seek(end - size)
    needed = json.loads(file.read(size))
    return end - size if {tuple(pack) for pack in needed} <= packs else 0


def _start(tree: bytes) -> bytes:
    return MAGIC + hashlib.sha256(tree).digest()


class Recorder:
    """Writes down what a take sees while it goes on.

    As long as that is what the last one saw, nothing is written, and if it is to the end the file stays untouched.
    It is not flushed to the disk: a file torn by a crash is known by its digest.
    """

    def __init__(self, path: Path | None, tree: bytes, before: Memory, began_ns: int) -> None:
        """Begin.

        Args:
            path: the file; without one nothing is written.
        """
        self._path, self._tree, self._before = path, tree, before
        self._settled_before = began_ns - RACY_NS
        self._same = START  # so far it is what is in the old file, up to here
        self._partial, self._fd = Path(), -1
        self._total = hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._doubtful: set[bytes] = set()
        self._open: list[tuple[bytes, os.stat_result, bytes]] = []
        self._prefix, self._enter = b"", b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was written, if it was not saved."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            fs.unlink(self._partial)

    def keep(self, stretch: Stretch) -> None:
        """Take a stretch of the last take over as it is."""
        self._close()
        if self._fd < 0 and stretch.at == self._same:
            self._same += len(stretch.prefix) + len(stretch.names) + len(stretch.fingerprints) + len(stretch.lines)
            self._same += HEAD.size
        elif self._path:
            self._write(stretch.encode())

    def add(self, path: bytes, info: os.stat_result, line: bytes) -> None:
        """Note one name's line, in the order of the paths."""
        if not path or not self._path:
            return
        prefix, name = split(path)
        # What is inside a folder comes before the names that sort behind "folder/", also when there is nothing.
        if prefix != self._prefix or len(self._open) >= STRETCH or (self._enter and self._enter < name):
            self._close()
            self._prefix = prefix
        self._open.append((name, info, line))
        if stat.S_ISDIR(info.st_mode):
            self._enter = name + b"/"

    def doubt(self, path: bytes) -> None:
        """Never believe the line of this path, which is still to come."""
        self._doubtful.add(path)

    def save(self, packs: Packs) -> None:
        """Put the file in place, unless all is as it was."""
        self._close()
        if self._path is None or (self._fd < 0 and self._same == self._before.end):
            return
        needed = fs.canonical_json(sorted(packs))
        self._write_out(needed + SIZE.pack(len(needed)))
        with fs.disk_full_named(self._path):
            fs.write_all(self._fd, self._total.digest())
            fs.rename(self._partial, self._path)
        os.close(self._fd)
        self._fd = -1

    def _close(self) -> None:
        """End the stretch that is open."""
        if not self._open:
            return
        regular = [info.st_size for _, info, _ in self._open if stat.S_ISREG(info.st_mode)]
        stretch = Stretch(
            prefix=self._prefix,
            names=b"".join([name + b"/" for name, _, _ in self._open]),
            fingerprints=b"".join([self._fingerprint(name, info) for name, info, _ in self._open]),
            lines=b"".join([line for _, _, line in self._open]),
            files=len(regular),
            content_bytes=sum(regular),
        )
        self._open, self._enter = [], b""
        self._write(stretch.encode())

    def _fingerprint(self, name: bytes, info: os.stat_result) -> bytes:
        multiple = info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)
        sure = not multiple and info.st_ctime_ns < self._settled_before
        return fingerprint(info) if sure and self._prefix + name not in self._doubtful else NEVER

    def _write(self, stretch: bytes) -> None:
        if self._fd < 0:
            if self._before.bytes_at(self._same, len(stretch)) == stretch:
                self._same += len(stretch)
                return
            self._begin()
        self._pending.append(stretch)
        self._pending_bytes += len(stretch)
        if self._pending_bytes >= PIECE:
            self._write_out()

    def _begin(self) -> None:
        """Make the new file, with what is the same in the old."""
        assert self._path
        with fs.disk_full_named(self._path):
            fs.remove_leftovers(self._path)
            self._partial, self._fd = fs.new_partial_file(self._path, 0o644)
        self._write_out(_start(self._tree))
        for position in range(START, self._same, PIECE):
            self._write_out(self._before.bytes_at(position, min(PIECE, self._same - position)))

    def _write_out(self, more: bytes = b"") -> None:
        assert self._path
        if self._fd < 0:
            self._begin()
        data = b"".join((*self._pending, more))
        self._pending, self._pending_bytes = [], 0
        self._total.update(data)
        with fs.disk_full_named(self._path):
            fs.write_all(self._fd, data)


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the folder a path is in, with a slash at its end, and the name there."""
    above, slash, name = path.rpartition(b"/")
    return above + slash, name
