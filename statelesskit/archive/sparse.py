"""The maps of files with holes, in the four ways GNU tar has written them.

GNU tar's manual, "Storing Sparse Files": the old format (type ``S``), and 0.0, 0.1 and 1.0 in pax records.
All say where the data is; only 1.0 puts its map before the content.
"""

from __future__ import annotations

from collections.abc import Iterator

from statelesskit.archive.pax import BLOCK, number
from statelesskit.archive.stream import BYTES_MAX, PIECE, Stream
from statelesskit.errors import FormatError, RefusedError

Ranges = list[tuple[int, int]]  # offset and length of data
RANGES_MAX = 2**20
_BAD = "a sparse file's map is no list of rising ranges in it"


def ranges_of(ranges: Ranges, real: int, stored: int) -> tuple[Ranges, tuple[tuple[int, int], ...]]:
    """Check a map against the file's length and how much of it is stored; return it tidied, and the holes.

    Raises:
        FormatError: the map lies.
    """
    if real > BYTES_MAX:
        raise RefusedError(f"a sparse file of {real} bytes is refused; at most {BYTES_MAX} are read")
    end, data, holes = 0, [], []
    for offset, length in ranges:
        if offset < end or length < 0 or offset + length > real:
            raise FormatError(_BAD)
        if length:
            if offset > end:
                holes.append((end, offset - end))
            data.append((offset, length))
            end = offset + length
    if end < real:
        holes.append((end, real - end))
    if sum(length for _, length in data) != stored:
        raise FormatError("a sparse file's map tells of more or less data than is stored")
    return data, tuple(holes)


def expand(pieces: Iterator[bytes], ranges: Ranges, real: int) -> Iterator[bytes]:
    """Yield the whole content, zeros where the holes are."""
    held, place = b"", 0
    for offset, length in ranges:
        yield from _zeros(offset - place)
        left = length
        while left:
            held = held or next(pieces)
            yield held[:left]
            held, left = held[left:], max(left - len(held), 0)
        place = offset + length
    yield from _zeros(real - place)


def _zeros(size: int) -> Iterator[bytes]:
    while size:
        piece = bytes(min(size, PIECE))
        size -= len(piece)
        yield piece


def map_1_0(stream: Stream, size: int) -> tuple[Ranges, int]:
    """Read the map before the content; return it and how many bytes it took."""
    text, used = b"", 0
    numbers: list[int] = []
    while not numbers or len(numbers) < 1 + 2 * numbers[0]:
        if used >= size:
            raise FormatError(_BAD)
        text += stream.read(BLOCK)
        used += BLOCK
        *lines, text = text.split(b"\n")
        for line in lines:
            if not line.isdigit() or len(line) > 19:
                raise FormatError(_BAD)
            numbers.append(int(line))
        if (numbers and numbers[0] > RANGES_MAX) or len(text) > 2 * BLOCK:
            raise FormatError(_BAD)
    _, *rest = numbers[: 1 + 2 * numbers[0]]
    return list(zip(rest[::2], rest[1::2], strict=True)), used


def pairs(text: bytes | None, records: list[tuple[bytes, bytes]]) -> Ranges:
    """Read the map of 0.1, in one record, or that of 0.0, in a record for each number."""
    if text is None:
        words = [value for key, value in records if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]
    else:
        words = text.split(b",") if text else []
    if len(words) % 2 or not all(word.isdigit() and len(word) <= 19 for word in words):
        raise FormatError(_BAD)
    numbers = [int(word) for word in words]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def old_gnu(block: bytes, stream: Stream) -> Ranges:
    """Read the map in an ``S`` member's header and in the blocks that extend it."""
    ranges: Ranges = []
    place, rows, more = 386, 4, 482
    while True:
        for row in range(rows):
            at = place + 24 * row
            if block[at] == 0:
                break
            ranges.append((number(block[at : at + 12], "offset"), number(block[at + 12 : at + 24], "length")))
        if not block[more]:
            return ranges
        if len(ranges) > RANGES_MAX:
            raise FormatError(_BAD)
        block = stream.read(BLOCK)
        place, rows, more = 0, 21, 504
