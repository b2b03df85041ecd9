"""Whose work a change is: each one the product makes names its record, in a way the change log keeps.

The session tracking control (draft-wahl-ldap-session-03) carries the record's name, a number and an HMAC
of both. Its key is made for one apply and stands in the record, whose events only its owner can read until
the run has ended. So whoever copies a record's name, or one of its marks, is told apart: by a mark no key
made, one seen before, or one that came after the end.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import count

from statelesskit.directory.schema import ARC

SESSION_TRACKING = "1.3.6.1.4.1.21008.108.63.1"
FORMAT = f"{ARC}.3.1"  # what the identifier is: record, number and mark, with spaces between
KEY_BYTES = 16
ACKNOWLEDGE = "directory acknowledge"  # the verb whose records say which changes without a record are known
_SEQUENCE, _OCTETS = 0x30, 0x04  # tags of BER
_LOGGED = re.compile(rf'\{{{re.escape(SESSION_TRACKING)} [^"]*controlValue "([0-9A-Fa-f]*)"')

Control = tuple[str, bool, bytes | None]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a change says of who made it.

    Attributes:
        record: the record it names.
        number: counts the changes of one key.
        mark: the HMAC of both, in hex.
    """

    record: str
    number: int
    mark: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the directory.

    Attributes:
        how: ``add``, ``modify`` or ``delete``; "" for many changes made at once.
        dn: of the entry; "" for many.
    """

    how: str
    dn: str


class Author:
    """The record in whose name this process changes the directory.

    Args:
        begin: returns the record's name and the key that stands in it; called at the first change.

    Attributes:
        changes: what was sent, whatever came of it.
    """

    def __init__(self, begin: Callable[[], tuple[str, bytes]]) -> None:
        self.changes: set[Change] = set()
        self._begun = cache(begin)
        self._numbers = count(1)

    def control(self, change: Change) -> Control:
        """Return the control the next change is sent with; no two are the same."""
        self.changes.add(change)
        record, key = self._begun()
        number = next(self._numbers)
        claim = f"{record} {number} {mark_of(key, record, number)}"
        return SESSION_TRACKING, False, _encoded(("", "statelesskit", FORMAT, claim))


_author: ContextVar[Author | None] = ContextVar("author", default=None)


def current() -> Author | None:
    """Return in whose name this thread changes the directory."""
    return _author.get()


@contextmanager
def in_the_name_of(author: Author) -> Iterator[None]:
    """Have every connection opened in this block name the record with each change."""
    before = _author.set(author)
    try:
        yield
    finally:
        _author.reset(before)


def new_key() -> bytes:
    return os.urandom(KEY_BYTES)


def mark_of(key: bytes, record: str, number: int) -> str:
    return hmac.new(key, f"{record} {number}".encode(), hashlib.sha256).hexdigest()[:32]


def claim_in(controls: str) -> Claim | None:
    """Return the claim in one value of ``reqControls``, as slapo-accesslog writes it, if it holds one of ours."""
    found = _LOGGED.search(controls)
    texts = _decoded(bytes.fromhex(found[1])) if found and len(found[1]) % 2 == 0 else []
    words = texts[3].split(" ") if len(texts) == 4 and texts[2] == FORMAT else []
    if len(words) != 3 or not re.fullmatch("[0-9]{1,18}", words[1], re.ASCII):
        return None
    return Claim(words[0], int(words[1]), words[2])


def _encoded(texts: Sequence[str]) -> bytes:
    """Return texts as BER: a sequence of octet strings."""
    return _tlv(_SEQUENCE, b"".join(_tlv(_OCTETS, text.encode()) for text in texts))


def _decoded(data: bytes) -> list[str]:
    """Return the texts of a control's value; none if it is of another shape, for anybody may send anything."""
    match _parts(data):
        case [(tag, inner)] if tag == _SEQUENCE:
            parts = _parts(inner)
            return [text.decode("utf-8", "replace") for tag, text in parts if tag == _OCTETS]
    return []


def _tlv(tag: int, data: bytes) -> bytes:
    size = len(data)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + data


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    parts = []
    while len(data) >= 2:
        tag, size, start = data[0], data[1], 2
        if size >= 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return []
        parts.append((tag, data[start : start + size]))
        data = data[start + size :]
    return [] if data else parts
