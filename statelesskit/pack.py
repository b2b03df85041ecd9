"""One pack: many objects in one immutable file, small ones sharing compressed frames.

Format 1. A pack is a valid file for any zstd program (RFC 8878; ``zstd -dc`` prints all contents in
a row), and seekable by the Zstandard Seekable Format 0.1.0:

1. Data frames: ordinary zstd frames. Decompressed and in a row they are the *stream*; each holds at
   most 4 MiB of it and needs a window of at most 8 MiB.
2. The object table: a skippable frame with the magic number ``0x184D2A51``. Its content is, for each
   object in the order of the stream, the 32 bytes of its SHA-256 and its length as a 64-bit integer;
   then the SHA-256 of the data frames as they lie in the file, the SHA-256 over (those rows, the seek
   table's rows, the 32 bytes just named), the number of objects as a 64-bit integer, and the eight
   bytes ``SKPACK01``. Objects lie in the stream without gaps, so an object's place is the sum of the
   lengths before it. There may be empty objects.
3. The seek table: the skippable frame ``0x184D2A5E`` with a row for each data frame, its compressed and
   its decompressed length as 32-bit integers; then the number of frames (32 bits), one byte that is 0,
   and ``0x8F92EAB1``.

All integers are little-endian. The second of the two checksums, in hexadecimal, names the file, so the
name stands for every byte of it. The tables can be made again from the data frames only together with a
manifest, so they are flushed with the data before a manifest may name any of it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO

from statelesskit import fs
from statelesskit.errors import DamagedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FRAME_SIZE = 256 * 1024  # bytes of small files gathered before they are compressed together
FRAME_MAX = 4 * 1024 * 1024  # no frame is larger; a reader needs this much memory
LEVEL = 1  # fast; repacking may use more
# Level 1 with tables that suit small frames: measured on a Debian root, a quarter less time than level 3 for three per
# cent more bytes.
QUICK: dict[int, int] = {
    zstd.CompressionParameter.compression_level: LEVEL,
    zstd.CompressionParameter.min_match: 6,
    zstd.CompressionParameter.hash_log: 15,
    zstd.CompressionParameter.window_log: 18,
}
WINDOW_LOG = 23  # a frame may not make its reader remember more than 8 MiB, as RFC 8878 recommends
SUFFIX = ".pack"
UNFINISHED = f"new{SUFFIX}"  # what a pack is called before its digest is known; see fs.partial_name
OBJECTS_MAGIC, SEEK_MAGIC, FOOTER_MAGIC = 0x184D2A51, 0x184D2A5E, 0x8F92EAB1
MARK = b"SKPACK01"
ROW = struct.Struct("<32sQ")
TAIL = struct.Struct("<32s32sQ8s")
SKIPPABLE = struct.Struct("<II")
FRAME_ROW = struct.Struct("<II")
FOOTER = struct.Struct("<IBI")


class PackWriter:
    """Appends objects to a pack; one thread at a time.

    First :meth:`seal` puts it on the disk, then :meth:`publish` gives it its name. The unfinished file is
    locked while its writer lives, which tells it from a dead one's leftover.
    """

    def __init__(self, folder: Path, *, level: int = LEVEL, frame_size: int = FRAME_SIZE) -> None:
        self._folder = folder
        self._frame_size = frame_size
        self._temporary, self._fd = fs.new_partial_file(folder / UNFINISHED, 0o444)
        strong: dict[int, int] = {zstd.CompressionParameter.compression_level: level}
        options = QUICK if level == LEVEL else strong
        self._compressor = zstd.ZstdCompressor(options=options)
        self._gathered: list[bytes] = []  # for the next frame
        self._gathered_bytes = 0
        self._seek_rows = bytearray()  # as they are written: a list of tuples takes four times as much memory
        self._rows = bytearray()
        self._position = 0
        self._packed = hashlib.sha256()  # of the data frames
        self._name = ""  # once it is sealed

    def add(self, digest: bytes, content: bytes) -> None:
        """Append a small object whose digest is known."""
        self._rows += ROW.pack(digest, len(content))
        self._gather(content)

    def _gather(self, content: bytes) -> None:
        self._gathered.append(content)
        self._gathered_bytes += len(content)
        if self._gathered_bytes >= self._frame_size:
            self._flush()

    def add_stream(self, pieces: Iterable[bytes]) -> tuple[bytes, int]:
        """Append a large object while it is hashed; return its digest and size.

        If it turns out to be known, or not to be wanted, :meth:`undo` takes the last one back.
        """
        self._flush()
        self._before = (self._position, len(self._seek_rows), len(self._rows), self._packed.copy())
        total, size = hashlib.sha256(), 0
        try:
            for piece in pieces:
                total.update(piece)
                size += len(piece)
                self._gather(piece)
            self._flush()
        except BaseException:
            self.undo()
            raise
        self._rows += ROW.pack(total.digest(), size)
        return total.digest(), size

    def undo(self) -> None:
        """Take back what the last :meth:`add_stream` appended; only right after it."""
        self._gathered, self._gathered_bytes = [], 0
        self._position, seek_rows, rows, self._packed = self._before
        del self._seek_rows[seek_rows:], self._rows[rows:]
        fs.truncate(self._fd, self._position)

    def _flush(self) -> None:
        """Compress what is gathered, in frames of at most ``FRAME_MAX``."""
        # Nothing is copied that need not be: copying needs the GIL, which the other threads are waiting for.
        whole = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
        for start in range(0, len(whole), FRAME_MAX):
            content = memoryview(whole)[start : start + FRAME_MAX]
            frame = self._compressor.compress(content, zstd.ZstdCompressor.FLUSH_FRAME)
            fs.write_all(self._fd, frame)
            self._packed.update(frame)
            self._seek_rows += FRAME_ROW.pack(len(frame), len(content))
            self._position += len(frame)
        self._gathered, self._gathered_bytes = [], 0

    def seal(self) -> None:
        """Write the tables, and flush everything to the disk."""
        self._flush()
        if not self._rows:
            return
        packed = self._packed.digest()
        checksum = hashlib.sha256(self._rows)
        checksum.update(self._seek_rows)
        checksum.update(packed)
        tail = TAIL.pack(packed, checksum.digest(), len(self._rows) // ROW.size, MARK)
        for part in (
            SKIPPABLE.pack(OBJECTS_MAGIC, len(self._rows) + len(tail)),
            self._rows,
            tail + SKIPPABLE.pack(SEEK_MAGIC, len(self._seek_rows) + FOOTER.size),
            self._seek_rows,
            FOOTER.pack(len(self._seek_rows) // FRAME_ROW.size, 0, FOOTER_MAGIC),
        ):
            fs.write_all(self._fd, part)
        fs.fsync(self._fd)
        self._name = checksum.hexdigest() + SUFFIX

    def publish(self) -> Path | None:
        """Give the sealed pack its name; None if there is nothing in it. The folder is not flushed."""
        if not self._rows:
            self.abandon()
            return None
        path = self._folder / self._name
        fs.rename(self._temporary, path)
        os.close(self._fd)
        self._fd = -1
        return path

    def abandon(self) -> None:
        """Remove the unfinished pack; does nothing after :meth:`publish`."""
        if self._fd >= 0:
            fs.remove_tree(self._temporary)
            os.close(self._fd)
            self._fd = -1

    @property
    def stored_bytes(self) -> int:
        """How many bytes the data frames take so far."""
        return self._position


class Pack:
    """Reads one pack; any number of threads may do so at once. The file is open only while it is read.

    Its objects are numbered from 0 in the order of the stream; ``len`` says how many there are.
    """

    _last = threading.local()  # each thread's last frame, of all packs: neighbours in a frame are read in a row

    def __init__(self, path: Path) -> None:
        """Read a pack's tables and check them.

        Raises:
            DamagedError: it is no pack, is cut off, or a table is not what its checksum says.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._read_tables(file)
        except (OSError, struct.error, ValueError, OverflowError) as error:
            raise self._damaged(error) from error

    def _damaged(self, why: object) -> DamagedError:
        return DamagedError(
            f"the pack {self.path} is damaged: {why}",
            hint="statelesskit snapshot verify says which snapshots need it",
        )

    def _read_tables(self, file: IO[bytes]) -> None:
        end = os.fstat(file.fileno()).st_size
        frames, flags, magic = FOOTER.unpack(_at(file, end - FOOTER.size, FOOTER.size))
        if magic != FOOTER_MAGIC or flags:
            raise ValueError("it does not end in a seek table")
        seek_size = frames * FRAME_ROW.size
        end -= FOOTER.size + seek_size
        seek_rows = _at(file, end, seek_size)
        end -= SKIPPABLE.size
        if SKIPPABLE.unpack(_at(file, end, SKIPPABLE.size)) != (SEEK_MAGIC, seek_size + FOOTER.size):
            raise ValueError("the seek table's head is wrong")
        end -= TAIL.size
        self._packed_sha256, checksum, objects, mark = TAIL.unpack(_at(file, end, TAIL.size))
        end -= objects * ROW.size
        rows = _at(file, end, objects * ROW.size)
        end -= SKIPPABLE.size
        head = SKIPPABLE.unpack(_at(file, end, SKIPPABLE.size))
        if mark != MARK or head != (OBJECTS_MAGIC, len(rows) + TAIL.size):
            raise ValueError("it does not hold an object table")
        expected = hashlib.sha256(rows)
        expected.update(seek_rows + self._packed_sha256)
        if checksum != expected.digest() or checksum.hex() != self.path.stem:
            raise ValueError("the tables are not what their checksum says")
        self._rows = rows  # as they are in the file: a list of digests takes twice as much memory
        self._places = array("Q", accumulate((size for _, size in ROW.iter_unpack(rows)), initial=0))
        self._packed = array("Q", accumulate((row[0] for row in FRAME_ROW.iter_unpack(seek_rows)), initial=0))
        self._stream = array("Q", accumulate((row[1] for row in FRAME_ROW.iter_unpack(seek_rows)), initial=0))
        if self._packed[-1] != end or self._stream[-1] != self._places[-1]:
            raise ValueError("the tables do not fit the data")
        if any(after - before > FRAME_MAX for before, after in pairwise(self._stream)):
            raise ValueError("a frame is larger than any may be")

    def __len__(self) -> int:
        return len(self._places) - 1

    @property
    def packed_bytes(self) -> int:
        """How long the data frames are in the file."""
        return int(self._packed[-1])

    @property
    def frame_bytes(self) -> int:
        """How much a frame holds on average, uncompressed: more than ``FRAME_SIZE`` when it was written anew."""
        return int(self._stream[-1]) // max(len(self._stream) - 1, 1)

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all objects, in order."""
        return (digest for digest, _ in ROW.iter_unpack(self._rows))

    def digest(self, number: int) -> bytes:
        """Return one object's digest."""
        return self._rows[number * ROW.size : number * ROW.size + 32]

    def size(self, number: int) -> int:
        """Return one object's length in bytes."""
        return int(self._places[number + 1] - self._places[number])

    def verify(self) -> None:
        """Read the whole file, and hold its data against its name.

        Raises:
            DamagedError: some byte is not what it was.
        """
        fault, _ = self.faults()
        if fault:
            raise fault

    def faults(self, advance: Callable[[int], object] = bool) -> tuple[DamagedError | None, list[int]]:
        """Read the whole file once; say what is wrong with it, and which objects in it are damaged.

        ``advance`` is told how many bytes of it were read, again and again.
        There may be a fault that hurts no object: some bits of a zstd frame change nothing in what it holds.
        """
        packed, damaged = hashlib.sha256(), list[int]()
        number, position, digest, whole = 0, 0, hashlib.sha256(), True
        fault: DamagedError | None = None
        for frame, (start, end) in enumerate(pairwise(self._stream)):
            content = b""
            try:
                content = self._decompressed(frame, packed.update)
                advance(self._packed[frame + 1] - self._packed[frame])
            except DamagedError as error:
                fault = fault or error
            while number < len(self):
                stop = min(self._places[number + 1], end)
                whole = whole and (stop == position or len(content) == end - start)
                digest.update(memoryview(content)[position - start : stop - start])
                position = stop
                if stop < self._places[number + 1]:
                    break  # it goes on in the next frame
                if not whole or digest.digest() != self.digest(number):
                    damaged.append(number)
                number, digest, whole = number + 1, hashlib.sha256(), True
        # Without a frame there are none but empty objects.
        damaged += [left for left in range(number, len(self)) if digest.digest() != self.digest(left)]
        if packed.digest() != self._packed_sha256:
            fault = self._damaged("its data is not what its checksum says")
        elif damaged and not fault:  # it was written so
            fault = self._damaged(f"{len(damaged)} objects are not what their digests say")
        return fault, damaged

    def read(self, number: int) -> Iterator[bytes]:
        """Yield the content of the object with that number in the stream, in pieces, unverified.

        Raises:
            DamagedError: a frame cannot be decompressed.
        """
        position, left = self._places[number], self.size(number)
        frame = bisect_right(self._stream, position) - 1
        while left:
            content = self._frame(frame)
            start = position - self._stream[frame]
            piece = content[start : start + left]
            yield piece
            position, left, frame = position + len(piece), left - len(piece), frame + 1

    def _frame(self, frame: int) -> bytes:
        pack, number, content = getattr(self._last, "frame", (None, -1, b""))
        if pack is not self or number != frame:
            content = self._decompressed(frame)
            self._last.frame = (self, frame, content)
        return content

    def _decompressed(self, frame: int, tell: Callable[[bytes], object] = len) -> bytes:
        """Read a frame, give it as it lies in the file to ``tell``, and return what it holds."""
        size = self._stream[frame + 1] - self._stream[frame]
        try:
            with self.path.open("rb", buffering=0) as file:
                packed = _at(file, self._packed[frame], self._packed[frame + 1] - self._packed[frame])
            tell(packed)
            # One byte more than there should be is enough to see a frame that would swell.
            decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
            content = decompressor.decompress(packed, max_length=size + 1)
            if len(content) != size or not decompressor.eof or decompressor.unused_data:
                raise ValueError(f"it does not hold the {size} bytes that the table says")
        except (OSError, zstd.ZstdError, ValueError, EOFError) as error:
            raise self._damaged(f"frame {frame}: {error}") from error
        return content


def _at(file: IO[bytes], offset: int, size: int) -> bytes:
    found = os.pread(file.fileno(), size, offset) if offset >= 0 else b""
    if len(found) != size:
        raise ValueError("it is cut off")
    return found
