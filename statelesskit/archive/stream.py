"""Bytes of an archive as they come: decompressed by what they begin with, counted, never more than was asked for."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from typing import Any, BinaryIO, cast

from statelesskit.errors import FormatError, RefusedError
from statelesskit.names import printable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE = 1024 * 1024
BYTES_MAX = 2**40  # an archive that holds more than 1 TiB, holes as zeros, is taken for an attack
WINDOW_LOG = 27  # decompressing may remember 128 MiB: what `zstd` takes without being told
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK": "zip", b"\x04\x22\x4d\x18": "lz4"}


def decompressed(file: BufferedReader[Any]) -> BinaryIO:
    """Return what is in a compressed file, or the file itself if it is none.

    Raises:
        FormatError: it is compressed in a way we don't read.
    """
    start = file.peek(8)
    for magic, kind in FOREIGN.items():
        if start.startswith(magic):
            raise FormatError(f"it is a {kind} file, which is not read here", hint="compress it with gzip or zstd")
    if start.startswith(GZIP):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))
    if start.startswith(ZSTD):
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        return cast("BinaryIO", zstd.ZstdFile(file, options=options))
    return file


class Stream:
    """Reads exactly as much as it is asked for.

    Attributes:
        position: how many bytes were read so far.
    """

    def __init__(self, file: BinaryIO, most: int = BYTES_MAX, see: Callable[[bytes], object] | None = None) -> None:
        """Read a file, refuse more than ``most`` bytes of it, and show them to ``see``."""
        self._file, self._see = file, see
        self._most = most
        self.position = 0

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes. Raises FormatError if there are not so many, or they can't be decompressed."""
        found = self.read_some(size)
        while len(found) < size:
            more = self.read_some(size - len(found))
            if not more:
                raise FormatError("it is cut off")
            found += more
        return found

    def read_some(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        try:
            found = self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
            raise FormatError(f"it can't be decompressed: {printable(error)}") from error
        if self._see:
            self._see(found)
        self.position += len(found)
        if self.position > self._most:
            raise RefusedError(f"the archive holds more than {self._most / 1e9:.0f} GB, which is refused")
        return found

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield exactly ``size`` bytes in pieces."""
        while size:
            piece = self.read(min(size, PIECE))
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Read over ``size`` bytes."""
        for _ in self.pieces(size):
            pass
