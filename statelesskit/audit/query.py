"""What happened, one row a record: who, when, what, to which object, from what to what, and how it ended."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from statelesskit.audit import events, files
from statelesskit.audit.listing import RecordSummary, list_records
from statelesskit.audit.records import EVENTS
from statelesskit.errors import AuditError
from statelesskit.names import printable

MAX_PLAN = 64 << 20  # bytes
_OBJECTS = ("channel", "client", "group", "prototype", "snapshot", "account", "name")
COLUMNS = (
    "record", "who", "began_at", "ended_at", "duration_s", "what", "object", "from", "to", "outcome", "exit_code",
    "changes",
)  # fmt: skip


def query(records_dir: Path) -> list[dict[str, Any]]:
    """Return a row of :data:`COLUMNS` for each record, the oldest first; every text is safe on a terminal.

    ``from`` and ``to`` tell what was applied; a run that did not come to it has neither. Nothing is verified.
    """
    return [_row(one, records_dir) for one in list_records(records_dir)]


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV (RFC 4180); what a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_harmless(row[name]) for name in COLUMNS])
    return text.getvalue()


def _harmless(value: Any) -> Any:
    if isinstance(value, datetime):
        return events.rfc3339(value)
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _row(one: RecordSummary, records_dir: Path) -> dict[str, Any]:
    path = records_dir / one.name
    try:
        log, _ = events.read(path / EVENTS)
    except AuditError:
        log = []
    begun = _table(log[0].facts.get("parameters")) if log else {}
    applied = next((_table(event.facts.get("result")) for event in log if event.kind == "applied"), {})
    facts = _plan_facts(path) if applied.get("changed", True) and applied else {}
    took = one.ended_at - one.began_at if one.ended_at and one.began_at else None
    return {
        "record": one.name,
        "who": one.user,
        "began_at": one.began_at,
        "ended_at": one.ended_at,
        "duration_s": took.total_seconds() if took else None,
        "what": one.what,
        "object": next((_text(begun[name]) for name in _OBJECTS if begun.get(name)), ""),
        "from": _text(facts.get("from", applied.get("from", applied.get("previous")))),
        "to": _text(facts.get("to", applied.get("to", applied.get("snapshot")))),
        "outcome": one.state,
        "exit_code": one.exit_code,
        "changes": one.changes,
    }


def _plan_facts(path: Path) -> Mapping[str, Any]:
    try:
        return _table(_table(json.loads(files.read_small(path / "plan.json", MAX_PLAN))).get("facts"))
    except (AuditError, ValueError, RecursionError):
        return {}


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else printable(value if isinstance(value, str) else json.dumps(value))
