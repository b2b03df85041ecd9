"""One record for a person to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from statelesskit.audit import events
from statelesskit.audit.events import Event
from statelesskit.audit.listing import RecordSummary, summary_of
from statelesskit.audit.records import EVENTS
from statelesskit.errors import AuditError
from statelesskit.names import printable

MACHINE = {"boot_id", "files", "left_out", "pid", "process_started"}  # facts that `verify` reads, not people


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event; every text is one line and safe on a terminal."""

    seq: int
    at: datetime
    event: str
    text: str


@dataclass(frozen=True, slots=True)
class RecordView:
    """A record as `audit show` tells it.

    Attributes:
        faults: what is wrong with the event log itself; the seal is not looked at.
    """

    summary: RecordSummary
    events: Sequence[EventRow]
    faults: Sequence[str]


def describe(path: Path) -> RecordView:
    """Return what a record holds; what cannot be read is a fault."""
    try:
        log, faults = events.read(path / EVENTS)
    except AuditError as error:
        log, faults = [], [f"{EVENTS} {error.message}"]
    summary = summary_of(path)
    if summary.pruned:
        faults = ["its files were pruned; who did what and how it ended is in the statement"]
    rows = [EventRow(event.seq, event.at, printable(event.kind), _text(event)) for event in log]
    return RecordView(summary, rows, faults)


def _text(event: Event) -> str:
    shown = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in event.facts.items()
        if key not in MACHINE and not key.endswith("sha256")
    }
    return printable(", ".join(f"{key}: {value}" for key, value in shown.items()))
