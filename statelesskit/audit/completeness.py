"""Is anything missing, or there twice: the runs that were scheduled, and the serials of channels.

That each serial a channel has had belongs to a record is held against the directory's history by `directory check`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from statelesskit.audit import files
from statelesskit.audit.events import MAX_LOG, Event
from statelesskit.audit.listing import RecordSummary
from statelesskit.audit.records import EVENTS
from statelesskit.errors import AuditError, UsageError
from statelesskit.names import printable

_APPLIED = b'"event":"applied"'


@dataclass(frozen=True, slots=True)
class Expected:
    """A run that was to begin at some time, or at most ``within`` later."""

    at: datetime
    what: str
    within: timedelta


def read_expected(data: bytes) -> list[Expected]:
    """Read which runs were scheduled: a JSON object a line, ``{"at", "what", "within_s"}``, times as RFC 3339.

    Raises:
        UsageError: a line is something else.
    """
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            raw = json.loads(line)
            one = Expected(datetime.fromisoformat(raw["at"]), raw["what"], timedelta(seconds=raw["within_s"]))
            if one.at.tzinfo is None or not isinstance(one.what, str):
                raise ValueError
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise UsageError(
                f"line {number} of the expected runs says no run",
                hint='write {"at": "2026-01-31T02:00:00Z", "what": "30-take-snapshot", "within_s": 3600}',
            ) from None
        found.append(one)
    return found


def missing_runs(expected: Iterable[Expected], records: Iterable[RecordSummary]) -> list[Expected]:
    """Return the scheduled runs that left no record; each record stands for one of them at most."""
    left = sorted((one for one in records if one.began_at), key=lambda one: (one.began_at, one.name))
    missing = []
    for run in sorted(expected, key=lambda one: (one.at + one.within, one.at)):  # whose time ends first chooses first
        begun = (one for one in left if one.what == printable(run.what) and one.began_at is not None)
        fits = next((one for one in begun if one.began_at and run.at <= one.began_at <= run.at + run.within), None)
        if fits:
            left.remove(fits)
        else:
            missing.append(run)
    return missing


def told_twice(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield the records that tell of a serial another one tells of too, and what is wrong with them."""
    first: dict[tuple[str, int], str] = {}
    for path in paths:
        for channel, serial in _serials(path):
            other = first.setdefault((channel, serial), path.name)
            if other != path.name:
                text = (
                    f"tells of serial {serial} of {printable(channel)}, as does {printable(other)}: one did not happen"
                )
                yield path.name, text


def _serials(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the serial a run gave to a channel; only the line that tells is decoded."""
    try:
        data = files.read_small(path / EVENTS, 2 * MAX_LOG)
    except AuditError:
        return
    at = data.find(_APPLIED)
    while at >= 0:
        line = data[data.rfind(b"\n", 0, at) + 1 : data.find(b"\n", at)]
        at = data.find(_APPLIED, at + 1)
        try:
            event = Event.decode(line)
        except ValueError:
            continue
        result = event.facts.get("result")
        if event.kind == "applied" and isinstance(result, dict) and result.get("changed", True):
            channel, serial = result.get("channel"), result.get("serial")
            if isinstance(channel, str) and type(serial) is int:
                yield channel, serial
