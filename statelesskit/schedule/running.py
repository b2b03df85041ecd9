"""Run a runbook because it is due; and tell somebody if that failed."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path

from statelesskit import fs, run
from statelesskit.audit.listing import RecordSummary, record_folders, summary_of
from statelesskit.config import Site
from statelesskit.lock import held
from statelesskit.runbook.find import read_runbook
from statelesskit.runbook.launch import Ended, Limits, Scheduled, run_runbook
from statelesskit.schedule.entry import Schedule, read_schedule

TIMEOUT_S = 60  # for whoever is told
MAILTO = "mailto:"
TOLD = "last-failure"  # in the schedule's folder: the last record that somebody was told of
NOT_BEGUN = "not-run"


def run_scheduled(site: Site, name: str) -> Ended:
    """Run the runbook that was approved when it was scheduled, in a profile that nobody has prepared.

    Raises:
        NotFoundError: there is no such schedule.
        LockedError: its last run still goes on.
        RefusedError: the runbook was altered; the refusal is recorded.
    """
    schedule = read_schedule(site, name)
    what = f"the schedule {name}"
    with held(site.lock_file(f"schedule/{name}"), what=what, doing="running it"), _empty_profile():
        return run_runbook(
            site,
            read_runbook(schedule.pinned(site)),
            schedule.parameters,
            limits=Limits(run_timeout=schedule.timeout_s or None),
            scheduled=Scheduled(name, schedule.runbook_digest),
        )


@contextmanager
def _empty_profile() -> Iterator[None]:
    """Have Jupyter, IPython and Python find no configuration or packages of a user: an empty home, gone afterwards."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="statelesskit-home-") as home:
        for variable in [*os.environ]:
            if variable.startswith(("PYTHON", "JUPYTER", "IPYTHON", "XDG_", "PAPERMILL")):
                del os.environ[variable]
        os.environ |= {
            "HOME": home,
            "IPYTHONDIR": f"{home}/ipython",
            "JUPYTER_CONFIG_DIR": f"{home}/jupyter",
            "JUPYTER_DATA_DIR": f"{home}/jupyter-data",
            "JUPYTER_NO_CONFIG": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTHONSAFEPATH": "1",
        }
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= before


def tell_failure(site: Site, name: str) -> str:
    """Tell whom the schedule names that its last run failed; return what was told, in one line.

    A command gets it in its environment: ``STATELESSKIT_SCHEDULE``, ``STATELESSKIT_FAILED_RECORD`` (a record's name;
    empty for a run that could not even begin one), ``STATELESSKIT_FAILED_STATE`` and ``STATELESSKIT_FAILED_CODE``.

    Raises:
        CommandError, MissingToolError, TimedOutError: it could not be told.
    """
    schedule = read_schedule(site, name)
    last = _last(site, schedule)
    record, state = (last.name, last.state) if last else ("", NOT_BEGUN)
    code = str(last.exit_code) if last and last.exit_code is not None else os.environ.get("MONITOR_EXIT_STATUS", "")
    text = f"{site.name}: the scheduled run {name} of {schedule.runbook} ended as {state} (exit code {code or '?'})"
    if schedule.on_failure.startswith(MAILTO):
        message = EmailMessage()
        message["To"], message["Subject"] = schedule.on_failure.removeprefix(MAILTO), text
        why = "Its record is " + str(site.records / record) if record else "It left no record: see the journal"
        message.set_content(f"{text}.\n{why}.\n")
        run.run(["sendmail", "-t", "-i"], stdin=message.as_bytes(), timeout_s=TIMEOUT_S)
    elif schedule.on_failure:
        told = {"SCHEDULE": name, "FAILED_RECORD": record, "FAILED_STATE": state, "FAILED_CODE": code}
        environment = {f"STATELESSKIT_{key}": value for key, value in told.items()}
        run.run(shlex.split(schedule.on_failure), env=environment, timeout_s=TIMEOUT_S)
    if record:
        fs.write_file(_told(site, schedule), record.encode())
    return text


def _last(site: Site, schedule: Schedule) -> RecordSummary | None:
    """Return the last run of a schedule, if it failed and nobody was told of it yet."""
    for path in reversed(record_folders(site.records)):
        one = summary_of(path)
        if one.schedule == schedule.name:
            known = _told(site, schedule)
            new = not known.exists() or known.read_text("utf-8") != one.name
            return one if new and one.state != "completed" else None
    return None


def _told(site: Site, schedule: Schedule) -> Path:
    return schedule.folder(site) / TOLD
