"""One pack: many objects in one immutable file, small ones sharing compressed frames.

Format 1. A pack is a valid file for any zstd program (RFC 8878; ``zstd -dc`` prints all contents in
a row), and seekable by the Zstandard Seekable Format 0.1.0:

1. Data frames: ordinary zstd frames. Decompressed and in a row they are the *stream*; each holds at
   most ``FRAME_MAX`` bytes of it.
2. The object table: a skippable frame with the magic number ``0x184D2A51``. Its content is, for each
   object in the order of the stream, the 32 bytes of its SHA-256 and its length as a 64-bit integer;
   then the SHA-256 over those rows and the seek table's rows, the number of objects as a 64-bit
   integer, and the eight bytes ``SKPACK01``. Objects lie in the stream without gaps, so an object's
   place is the sum of the lengths before it.
3. The seek table: the skippable frame ``0x184D2A5E`` with a row for each data frame, its compressed and
   its decompressed length as 32-bit integers; then the number of frames (32 bits), one byte that is 0,
   and ``0x8F92EAB1``.

All integers are little-endian. The file is named by the table's SHA-256. The tables can be made again
from the data frames only together with a manifest, so they are flushed with the data before a manifest
may name any of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import sys
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path

from statelesskit import fs
from statelesskit.errors import DamagedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FRAME_SIZE = 256 * 1024  # bytes of small files gathered before they are compressed together
FRAME_MAX = 4 * 1024 * 1024  # no frame is larger; a reader needs this much memory
LEVEL = 3  # fast; repacking may use more
SUFFIX = ".pack"
OBJECTS_MAGIC, SEEK_MAGIC, FOOTER_MAGIC = 0x184D2A51, 0x184D2A5E, 0x8F92EAB1
MARK = b"SKPACK01"
ROW = struct.Struct("<32sQ")
TAIL = struct.Struct("<32sQ8s")
SKIPPABLE = struct.Struct("<II")
FRAME_ROW = struct.Struct("<II")
FOOTER = struct.Struct("<IBI")


class PackWriter:
    """Appends objects to a pack that gets its name when it is whole; one thread at a time.

    The unfinished file is locked while its writer lives, which tells it from a dead one's leftover.
    """

    def __init__(self, folder: Path, *, level: int = LEVEL) -> None:
        self._folder = folder
        self._temporary, self._fd = _new_locked_file(folder)
        self._compressor = zstd.ZstdCompressor(level=level)
        self._buffer = bytearray()
        self._frames: list[tuple[int, int]] = []
        self._objects: list[tuple[bytes, int]] = []
        self._position = 0

    def add(self, digest: bytes, content: bytes) -> None:
        """Append a small object whose digest is known."""
        self._objects.append((digest, len(content)))
        self._buffer += content
        if len(self._buffer) >= FRAME_SIZE:
            self._flush()

    def add_stream(self, pieces: Iterable[bytes]) -> tuple[bytes, int]:
        """Append a large object while it is hashed; return its digest and size.

        If it turns out to be known, or not to be wanted, :meth:`undo` takes the last one back.
        """
        self._flush()
        self._before = (self._position, len(self._frames), len(self._objects))
        total, size = hashlib.sha256(), 0
        try:
            for piece in pieces:
                total.update(piece)
                size += len(piece)
                self._buffer += piece
                if len(self._buffer) >= FRAME_SIZE:
                    self._flush()
            self._flush()
        except BaseException:
            self.undo()
            raise
        self._objects.append((total.digest(), size))
        return self._objects[-1]

    def undo(self) -> None:
        """Take back what the last :meth:`add_stream` appended; only right after it."""
        self._buffer.clear()
        self._position, frames, objects = self._before
        del self._frames[frames:], self._objects[objects:]
        os.ftruncate(self._fd, self._position)
        os.lseek(self._fd, self._position, os.SEEK_SET)

    def _flush(self) -> None:
        """Compress what is gathered, in frames of at most ``FRAME_MAX``."""
        for start in range(0, len(self._buffer), FRAME_MAX):
            content = self._buffer[start : start + FRAME_MAX]
            frame = self._compressor.compress(content, zstd.ZstdCompressor.FLUSH_FRAME)
            fs.write_all(self._fd, frame)
            self._frames.append((len(frame), len(content)))
            self._position += len(frame)
        self._buffer.clear()

    def finish(self) -> Path | None:
        """Write the tables, flush everything to the disk, and give the pack its name; None if it is empty."""
        self._flush()
        if not self._objects:
            self.abandon()
            return None
        rows = b"".join(ROW.pack(digest, size) for digest, size in self._objects)
        seek_rows = b"".join(FRAME_ROW.pack(*frame) for frame in self._frames)
        checksum = hashlib.sha256(rows + seek_rows).digest()
        table = rows + TAIL.pack(checksum, len(self._objects), MARK)
        footer = FOOTER.pack(len(self._frames), 0, FOOTER_MAGIC)
        fs.write_all(
            self._fd,
            b"".join(
                (
                    SKIPPABLE.pack(OBJECTS_MAGIC, len(table)),
                    table,
                    SKIPPABLE.pack(SEEK_MAGIC, len(seek_rows) + FOOTER.size),
                    seek_rows,
                    footer,
                )
            ),
        )
        fs.fsync(self._fd)
        path = self._folder / (checksum.hex() + SUFFIX)
        fs.rename(self._temporary, path)
        os.close(self._fd)
        self._fd = -1
        return path

    def abandon(self) -> None:
        """Remove the unfinished pack; does nothing after :meth:`finish`."""
        if self._fd >= 0:
            fs.unlink(self._temporary)
            os.close(self._fd)
            self._fd = -1

    @property
    def stored_bytes(self) -> int:
        """How many bytes the data frames take so far."""
        return self._position


def _new_locked_file(folder: Path) -> tuple[Path, int]:
    while True:
        path = fs.partial_name(folder / f"new{SUFFIX}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return path, fd
        os.close(fd)  # somebody cleaning up took it for a leftover before we had locked it


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished packs of writers that died: those that nobody locks."""
    for path in folder.glob(f".*{fs.PARTIAL}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


class Pack:
    """Reads one pack; any number of threads may do so at once.

    Attributes:
        digests: of all objects, in the order of the stream.
        sizes: their lengths in bytes.
    """

    def __init__(self, path: Path) -> None:
        """Open a pack and check its tables.

        Raises:
            DamagedError: it is no pack, is cut off, or a table is not what its checksum says.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._read_tables()
        except (struct.error, ValueError, OverflowError) as error:
            self.close()
            raise DamagedError(
                f"the pack {path} is damaged: {error}",
                hint="statelesskit snapshot verify says which snapshots need it",
            ) from error
        self._last = threading.local()  # each thread's last frame: neighbours in a frame are read in a row

    def _read_tables(self) -> None:
        end = os.fstat(self._fd).st_size
        frames, flags, magic = FOOTER.unpack(self._at(end - FOOTER.size, FOOTER.size))
        if magic != FOOTER_MAGIC or flags:
            raise ValueError("it does not end in a seek table")
        seek_size = frames * FRAME_ROW.size
        end -= FOOTER.size + seek_size
        seek_rows = self._at(end, seek_size)
        end -= SKIPPABLE.size
        if SKIPPABLE.unpack(self._at(end, SKIPPABLE.size)) != (SEEK_MAGIC, seek_size + FOOTER.size):
            raise ValueError("the seek table's head is wrong")
        end -= TAIL.size
        checksum, objects, mark = TAIL.unpack(self._at(end, TAIL.size))
        end -= objects * ROW.size
        rows = self._at(end, objects * ROW.size)
        end -= SKIPPABLE.size
        head = SKIPPABLE.unpack(self._at(end, SKIPPABLE.size))
        if mark != MARK or head != (OBJECTS_MAGIC, len(rows) + TAIL.size):
            raise ValueError("it does not hold an object table")
        if hashlib.sha256(rows + seek_rows).digest() != checksum or checksum.hex() != self.path.stem:
            raise ValueError("the tables are not what their checksum says")
        self.digests = [digest for digest, _ in ROW.iter_unpack(rows)]
        self.sizes = array("Q", (size for _, size in ROW.iter_unpack(rows)))
        self._places = array("Q", accumulate(self.sizes, initial=0))
        self._packed = array("Q", accumulate((row[0] for row in FRAME_ROW.iter_unpack(seek_rows)), initial=0))
        self._stream = array("Q", accumulate((row[1] for row in FRAME_ROW.iter_unpack(seek_rows)), initial=0))
        if self._packed[-1] != end or self._stream[-1] != self._places[-1]:
            raise ValueError("the tables do not fit the data")
        if any(after - before > FRAME_MAX for before, after in pairwise(self._stream)):
            raise ValueError("a frame is larger than any may be")

    def _at(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0:
            raise ValueError("it is cut off")
        found = os.pread(self._fd, size, offset)
        if len(found) != size:
            raise ValueError("it is cut off")
        return found

    def read(self, number: int) -> Iterator[bytes]:
        """Yield the content of the object with that number in the stream, in pieces, unverified.

        Raises:
            DamagedError: a frame cannot be decompressed.
        """
        position, left = self._places[number], self.sizes[number]
        frame = bisect_right(self._stream, position) - 1
        while left:
            content = self._frame(frame)
            start = position - self._stream[frame]
            piece = content[start : start + left]
            yield piece
            position, left, frame = position + len(piece), left - len(piece), frame + 1

    def _frame(self, frame: int) -> bytes:
        number, content = getattr(self._last, "frame", (-1, b""))
        if number != frame:
            size = self._stream[frame + 1] - self._stream[frame]
            try:
                packed = self._at(self._packed[frame], self._packed[frame + 1] - self._packed[frame])
                # One byte more than there should be is enough to see a frame that would swell.
                decompressor = zstd.ZstdDecompressor()
                content = decompressor.decompress(packed, max_length=size + 1)
                if len(content) != size or not decompressor.eof:
                    raise ValueError(f"it holds {len(content)} bytes, the table says {size}")
            except (zstd.ZstdError, ValueError, EOFError) as error:
                raise DamagedError(f"frame {frame} of the pack {self.path} is damaged: {error}") from error
            self._last.frame = (frame, content)
        return content

    def close(self) -> None:
        os.close(self._fd)
