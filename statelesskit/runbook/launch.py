"""Run a runbook with papermill: here and now, or as a process of its own that outlives whoever started it."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from statelesskit import scrub
from statelesskit.audit.keys import PRIVATE
from statelesskit.config import Site
from statelesskit.errors import PermissionNeededError, RefusedError, StatelessError
from statelesskit.runbook.find import Runbook, is_ours
from statelesskit.runbook.parameters import check
from statelesskit.service import RunRecord as RunRecord
from statelesskit.service import begin, ending_of, is_served, stopped_by_signals

ENGINE = "statelesskit"
RECORD_VARIABLE = "STATELESSKIT_RECORD"  # tells the kernel which record it is part of
SITE_VARIABLE = "STATELESSKIT_SITE"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended, as its record says."""

    state: str
    exit_code: int
    record: str
    error: str


class RunEnded(click.ClickException):
    """A run did not complete. papermill's command line prints it and exits with its code.

    Attributes:
        state: how it ended.
    """

    def __init__(self, state: str, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.state = state
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance, and declares it for the class


@dataclass(frozen=True, slots=True)
class Limits:
    """How long what may take, in seconds; None is for ever, and for ``grace`` the engine's own.

    Attributes:
        grace: for a run that is stopped to end by itself.
    """

    cell_timeout: float | None = None
    run_timeout: float | None = None
    grace: float | None = None


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What began a run that nobody did: the schedule's name, and the digest of the runbook that was approved for it."""

    name: str
    digest: str


def run_runbook(
    site: Site,
    runbook: Runbook,
    parameters: Mapping[str, Any],
    *,
    run_id: str = "",
    limits: Limits = UNLIMITED,
    resumes: str = "",
    scheduled: Scheduled | None = None,
) -> Ended:
    """Run a runbook to its end; everything that can go wrong in it is in what is returned.

    Args:
        resumes: the record this one continues.
        scheduled: what began it, if nobody did.

    Raises:
        ParameterError: refused before anything ran; the refusal is recorded.
        RefusedError: the same: it is not the runbook that was approved when it was scheduled.
    """
    # From here on a signal ends the record; papermill takes a second to import before the engine can.
    with stopped_by_signals():
        record = begin_record(site, runbook, parameters, run_id, resumes=resumes, scheduled=scheduled)
        try:
            if scheduled and runbook.digest != scheduled.digest:
                raise RefusedError(
                    f"{runbook.path} is {runbook.digest}, and {scheduled.digest} was approved: it was altered",
                    hint="find out who did that; then schedule the runbook anew",
                )
            check(runbook.notebook, runbook.action, parameters)
            return _papermill(site, runbook, parameters, record, limits)
        except BaseException as error:
            if not record.ended:
                state, code, text = ending_of(error)
                with suppress(StatelessError, OSError):  # what went wrong first is what must be told
                    record.end(state, code, key=site.keys / PRIVATE, error=text)
            raise


def begin_record(
    site: Site,
    runbook: Runbook,
    parameters: Mapping[str, Any],
    run_id: str = "",
    *,
    resumes: str = "",
    scheduled: Scheduled | None = None,
) -> RunRecord:
    """Begin the record of a run; parameters that are secrets are blanked, and refused by the check that follows.

    It says whether the runbook was approved: by who scheduled just this one, or, where a person or another program
    runs it, by us: it came with this tool.
    """
    approved = runbook.digest == scheduled.digest if scheduled else is_ours(runbook)
    facts: dict[str, Any] = {
        "parameters": scrub.without_secrets(parameters),
        "runbook": runbook.name,
        "runbook_digest": runbook.digest,
    }
    facts |= {"approved": approved, "runbook_path": str(runbook.path), **({"resumes": resumes} if resumes else {})}
    facts |= {"schedule": scheduled.name} if scheduled else {}
    return begin(site, runbook.name, runbook.action, facts, run_id)


def _papermill(site: Site, runbook: Runbook, parameters: Mapping[str, Any], record: RunRecord, limits: Limits) -> Ended:
    import papermill

    os.environ[SITE_VARIABLE] = str(site.root)
    try:
        papermill.execute_notebook(
            str(runbook.path),
            None,
            parameters=dict(parameters),
            engine_name=ENGINE,
            progress_bar=False,
            record=record,
            **asdict(limits),
        )
    except RunEnded as ended:
        return Ended(ended.state, ended.exit_code, record.name, ended.message)
    return Ended("completed", 0, record.name, "")


def new_run_id() -> str:
    """Return an id for a run that is about to be started, so that its record can be found."""
    return secrets.token_hex(4)


def start_detached(site: Site, runbook: str, parameters: Mapping[str, Any], run_id: str) -> subprocess.Popen[bytes]:
    """Start ``statelesskit run`` in a session of its own; closing the browser or the kernel does not end it.

    Its last words go to :func:`run_log`, for the case that it can't even begin its record.
    """
    scrub.refuse_secrets(parameters)  # everybody on this host can read a process's arguments
    # -P: a stray json.py beside the runbook must not be imported instead of the real one.
    words = [sys.executable, "-P", "-m", "statelesskit", "--site", str(site.root), "run", runbook, "--run-id", run_id]
    for name, value in parameters.items():
        words += ["-p", f"{name}={value}"]
    environment = {name: value for name, value in os.environ.items() if name != RECORD_VARIABLE}
    with run_log(site, run_id).open("wb") as log:
        return subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_log(site: Site, run_id: str) -> Path:
    """Return where a detached run's output goes."""
    return _run_folder(site) / f"run.{run_id}.log"


def progress_file(site: Site, run_id: str) -> Path:
    """Return where a run in progress says how far it is."""
    return _run_folder(site) / f"run.{run_id}.progress"


def _run_folder(site: Site) -> Path:
    """Return the site's folder, or one of this user alone, where what they do is done by the site's service."""
    if not is_served(site):
        return site.locks
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(own if own and os.access(own, os.W_OK) else tempfile.gettempdir()) / f"statelesskit-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise PermissionNeededError(f"{folder} is not this user's alone", hint="remove it, or have XDG_RUNTIME_DIR set")
    return folder
