"""Have a runbook begin by itself, and no more."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from statelesskit import fs, run, scrub
from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.audit.events import rfc3339
from statelesskit.audit.schedules import ADD, REMOVE
from statelesskit.calendars import read_calendar
from statelesskit.config import Site
from statelesskit.errors import (
    CommandError,
    DamagedError,
    ExistsError,
    MissingToolError,
    NotFoundError,
    ParameterError,
)
from statelesskit.names import check_name
from statelesskit.runbook import parameters as checked
from statelesskit.runbook.find import Runbook, find_runbook
from statelesskit.schedule.entry import Schedule, list_schedules, read_schedule
from statelesskit.schedule.running import MAILTO
from statelesskit.schedule.units import FOLDER, render, unit_name

_DAYS_AHEAD = 800  # how far a plan looks for the next times; leap days are rarer, and shown as none


def _names(site: Site) -> list[str]:
    return [one.name for one in list_schedules(site)]


def _survey(site: Site) -> tuple[str, list[dict[str, Any]]]:
    rows = [{"schedule": one.name, "calendar": one.calendar, "runbook": one.runbook} for one in list_schedules(site)]
    return "Schedules", rows


@dataclass(frozen=True)
class ScheduleRun(Action):
    """Run a runbook by systemd's timer or by cron, as it is now: just this file is approved, and a copy kept."""

    verb: ClassVar[str] = ADD
    title: ClassVar[str] = "Schedule a runbook"
    button: ClassVar[str] = "Schedule"

    runbook: str = parameter("the runbook: its name, or a notebook's path", positional=True)
    calendar: str = parameter('when it runs, as systemd says it: "Mon..Fri 02:30", "*-*-01 04:00 Europe/Berlin"')
    name: str = parameter("the schedule's name (else the runbook's)", default="")
    given: str = parameter("the runbook's parameters, as a JSON object", default="{}")
    on_failure: str = parameter("a command, or mailto: an address, that is told when it fails", default="")
    jitter: int = parameter("begin up to so many seconds later, by chance", default=0)
    within: int = parameter("how many seconds after its time a run must have begun; else it is missing", default=3600)
    timeout: int = parameter("stop a run that takes longer, in seconds; 0 is never", default=0)
    units: str = parameter("the folder for systemd's units; empty where cron begins it", default=str(FOLDER))

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return _survey(site)

    def objects(self) -> Sequence[str]:
        return [f"schedules/{self.name or 'new'}"]

    def plan(self, site: Site) -> Plan:
        runbook, schedule = self._made()
        units, now = render(site, schedule), datetime.now(UTC)
        before = _there(site, schedule.name)
        if before and before.units != schedule.units:
            raise ExistsError(
                f"the schedule {schedule.name} is there, with its units in {before.units or 'no folder'}",
                hint=f"remove it first: statelesskit schedule remove {schedule.name}",
            )
        rows = [{"file": str(path), "then": how} for path, how in _changes(site, schedule, runbook, units)]
        until = datetime.fromtimestamp(now.timestamp() + _DAYS_AHEAD * 86400, UTC)
        soon = [f"{at:%Y-%m-%d %H:%M:%S} UTC" for at in islice(schedule.due().between(now, until), 3)]
        notes = [f"it is due at {', '.join(soon)}, …" if soon else "it is not due within two years"]
        if not schedule.parameters.get(checked.CONFIRM):
            notes.append("without -p confirm=auto it only plans, and each run ends as refused")
        if not schedule.on_failure:
            notes.append("nobody is told when it fails, but the journal: give --on-failure")
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Run {schedule.runbook} by itself, {schedule.calendar}, as schedule {schedule.name}.",
            rows=rows,
            facts={"schedule": asdict(schedule), "units": units, "path": str(runbook.path)},
            notes=notes,
            changes=any(row["then"] != "stays" for row in rows),
            guard="what runs unattended is approved by a person",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        schedule, data = Schedule(**plan.facts["schedule"]), Path(plan.facts["path"]).read_bytes()
        if schedule.runbook_digest != "sha256:" + hashlib.sha256(data).hexdigest():
            raise ParameterError(
                f"{plan.facts['path']} was changed just now", hint="look at it, then schedule it again"
            )
        schedule.write(site, data)
        for name, text in plan.facts["units"].items() if schedule.units else ():
            fs.write_file(Path(schedule.units) / name, text.encode())
        timer = unit_name(schedule.name) + ".timer"
        begun = _systemctl(schedule, ["daemon-reload"], ["enable", timer], ["restart", timer])
        since = rfc3339(datetime.now(UTC))
        return {**asdict(schedule), "schedule": schedule.name, "since": since, "timer_begun": begun}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        schedule = Schedule(**plan.facts["schedule"])
        found = find_runbook(str(schedule.pinned(site)))
        return [
            check("the schedule", asdict(schedule), asdict(read_schedule(site, schedule.name))),
            check("the approved runbook", schedule.runbook_digest, found.digest),
            *(
                check(f"unit {name}", True, (Path(schedule.units) / name).read_text("utf-8") == text)
                for name, text in (plan.facts["units"].items() if schedule.units else ())
            ),
        ]

    def made(self) -> Schedule:
        """Return the schedule that these parameters say.

        Raises:
            NotFoundError, FormatError: as :func:`find_runbook`.
            ParameterError: one of them can't be.
        """
        return self._made()[1]

    def _made(self) -> tuple[Runbook, Schedule]:
        runbook = find_runbook(self.runbook)
        try:
            given = json.loads(self.given)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise ParameterError(f"given is {self.given!r}, expected a JSON object")
        scrub.refuse_secrets(given)
        checked.check(runbook.notebook, runbook.action, given)
        if given.get(checked.CONFIRM) not in (None, "", "auto"):
            raise ParameterError(
                "confirm is a plan's digest, which holds for one run until tomorrow",
                hint="schedule it with confirm=auto, within what the site's policy allows",
            )
        for name in ("jitter", "within", "timeout"):
            if not 0 <= getattr(self, name) < 100 * 86400:
                raise ParameterError(f"{name} is {getattr(self, name)}, expected 0 to 8639999 seconds")
        calendar = read_calendar(self.calendar)
        _known_to_systemd(str(calendar))
        _can_be_told(self.on_failure)
        schedule = Schedule(
            name=check_name(self.name or runbook.name.lower(), "schedule"),
            calendar=str(calendar),
            runbook=check_name(runbook.name, "runbook"),
            runbook_digest=runbook.digest,
            parameters=given,
            jitter_s=self.jitter,
            within_s=self.within + self.jitter,
            timeout_s=self.timeout,
            on_failure=self.on_failure,
            units=str(Path(self.units).absolute()) if self.units else "",
        )
        return runbook, schedule


@dataclass(frozen=True)
class RemoveSchedule(Action):
    """Have a runbook no longer begin by itself; a run that goes on ends as it would."""

    verb: ClassVar[str] = REMOVE
    title: ClassVar[str] = "Remove a schedule"
    button: ClassVar[str] = "Remove"

    name: str = parameter("the schedule", choices=_names, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return _survey(site)

    def objects(self) -> Sequence[str]:
        return [f"schedules/{self.name}"]

    def plan(self, site: Site) -> Plan:
        schedule = read_schedule(site, self.name)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Remove the schedule {self.name} ({schedule.calendar}, {schedule.runbook}).",
            rows=[{"file": str(path), "then": "is removed"} for path in _files(site, schedule)],
            facts={"schedule": asdict(schedule)},
            guard="what runs unattended is decided by a person",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        schedule = Schedule(**plan.facts["schedule"])
        _systemctl(schedule, ["disable", "--now", unit_name(schedule.name) + ".timer"])
        until = rfc3339(datetime.now(UTC))
        for path in _files(site, schedule):
            fs.remove_tree(path)
        _systemctl(schedule, ["daemon-reload"])
        return {"schedule": schedule.name, "until": until}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        left = [str(path) for path in _files(site, Schedule(**plan.facts["schedule"])) if path.exists()]
        return [check("what is left of it", [], left)]


def _files(site: Site, schedule: Schedule) -> list[Path]:
    units = [Path(schedule.units) / name for name in render(site, schedule)] if schedule.units else []
    return [*units, schedule.folder(site)]


def _there(site: Site, name: str) -> Schedule | None:
    try:
        return read_schedule(site, name)
    except (NotFoundError, DamagedError):  # a damaged one is written anew
        return None


def _changes(site: Site, schedule: Schedule, runbook: Runbook, units: Mapping[str, str]) -> list[tuple[Path, str]]:
    """Return what each file of a schedule will be: new, changed, or as it is.

    Raises:
        ExistsError: one of the units is there, and not this site's.
    """
    pinned = schedule.pinned(site)
    same = pinned.exists() and schedule.runbook_digest == find_runbook(str(pinned)).digest
    found = [(pinned, "stays" if same else "is the approved copy")]
    if _there(site, schedule.name) != schedule:
        found.append((schedule.folder(site), "says when and how"))
    for name, text in units.items() if schedule.units else ():
        path = Path(schedule.units) / name
        there = path.read_text("utf-8", "replace") if path.exists() else ""
        if there and there.partition("\n")[0] != text.partition("\n")[0]:
            raise ExistsError(f"{path} is there, and not of this site", hint="give the schedule another --name")
        found.append((path, "stays" if there == text else "is changed" if there else "is new"))
    return found


def _known_to_systemd(calendar: str) -> None:
    """Have systemd itself say that it knows a calendar, where it is there."""
    try:
        run.run(["systemd-analyze", "calendar", calendar], timeout_s=10)
    except MissingToolError:
        pass
    except CommandError as error:
        raise ParameterError(f"systemd does not know the calendar {calendar!r}: {error.stderr.strip()}") from None


def _can_be_told(on_failure: str) -> None:
    """Refuse a failure hook that could not be called."""
    scrub.refuse_secrets({"on_failure": on_failure})
    try:
        if on_failure.startswith(MAILTO):
            Address(addr_spec=on_failure.removeprefix(MAILTO))
        elif on_failure:
            run.find_tool(shlex.split(on_failure)[0])
    except (ValueError, IndexError) as error:
        raise ParameterError(
            f"on_failure is {on_failure!r}: {error}", hint="give a command, or mailto:somebody@example.org"
        ) from None
    except Exception as error:  # the parser of addresses raises what it likes
        if isinstance(error, MissingToolError):
            raise
        raise ParameterError(f"on_failure is {on_failure!r}, which is no address") from None


def _systemctl(schedule: Schedule, *commands: list[str]) -> bool:
    """Tell systemd, if it is what runs this machine and reads that folder; say whether it was told."""
    if schedule.units != str(FOLDER) or not Path("/run/systemd/system").is_dir():
        return False
    for words in commands:
        run.run(["systemctl", *words], timeout_s=60)
    return True
