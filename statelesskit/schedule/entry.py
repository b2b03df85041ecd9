"""What a site keeps of a schedule: ``schedule/NAME/`` with ``schedule.json`` and the runbook that was approved.

Nobody but the site's user can write there. Neither is believed: the record of the run that made the schedule, which
is sealed, says what was approved and when it is due; see :mod:`statelesskit.audit.schedules`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.calendars import Calendar, read_calendar
from statelesskit.config import Site
from statelesskit.errors import FormatError, NotFoundError
from statelesskit.names import check_name, printable

FORMAT, FILE = 1, "schedule.json"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule.

    Attributes:
        calendar: when it is due, with its time zone.
        runbook: the name of the runbook's file, which lies beside, without ``.ipynb``.
        runbook_digest: ``sha256:…`` of the file that was approved.
        parameters: of the runbook.
        jitter_s: the run begins up to so much later, by chance, so that not all of a fleet's do at once.
        within_s: how long after ``calendar`` the run must have begun; else it is missing.
        timeout_s: it is stopped when it takes longer; 0 is never.
        on_failure: a command, or ``mailto:`` an address, that is told when it fails; or "".
        units: the folder of its units; "" where cron begins it.
    """

    name: str
    calendar: str
    runbook: str
    runbook_digest: str
    parameters: dict[str, Any]
    jitter_s: int
    within_s: int
    timeout_s: int
    on_failure: str
    units: str

    def due(self) -> Calendar:
        return read_calendar(self.calendar)

    def folder(self, site: Site) -> Path:
        return site.schedule / self.name

    def pinned(self, site: Site) -> Path:
        """Return where the approved runbook is."""
        return self.folder(site) / f"{self.runbook}.ipynb"

    def write(self, site: Site, runbook: bytes) -> None:
        """Put the schedule and its runbook into the site; the runbook of one that is there is replaced first."""
        fs.make_folders(self.folder(site))
        fs.write_file(self.pinned(site), runbook)
        fs.write_json(self.folder(site) / FILE, {"format": FORMAT, **asdict(self)})
        for path in self.folder(site).glob("*.ipynb"):
            if path != self.pinned(site):
                fs.unlink(path)


def read_schedule(site: Site, name: str) -> Schedule:
    """Read a schedule.

    Raises:
        NotFoundError: there is none of that name.
        FormatError: its file is damaged, or of a newer version.
    """
    path = site.schedule / check_name(name, "schedule") / FILE
    try:
        raw = json.loads(path.read_bytes())
        if raw["format"] != FORMAT:
            raise ValueError(f"format is {raw['format']!r}, this statelesskit reads format {FORMAT}")
        found = Schedule(**{item.name: raw[item.name] for item in fields(Schedule)})
        if found.name != name or not isinstance(found.parameters, dict):
            raise ValueError("it is of another schedule")
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no schedule {printable(name)!r}", hint="`statelesskit schedule list` shows all"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is no schedule: {error}", hint="schedule the runbook anew") from None
    return found


def list_schedules(site: Site) -> list[Schedule]:
    """Return all schedules, by name; raises as :func:`read_schedule`."""
    return [read_schedule(site, path.parent.name) for path in sorted(site.schedule.glob(f"*/{FILE}"))]
