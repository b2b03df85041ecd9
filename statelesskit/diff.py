"""Compare two manifests while they are read: equal stretches as bytes, lines only where they differ.

Both are in the order of their paths, so one walk through both is enough, and what is in memory is a piece of
each and what differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from statelesskit.manifest import Change, change_between, decode

LEAST, MOST, GROWTH = 512, 65536, 4  # bytes compared at once, more each time while they are equal
SHORT = 64  # bytes; few enough that often no line ends in them


def diff_pieces(before: Iterator[bytes], after: Iterator[bytes]) -> list[Change]:
    """Return what differs, in path order, as :func:`statelesskit.manifest.diff` does.

    Both iterators are read to their ends, and nothing is parsed before: what they raise when the manifest turns
    out to be damaged is raised here.

    Args:
        before, after: a manifest's lines without the header, many at a time, never a part of one.
    """
    found = list(_lines(_Text(before), _Text(after)))
    return [change_between(decode(old) if old else None, decode(new) if new else None) for old, new in found]


class _Text:
    """The lines from one iterator: ``text[at:]`` is what was not looked at yet of the last piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.text, self.at = b"", 0

    def more(self) -> bool:
        """Get another piece if there is nothing left of this one; say whether there is anything."""
        while self.at == len(self.text):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self.text, self.at = piece, 0
        return True

    def line(self) -> bytes:
        """Return the next line, and stay before it."""
        return self.text[self.at : self.text.find(b"\n", self.at) + 1]


def _lines(old: _Text, new: _Text) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Yield each path's line before and after where they differ; None where the path is not there."""
    # Both are asked, so that also the longer one is read to its end.
    while old.more() & new.more():
        equal = _equal_lines(old, new)
        old.at += equal
        new.at += equal
        if old.at == len(old.text) or new.at == len(new.text):
            continue
        was, now = old.line(), new.line()
        first, second = path_of(was), path_of(now)
        if first <= second:
            old.at += len(was)
        if second <= first:
            new.at += len(now)
        yield (was if first <= second else None), (now if second <= first else None)
    for text, place in ((old, 0), (new, 1)):
        while text.more():
            line = text.line()
            text.at += len(line)
            yield (line, None) if place == 0 else (None, line)


def _equal_lines(old: _Text, new: _Text) -> int:
    """Return the length of the whole lines that are the same from here on, in what is in memory of both."""
    first, second, start, other = old.text, new.text, old.at, new.at
    most = min(len(first) - start, len(second) - other)
    equal, step = 0, LEAST
    while equal < most and first.startswith(second[other + equal : other + min(equal + step, most)], start + equal):
        equal = min(equal + step, most)
        step = min(step * GROWTH, MOST)
    end = min(equal + step, most)  # all up to equal is the same, something before end is not
    while equal < end and (end - equal > SHORT or first.find(b"\n", start + equal, start + end) >= 0):
        middle = (equal + end + 1) // 2
        if first.startswith(second[other + equal : other + middle], start + equal):
            equal = middle
        else:
            end = middle - 1
    return max(first.rfind(b"\n", start, start + equal) + 1 - start, 0)


def path_of(line: bytes) -> bytes:
    """Return the path of a line without parsing it; of what is no line, anything."""
    # In a manifest's text quotation marks have a backslash before them, so this can stand nowhere but at the key.
    start = line.find(b'"path":"') + 8
    end = line.find(b'"', start)
    if line.find(b"\\", start, end) < 0:
        return line[start:end]
    while end > 0 and _escaped(line, end):
        end = line.find(b'"', end + 1)
    try:
        return str(json.loads(line[start - 1 : end + 1])).encode("utf-8", "surrogateescape")
    except ValueError:
        return line[start:end]


def _escaped(line: bytes, end: int) -> bool:
    """Say whether the character at ``end`` has an odd number of backslashes before it."""
    before = line[:end]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1
