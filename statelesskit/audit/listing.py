"""What records there are and how each ended, read from the first and last line of its log only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path

from statelesskit.audit import events, files, process, statement
from statelesskit.audit.events import Event
from statelesskit.audit.log import LOG
from statelesskit.audit.records import EVENTS
from statelesskit.audit.statement import MAX_STATEMENT, STATEMENT
from statelesskit.errors import AuditError, NotFoundError
from statelesskit.names import printable


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """One line of a list of records; every text is safe on a terminal.

    Attributes:
        state: an end state, ``running``, ``lost``, or ``unreadable``.
        changes: what the run changed, in one sentence, or "".
        pruned: its files were given up; what is told is what the statement says.
        schedule: the name of the schedule that began it, or "".
    """

    name: str
    run_id: str
    what: str
    user: str
    state: str
    exit_code: int | None
    began_at: datetime | None
    ended_at: datetime | None
    changes: str
    pruned: bool = False
    schedule: str = ""


def state_of(path: Path) -> str:
    """Return how a record ended; ``running`` or ``lost`` when it has no end, ``unreadable`` when it is none."""
    return summary_of(path).state


def is_at_work(path: Path) -> bool:
    """Say whether the process that began a record is still there, also when the record has ended."""
    try:
        begin, _ = events.first_and_last(path / EVENTS)
    except AuditError:
        return False
    return begin is not None and process.is_alive(begin.facts)


def summary_of(path: Path) -> RecordSummary:
    """Return one line about a record. Says nothing of whether it was altered."""
    try:
        begin, last = events.first_and_last(path / EVENTS)
    except AuditError:
        begin = last = None
        if not os.path.lexists(path / EVENTS) and (kept := _of_statement(path)):
            return kept
    end = last if last and last.kind == events.END else None
    code = end.facts.get("exit_code") if end else None
    return RecordSummary(
        name=printable(path.name),
        run_id=_text(begin, "run_id"),
        what=_text(begin, "what"),
        user=_text(begin, "user"),
        state=_state(begin, end),
        exit_code=code if type(code) is int else None,
        began_at=begin.at if begin else None,
        ended_at=end.at if end else None,
        changes=_text(end, "changes"),
        schedule=_text(begin, "schedule"),
    )


def _of_statement(path: Path) -> RecordSummary | None:
    """Return what the statement of a record says that has nothing else; the signature is not looked at."""
    try:
        told = statement.unverified(files.read_small(path / STATEMENT, MAX_STATEMENT)).predicate
        times = [datetime.fromisoformat(told[name]) for name in ("begun_at", "ended_at")]
        if None in [one.tzinfo for one in times]:
            return None
    except (AuditError, KeyError, TypeError, ValueError):
        return None
    texts = {
        name: printable(told.get(name) or "") for name in ("run_id", "what", "user", "state", "changes", "schedule")
    }
    code = told.get("exit_code")
    return RecordSummary(
        name=printable(path.name),
        exit_code=code if type(code) is int else None,
        began_at=times[0],
        ended_at=times[1],
        pruned=True,
        **texts,
    )


def list_records(records_dir: Path) -> list[RecordSummary]:
    """Return all records, the oldest first; those that tell no time stand at the end."""
    found = [summary_of(path) for path in record_folders(records_dir)]
    return sorted(found, key=lambda one: (one.began_at.timestamp() if one.began_at else inf, one.name))


def record_folders(records_dir: Path) -> list[Path]:
    """Return what should be a record, in the order of names and so of time; hidden names are work in progress."""
    return sorted(path for path in records_dir.iterdir() if path.name != LOG and not path.name.startswith("."))


def find_record(records_dir: Path, wanted: str) -> Path:
    """Return the folder of the record with that name or run id.

    Raises:
        NotFoundError: there is none.
    """
    for path in record_folders(records_dir):
        if wanted in (path.name, path.name.rpartition("-")[2]):
            return path
    raise NotFoundError(f"there is no record {printable(wanted)!r}", hint="`statelesskit audit list` shows all")


def _state(begin: Event | None, end: Event | None) -> str:
    if begin is None or begin.kind != events.BEGIN:
        return "unreadable"
    if end:
        return printable(end.facts.get("state"))
    return "running" if process.is_alive(begin.facts) else "lost"


def _text(event: Event | None, fact: str) -> str:
    return printable(event.facts.get(fact, "")) if event else ""
