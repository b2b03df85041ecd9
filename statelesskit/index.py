"""The index of a store: where each object is, so that no pack has to be opened to know.

Format 1 of ``store/index``, all integers big-endian:

1. The eight bytes ``SKINDX01``, the number of packs (32 bits), the number of rows (64 bits).
2. For each pack the 32 bytes that name its file, and that file's size (64 bits).
3. The rows, sorted by their bytes: the 32 bytes of an object's SHA-256, the number of a pack in the list
   above (32 bits), the object's number in that pack (32 bits). An object in two packs has two rows.
4. The SHA-256 of all that.

The file is derived from the packs' own tables, and not flushed to the disk: one that is missing, torn or
damaged is made again by the next who needs it. It may name packs that are gone, which are not to be
believed, and lack packs that are new.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from statelesskit import fs
from statelesskit.errors import DamagedError
from statelesskit.pack import SUFFIX, Pack

MAGIC = b"SKINDX01"
HEAD = struct.Struct(">8sIQ")
PACK_ROW = struct.Struct(">32sQ")
PLACE = struct.Struct(">II")
DIGEST = 32
ROW = DIGEST + PLACE.size
PIECE = 1024 * 1024
STEP = 16384  # rows taken out of the file at once

PackFile = tuple[str, int]  # a pack's file name and size


class Index:
    """The rows of some packs; any number of threads may ask at once.

    Attributes:
        packs: name and size of each pack's file, in the order of their numbers.
        rows: how many there are.
    """

    def __init__(self, packs: Sequence[PackFile], data: bytes | mmap.mmap, offset: int, rows: int) -> None:
        self.packs = list(packs)
        self.rows = rows
        self._data, self._offset = data, offset

    @classmethod
    def load(cls, path: Path) -> Index:
        """Open an index that is on the disk, and hold every byte against its checksum.

        Raises:
            DamagedError: it is not there, or not whole.
        """
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                _check(file.fileno(), size)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            magic, packs, rows = HEAD.unpack_from(data)
            offset = HEAD.size + packs * PACK_ROW.size
            if magic != MAGIC or offset + rows * ROW + DIGEST != size:
                raise ValueError("its head does not fit")
            table = data[HEAD.size : offset]
        except (OSError, ValueError, struct.error) as error:
            raise DamagedError(f"the index {path} cannot be used: {error}") from error
        return cls([(name.hex() + SUFFIX, size) for name, size in PACK_ROW.iter_unpack(table)], data, offset, rows)

    @classmethod
    def of(cls, packs: Mapping[PackFile, Pack], before: Index | None = None, gone: Iterable[int] = ()) -> Index:
        """Make an index in memory, of packs and of what another says.

        Args:
            before: the other; its packs keep their order, and stand before.
            gone: the numbers of those of its packs to leave out.
        """
        gone = frozenset(gone)
        kept = [] if before is None else [pack for number, pack in enumerate(before.packs) if number not in gone]
        data = b"".join(_sorted_rows(list(packs.values()), len(kept), before, gone))
        return cls([*kept, *packs], data, 0, len(data) // ROW)

    def places(self, digest: bytes) -> Iterator[tuple[int, int]]:
        """Yield each place an object has: the number of a pack, and its number there."""
        data, offset = self._data, self._offset  # in a closure, as this is asked for every file
        row = bisect_left(range(self.rows), digest, key=lambda at: data[offset + at * ROW : offset + at * ROW + DIGEST])
        while row < self.rows and self._digest(row) == digest:
            yield PLACE.unpack_from(self._data, self._offset + row * ROW + DIGEST)
            row += 1

    def digests(self, packs: Container[int]) -> Iterator[bytes]:
        """Yield the digests of all rows of some packs."""
        every = all(number in packs for number in range(len(self.packs)))
        for start in range(0, self.rows, STEP):
            rows = self.between(start, min(start + STEP, self.rows))
            if every:
                yield from (row[:DIGEST] for row in rows)
            else:
                yield from (row[:DIGEST] for row in rows if PLACE.unpack_from(row, DIGEST)[0] in packs)

    def _digest(self, row: int) -> bytes:
        start = self._offset + row * ROW
        return bytes(self._data[start : start + DIGEST])

    def below(self, first: int) -> int:
        """Return how many rows begin with a byte that is less than ``first``."""
        return bisect_left(range(self.rows), first, key=lambda row: self._digest(row)[0])

    def between(self, start: int, end: int) -> list[bytes]:
        """Return some rows."""
        return list(_split(self._data[self._offset + start * ROW : self._offset + end * ROW]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self.packs == other.packs and self._table == other._table

    __hash__ = None  # type: ignore[assignment]

    @property
    def _table(self) -> memoryview:
        return memoryview(self._data)[self._offset : self._offset + self.rows * ROW]

    def write(self, path: Path) -> None:
        """Put the index in place at once, not flushed.

        Raises:
            OSError, NoSpaceError: it could not be written; what was there before still is.
        """
        total = hashlib.sha256()
        names = b"".join(PACK_ROW.pack(bytes.fromhex(name[: -len(SUFFIX)]), size) for name, size in self.packs)
        with fs.new_file(path, durable=False) as fd:
            for part in (HEAD.pack(MAGIC, len(self.packs), self.rows), names, self._table):
                total.update(part)
                fs.write_all(fd, part)
            fs.write_all(fd, total.digest())


def _check(fd: int, size: int) -> None:
    """Hold a file against the checksum at its end, without mapping it into memory.

    Raises:
        ValueError: it does not fit.
    """
    total, left = hashlib.sha256(), size - DIGEST
    while left > 0 and (piece := os.read(fd, min(left, PIECE))):
        total.update(piece)
        left -= len(piece)
    if left or os.read(fd, DIGEST) != total.digest():
        raise ValueError("it is not what its checksum says")


def _sorted_rows(packs: Sequence[Pack], first: int, before: Index | None, gone: frozenset[int]) -> Iterator[bytes]:
    """Yield all rows in order, those of one first byte at a time: sorted at once, a million take too much memory."""
    buckets = [bytearray() for _ in range(256)]
    for pack_number, pack in enumerate(packs, start=first):
        for number, digest in enumerate(pack.digests()):
            buckets[digest[0]] += digest + PLACE.pack(pack_number, number)
    renumbered = _renumbered(before, gone) if before is not None and gone else None
    start = 0
    for byte, bucket in enumerate(buckets):
        rows = list(_split(bucket))
        if before is not None:
            end = before.below(byte + 1)
            old = before.between(start, end)
            if renumbered is not None:
                old = [row[:DIGEST] + new + row[-4:] for row in old if (new := renumbered.get(row[DIGEST:-4]))]
            rows, start = old + rows, end
        rows.sort()
        buckets[byte] = bytearray()
        yield b"".join(rows)


def _renumbered(before: Index, gone: frozenset[int]) -> dict[bytes, bytes]:
    """Map the numbers of packs that stay to their new ones, both as rows hold them."""
    kept = (number for number in range(len(before.packs)) if number not in gone)
    return {old.to_bytes(4, "big"): new.to_bytes(4, "big") for new, old in enumerate(kept)}


def _split(rows: bytes | bytearray) -> Iterator[bytes]:
    return chain.from_iterable(struct.iter_unpack(f"{ROW}s", rows))
