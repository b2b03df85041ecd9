"""What the cells of a runbook call. The same cells serve a person and papermill.

Under papermill the engine has begun a record, and the cells plan, apply and verify. In a person's hands
they show how things stand; the form starts the same run that papermill would.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from statelesskit import fs, scrub, service
from statelesskit.action import Action
from statelesskit.config import Site, load_site, site_root
from statelesskit.errors import ParameterError, RefusedError
from statelesskit.frames import Applied, Shown
from statelesskit.progress import Progress
from statelesskit.runbook.launch import RECORD_VARIABLE, progress_file
from statelesskit.runbook.parameters import CONFIRM


def begin(kind: type[Action], runbook: str, names: Mapping[str, Any]) -> Book:
    """Begin a runbook's work: find the site, and take the parameters out of the notebook's names."""
    parameters = {item.name: names[item.name] for item in kind.parameters()}
    site = load_site(site_root(None))
    service.see_running(site)
    return Book(site, kind, runbook, parameters, names[CONFIRM])


class Book:
    """One runbook being worked through.

    Attributes:
        interactive: a person has opened it; nothing is recorded by the cells themselves.
    """

    def __init__(
        self, site: Site, kind: type[Action], runbook: str, parameters: Mapping[str, Any], confirm: str
    ) -> None:
        self.site, self.kind, self.runbook = site, kind, runbook
        self.parameters, self.confirm = dict(parameters), confirm
        path = os.environ.get(RECORD_VARIABLE)
        self._record = service.join(self.site, Path(path)) if path else None
        self._outcome: service.Outcome | None = None

    @property
    def interactive(self) -> bool:
        return self._record is None

    def state(self) -> Shown:
        """Show how things stand."""
        title, rows = service.survey(self.site, self.kind)
        return Shown(title, rows)

    def plan(self) -> Shown:
        """Show what would be done with the parameters given."""
        try:
            action = self.kind.check(self.parameters)
        except ParameterError:
            if self.interactive:
                return Shown("Plan", [], ["fill in the form below; it shows the plan before anything is done"])
            raise
        plan = service.plan(self.site, action)
        return Shown(plan.summary, plan.rows, [*plan.notes, f"plan digest: {plan.digest}"])

    def apply(self) -> Shown:
        """Do it, if it is confirmed.

        Raises:
            RefusedError, ConflictError: it is not, or not this plan; or it is, where nobody would record it, as
            under papermill without our engine.
        """
        if self._record is None:
            if self.confirm:
                raise RefusedError(
                    "this run was confirmed, but it has no record: nothing was done",
                    hint="run it with `statelesskit run`, or with `papermill --engine statelesskit`",
                )
            return Shown("Apply", [], ["the form's last button starts the run; its record is the evidence"])
        action = self.kind.check(self.parameters)
        progress = FileProgress(progress_file(self.site, self._record.run_id))
        self._outcome = service.perform(self.site, action, self.confirm, record=self._record, progress=progress)
        rows = [{"what": name, "is": _plain(value)} for name, value in self._outcome.result.items()]
        title = "Applied" if self._outcome.plan.changes else "There was nothing to do"
        return Applied(title, rows, self._outcome.result)

    def verify(self) -> Shown:
        """Show what was looked at afterwards."""
        if self._outcome is None:
            return Shown("Verify", [], ["the run looks at the result itself"])
        return Shown("Verified", self._outcome.checks)

    def result(self) -> Shown:
        """Show how things stand now, and where the evidence is."""
        title, rows = service.survey(self.site, self.kind)
        return Shown(title, rows, [f"record: {self._record.name}"] if self._record else [])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


class FileProgress(Progress):
    """Leaves the progress of a run in a small file, for a form to read."""

    EVERY_S = 0.2

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0
        self._told: dict[str, Any] = {}

    def stage(
        self, what: str, *, total: int | None = None, unit: str = "", total_bytes: int = 0, about: bool = False
    ) -> None:
        self._told = {"what": what, "total": total, "unit": unit, "done": 0, "line": ""}
        self._told |= {"total_bytes": total_bytes, "done_bytes": 0, "about": about, "began": time.time()}
        self._write()

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        self._told["done"] += amount
        self._told["done_bytes"] += size_bytes
        self._write_soon()

    def say(self, line: str) -> None:
        self._told["line"] = line
        self._write_soon()

    def waiting(self, line: str) -> None:
        if not self._told:
            self.stage("waiting")
        self._told["line"] = line
        self._write()

    def _write_soon(self) -> None:
        if time.monotonic() - self._written > self.EVERY_S:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        temporary = fs.partial_name(self._path)
        temporary.write_bytes(fs.canonical_json(scrub.plain(self._told)))
        temporary.rename(self._path)
