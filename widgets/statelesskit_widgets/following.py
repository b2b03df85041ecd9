"""A run in another process: find it, see how far it is, stop it. Knows nothing of widgets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from statelesskit.audit import events, process
from statelesskit.audit.events import Event
from statelesskit.audit.listing import find_record, record_folders, summary_of
from statelesskit.audit.records import EVENTS
from statelesskit.config import Site
from statelesskit.errors import ConflictError, NotFoundError
from statelesskit.progress import pace
from statelesskit.runbook.find import Runbook
from statelesskit.runbook.launch import progress_file, run_log
from statelesskit.runbook.parameters import TAG

STARTING, RUNNING, NOT_BEGUN = "starting", "running", "not begun"  # beside the states a record ends with
STEPS = {  # a cell's tag: what goes on while it runs
    TAG: "starting",
    "sk:check": "looking at how things stand",
    "sk:plan": "planning",
    "sk:act": "applying",
    "sk:verify": "verifying",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What could be seen of a run at one moment.

    Attributes:
        state: ``starting``, ``running``, a record's end state, or ``not begun`` when it ended without a record.
        over: nothing more will happen.
        doing: what it is at, in words.
        done, total: how far that is; ``total`` is 0 when nobody knows.
        changes: what it changed, in one sentence.
        result: the facts of the result, once applied.
        checks: what was looked at afterwards.
        error: why it did not complete, with the hint on a line of its own.
    """

    state: str
    over: bool
    doing: str = ""
    done: int = 0
    total: int = 0
    record: Path | None = None
    changes: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    checks: Sequence[Mapping[str, Any]] = ()
    error: str = ""


class Run:
    """One run that was started by somebody.

    Attributes:
        begun_here: by this very process, so that it can be seen before it has a record.
    """

    def __init__(
        self, site: Site, run_id: str, runbook: Runbook, started: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.run_id = run_id
        self._site, self._process = site, started
        self._steps = _steps(runbook.notebook)
        self._record: Path | None = None

    @classmethod
    def find(cls, site: Site, runbook: Runbook) -> Self | None:
        """Return the newest run of a runbook that still goes on, whoever started it."""
        for path in reversed(record_folders(site.records)):
            if f"-{runbook.name}-" in path.name:
                summary = summary_of(path)
                if (summary.what, summary.state) == (runbook.name, RUNNING):
                    return cls(site, summary.run_id, runbook)
        return None

    @property
    def begun_here(self) -> bool:
        return self._process is not None

    def look(self) -> Sight:
        """Say how it goes now. A few small files are read, nothing is waited for."""
        # Asked first: what it wrote before it ended is then there to be read.
        ended = self._process is not None and self._process.poll() is not None
        if self._record is None:
            with suppress(NotFoundError):
                self._record = find_record(self._site.records, self.run_id)
        if self._record is None:
            return Sight(NOT_BEGUN, over=True, error=self._last_words()) if ended else Sight(STARTING, over=False)
        state = summary_of(self._record).state
        told, _ = events.read(self._record / EVENTS)
        if state == RUNNING:
            return self._under_way(told)
        if self._process is not None and not ended:
            cells = len(self._steps)
            return Sight(RUNNING, over=False, doing="ending", done=cells, total=cells, record=self._record)
        end = _facts(told, events.END)
        return Sight(
            state,
            over=True,
            record=self._record,
            changes=str(end.get("changes", "")),
            result=_facts(told, "applied").get("result", {}),
            checks=_facts(told, "verified").get("checks", ()),
            error=str(end.get("error", "" if end else "its process is gone, and did not say how it ended")),
        )

    def cancel(self) -> None:
        """Ask it to stop. It cleans up and ends its record itself.

        Raises:
            ConflictError: it has ended.
        """
        pid = self._pid()
        if pid is None:
            raise ConflictError("there is nothing to cancel: the run has ended", hint="look at its record")
        with suppress(ProcessLookupError):  # it ended just now, which was the wish
            # Started by a form it leads a group of its own; started in a shell the group may be anybody's.
            (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, signal.SIGTERM)

    def _pid(self) -> int | None:
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        begin, _ = events.first_and_last(find_record(self._site.records, self.run_id) / EVENTS)
        if begin is None or not process.is_alive(begin.facts):
            return None
        return int((begin.facts.get("runner") or begin.facts)["pid"])  # the service keeps records for others

    def _under_way(self, told: Sequence[Event]) -> Sight:
        cells = sum(event.kind == "cell" for event in told)
        step = self._steps[min(cells, len(self._steps) - 1)]
        try:
            progress = json.loads(progress_file(self._site, self.run_id).read_bytes())
            stage, done, total = str(progress["what"]), int(progress["done"]), int(progress["total"] or 0)
            doing = f"{step}: {stage}{_pace(done, total, progress)}"
            line = str(progress["line"])
        except (OSError, ValueError, KeyError, TypeError):  # not written yet, or gone with the run's end
            return Sight(RUNNING, over=False, doing=step, done=cells, total=len(self._steps), record=self._record)
        return Sight(
            RUNNING,
            over=False,
            doing=f"{doing}\n{line}" if line else doing,
            done=done if total else cells,
            total=total or len(self._steps),
            record=self._record,
        )

    def _last_words(self) -> str:
        try:
            text = run_log(self._site, self.run_id).read_text("utf-8", "replace")
        except OSError:
            text = ""
        code = self._process.returncode if self._process else None
        how = f"signal {-code}" if code and code < 0 else f"exit code {code}"
        return "\n".join([f"it ended before its record began, with {how}", *text.splitlines()[-20:]])


def _pace(done: int, total: int, progress: Mapping[str, Any]) -> str:
    """Return how far a stage is and how long it may still take, or ""."""
    if not done and not total:
        return ""
    return ", " + pace(
        done,
        total,
        str(progress["unit"]),
        time.time() - float(progress["began"]),
        done_bytes=int(progress["done_bytes"]),
        total_bytes=int(progress["total_bytes"]),
        about=bool(progress["about"]),
    )


def _facts(told: Sequence[Event], kind: str) -> Mapping[str, Any]:
    return next((event.facts for event in reversed(told) if event.kind == kind), {})


def _steps(notebook: Mapping[str, Any]) -> list[str]:
    """Return what goes on in each cell that will be run; papermill puts one of its own behind the parameters."""
    steps = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            tags = cell.get("metadata", {}).get("tags", [])
            words = next((STEPS[tag] for tag in tags if tag in STEPS), "working")
            steps += [words, words] if TAG in tags else [words]
    return steps
