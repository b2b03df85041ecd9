"""Hold the runs that began by themselves against what was scheduled: what is missing, and what nobody approved.

The truth are the sealed records of the runs that made and removed schedules, not what a site keeps of them; so it
can be told offline, of records that were exported too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from statelesskit.audit import events, files, statement
from statelesskit.audit.completeness import Expected, missing_runs
from statelesskit.audit.listing import RecordSummary
from statelesskit.audit.log import sealer_of
from statelesskit.audit.records import EVENTS
from statelesskit.audit.statement import MAX_STATEMENT, STATEMENT
from statelesskit.calendars import read_calendar
from statelesskit.errors import AuditError, ParameterError
from statelesskit.names import printable

ADD, REMOVE = "schedule add", "schedule remove"  # the verbs


@dataclass(frozen=True, slots=True)
class Approval:
    """What a sealed record says of a schedule.

    Attributes:
        runbook_digest: ``sha256:…`` of what was approved.
        until: when it was removed, or replaced by another of the same name; None if it goes on.
    """

    schedule: str
    calendar: str
    runbook_digest: str
    within: timedelta
    since: datetime
    until: datetime | None = None

    def covers(self, run: RecordSummary, digest: str) -> bool:
        """Say whether a run that began by itself is one of those."""
        at = run.began_at
        right = run.schedule == self.schedule and digest == self.runbook_digest
        # One that was begun just before its end may have been late to its record.
        return bool(right and at and self.since <= at and (not self.until or at <= self.until + self.within))

    def expected(self, now: datetime) -> Iterator[Expected]:
        """Yield the runs that must have begun by now."""
        last = min(now, self.until or now) - self.within
        for at in read_calendar(self.calendar).between(self.since, last):
            yield Expected(at, self.schedule, self.within)


def schedule_findings(
    records_dir: Path, public: str, summaries: Iterable[RecordSummary], now: datetime
) -> list[tuple[str, str]]:
    """Return what is wrong with the runs that began by themselves: a record's name or "", and what.

    Args:
        public: one of the keys that sealed the records.
        now: until when runs were to begin.
    """
    approvals = list(_approvals(records_dir, public))
    runs = [one for one in summaries if one.schedule]
    expected = [run for one in approvals for run in one.expected(now)]
    found = []
    for missing in missing_runs(expected, [replace(one, what=one.schedule) for one in runs]):
        text = f"a run of the schedule {missing.what} was due at {missing.at:%Y-%m-%d %H:%M:%S} UTC"
        found.append(("", f"{text}, and none began within {missing.within.total_seconds():.0f} s"))
    for run in runs:
        digest = "" if run.pruned else _digest(records_dir / run.name)
        if not run.pruned and not any(one.covers(run, digest) for one in approvals):
            found.append((run.name, f"the schedule {run.schedule} began a runbook never approved for it: {digest}"))
    return found


def _approvals(records_dir: Path, public: str) -> Iterator[Approval]:
    """Yield what was approved, each until the next of the same name or its removal."""
    told = sorted(_told(records_dir, public), key=lambda pair: pair[0])
    for number, (since, result) in enumerate(told):
        if "calendar" not in result:
            continue
        ends = (at for at, later in told[number + 1 :] if later["schedule"] == result["schedule"])
        with suppress(KeyError, TypeError, ParameterError):
            yield Approval(
                str(result["schedule"]),
                str(read_calendar(result["calendar"])),
                str(result["runbook_digest"]),
                timedelta(seconds=result["within_s"]),
                since,
                next(ends, None),
            )


def _told(records_dir: Path, public: str) -> Iterator[tuple[datetime, dict[str, Any]]]:
    """Yield when which schedule was made or removed; what is altered says nothing."""
    sealer = sealer_of(records_dir, public)
    for path in records_dir.glob("*-schedule-*"):
        with suppress(AuditError, KeyError, TypeError, ValueError):
            seal = statement.verify(files.read_small(path / STATEMENT, MAX_STATEMENT), sealer(path.name))
            right = seal.predicate.get("name") == path.name and seal.predicate.get("what") in (ADD, REMOVE)
            if right and seal.digests.get(EVENTS) == files.sha256_file(path / EVENTS):
                for event in events.read(path / EVENTS)[0]:
                    result = event.facts.get("result")
                    if event.kind == "applied" and isinstance(result, dict) and "schedule" in result:
                        yield datetime.fromisoformat(result.get("since") or result["until"]), result


def _digest(path: Path) -> str:
    try:
        begin, _ = events.first_and_last(path / EVENTS)
    except AuditError:
        begin = None
    return printable(begin.facts.get("runbook_digest")) if begin else ""
