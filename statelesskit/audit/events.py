"""The event log of a record: one line per event, each naming the digest of the line before it.

A line is canonical JSON: ``{"at", "event", "facts", "prev", "seq"}``. ``seq`` counts from 1 and is the
number of the line. ``prev`` is the SHA-256 of the previous line without its newline (64 zeros in the
first), so a line that was altered, removed or moved is named by the one after it.

A crash may leave part of a line without its newline. The next writer keeps those bytes, gives them
their newline and adds a ``torn`` event, whose ``prev`` covers them; so nothing that was ever written
goes away, and whoever reads the log is told of it. A line that lacks nothing but its newline is a
whole event and is only given that.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from statelesskit import fs
from statelesskit.audit.files import open_regular
from statelesskit.errors import AuditError

BEGIN, END, TORN = "begin", "end", "torn"
FIRST_PREV = "0" * 64
MAX_LINE = 1 << 20  # bytes without the newline
MAX_LOG = 64 << 20  # bytes; beyond it only the end is still written


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log.

    Attributes:
        at: when, by the clock of the machine that wrote it.
        prev: SHA-256 of the line before, in hex.
    """

    seq: int
    at: datetime
    kind: str
    facts: Mapping[str, Any]
    prev: str

    def encode(self) -> bytes:
        """Return the line, without its newline."""
        return fs.canonical_json(
            {"at": rfc3339(self.at), "event": self.kind, "facts": self.facts, "prev": self.prev, "seq": self.seq}
        )

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Read one line.

        Raises:
            ValueError: it is not exactly what :meth:`encode` would write.
        """
        try:
            raw = _read(line.decode("ascii"))
            event = cls(raw["seq"], datetime.fromisoformat(raw["at"]), raw["event"], raw["facts"], raw["prev"])
            right = (int, str, dict, str) == tuple(map(type, (event.seq, event.kind, event.facts, event.prev)))
            if right and event.encode() == line:
                return event
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise ValueError("no event in canonical form")


def rfc3339(at: datetime) -> str:
    """Return a time in UTC as the log writes it: with microseconds and ``Z``."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_read = json.JSONDecoder(parse_constant=_refuse_constant).decode  # made once: a record has many lines


class Chain:
    """An event log while this process holds it; others wait."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd
        size = os.fstat(fd).st_size
        self._line, whole = _last_line(fd, size)
        if len(self._line) > MAX_LINE:
            raise AuditError(f"{path} ends in a line too long to be an event", hint="`statelesskit audit verify`")
        self.last = _decoded(self._line)
        lines = self.last.seq if self.last else _count_lines(fd, size)
        if not whole:
            fs.append_line(fd, b"")
            lines += not self.last
        self._lines = lines
        if not whole and not self.last:
            self.append(TORN, {"bytes": len(self._line), "line": lines})

    def check_open(self) -> None:
        """Refuse when the record has ended."""
        if self.last and self.last.kind == END:
            raise AuditError(f"{self._path.parent.name} has ended; nothing can be added to it")

    def append(self, kind: str, facts: Mapping[str, Any]) -> Event:
        """Add one event; when this returns it is on the disk.

        Raises:
            AuditError: the record has ended, or the event or the log would be too long.
            TypeError, ValueError: the facts are not JSON.
            NoSpaceError: the disk is full; the log is as it was.
        """
        self.check_open()
        prev = hashlib.sha256(self._line).hexdigest() if self._lines else FIRST_PREV
        event = Event(self._lines + 1, datetime.now(UTC), kind, facts, prev)
        line = event.encode()
        size = os.fstat(self._fd).st_size
        if len(line) > MAX_LINE or (size + len(line) > MAX_LOG and kind != END):
            raise AuditError(
                f"the event {kind} of {len(line)} bytes is too much for {self._path}", hint="attach it as a file"
            )
        Event.decode(line)  # what could not be read back is not written
        with fs.disk_full_named(self._path):
            try:
                fs.append_line(self._fd, line)
            except OSError:
                with suppress(OSError):
                    fs.truncate(self._fd, size)
                raise
        self._line, self._lines, self.last = line, event.seq, event
        return event


@contextmanager
def held(path: Path) -> Iterator[Chain]:
    """Hold the log, made if it is not there, so that nobody else adds to it while the block runs.

    While it grows it is its owner's alone: whoever can open it can hold it, and stop a run in the middle.
    """
    fd = fs.open_log(path, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AuditError(f"{path} is no regular file")
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not os.fstat(fd).st_size:
            fs.fsync_folder(path.parent)
        try:
            yield Chain(path, fd)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile would keep it
    finally:
        os.close(fd)


def append(path: Path, kind: str, facts: Mapping[str, Any]) -> Event:
    """Add one event to a log; see :meth:`Chain.append`."""
    with held(path) as chain:
        return chain.append(kind, facts)


def read(path: Path) -> tuple[list[Event], list[str]]:
    """Return the events that can be read, and what is wrong with the log, line by line. Safe on any bytes.

    Raises:
        AuditError: there is no such file, or it is of another kind.
    """
    events: list[Event] = []
    faults: list[str] = []
    seq, prev, size = 0, FIRST_PREV, 0
    with open_regular(path) as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 2), b""), 1):
            line, size = raw.removesuffix(b"\n"), size + len(raw)
            if len(line) > MAX_LINE or size > MAX_LOG + MAX_LINE:
                faults.append(f"line {number}: too long; it and what follows was not read")
                break
            event = _decoded(line)
            if raw == line:
                faults.append(f"line {number}: torn; its writer was killed, or the file was cut")
            elif event is None:
                faults.append(f"line {number}: no event in canonical form")
            if event:
                faults += _link_faults(number, event, seq, prev)
                events.append(event)
            seq, prev = event.seq if event else seq + 1, hashlib.sha256(line).hexdigest()
    return events, faults or ([] if events else ["is empty"])


def _link_faults(number: int, event: Event, seq: int, prev: str) -> list[str]:
    """Say what is wrong between an event and the line before it, which had ``seq`` and the digest ``prev``."""
    if event.seq > seq + 1:
        lost = f"event {seq + 1} is" if event.seq == seq + 2 else f"events {seq + 1} to {event.seq - 1} are"
        return [f"line {number}: {lost} missing before event {event.seq}"]
    if event.seq <= seq:
        return [f"line {number}: event {event.seq} is repeated or out of order"]
    if event.prev != prev:
        return [f"line {number}: event {seq} before it was altered" if seq else "line 1: begins no chain"]
    if event.kind == TORN:
        return [f"line {number}: tells that a writer was killed while it wrote line {seq}"]
    return []


def first_and_last(path: Path) -> tuple[Event | None, Event | None]:
    """Return the first and last event without reading those between; None where the line is none.

    Raises:
        AuditError: there is no such file, or it is of another kind.
    """
    with open_regular(path) as file:
        first = file.readline(MAX_LINE + 1).removesuffix(b"\n")
        last, _ = _last_line(file.fileno(), os.fstat(file.fileno()).st_size)
    return _decoded(first), _decoded(last)


def _decoded(line: bytes) -> Event | None:
    try:
        return Event.decode(line)
    except ValueError:
        return None


def _last_line(fd: int, size: int) -> tuple[bytes, bool]:
    """Return the last line, cut at its beginning when it is too long to be one, and whether it is ended."""
    span = 4096
    while True:
        start = max(0, size - span)
        tail = os.pread(fd, size - start, start)
        whole = not tail or tail.endswith(b"\n")
        lines = tail.removesuffix(b"\n").rsplit(b"\n", 1)
        if len(lines) == 2 or not start or span > MAX_LINE:
            return lines[-1], whole
        span *= 16


def _count_lines(fd: int, size: int) -> int:
    return sum(os.pread(fd, 1 << 20, at).count(b"\n") for at in range(0, size, 1 << 20))
