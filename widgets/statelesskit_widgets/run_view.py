"""The part of a form that shows a run while it goes on, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import ipywidgets as widgets

from statelesskit.action import Action
from statelesskit.frames import Shown
from statelesskit_widgets import markup
from statelesskit_widgets.following import Run, Sight

POLL_S = 0.5
LOOKS = {"completed": "success", "cancelled": "warning", "refused": "warning"}  # any other end is an error


class RunView(widgets.VBox):  # type: ignore[misc] # ipywidgets has no types
    """State, progress and a button to cancel.

    Attributes:
        task: follows the run; done when it is over.
    """

    def __init__(self, guarded: Callable[[], AbstractContextManager[None]], over: Callable[[Run, Sight], None]) -> None:
        self.state = widgets.HTML()
        self.bar = widgets.IntProgress(layout=widgets.Layout(width="100%", max_width="46rem"))
        self.cancel = widgets.Button(disabled=True, layout=widgets.Layout(width="max-content"))
        self.cancel.on_click(self._cancel)
        self.task: asyncio.Task[None] | None = None
        self._run: Run | None = None
        self._guarded, self._over = guarded, over
        super().__init__([self.state, self.bar, self.cancel])
        self.layout.display = "none"

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()

    def follow(self, run: Run) -> None:
        """Show a run until it is over; returns at once. Needs a running event loop, as a kernel has."""
        self._run = run
        self.layout.display = self.bar.layout.display = self.cancel.layout.display = ""
        self.cancel.description, self.cancel.disabled = "Cancel the run", False
        self.task = asyncio.get_running_loop().create_task(self._follow(run))

    async def _follow(self, run: Run) -> None:
        with self._guarded():
            while not (sight := run.look()).over:
                self._show(run, sight)
                await asyncio.sleep(POLL_S)
            self.state.value = ended_page(run, sight)
            self._over(run, sight)
        # Also when looking failed: what can't be seen can't be shown as going on.
        self.cancel.disabled = True
        self.bar.layout.display = self.cancel.layout.display = "none"

    def _show(self, run: Run, sight: Sight) -> None:
        found = "" if run.begun_here else "It was started before this form was shown, and is followed again."
        record = f"record: {sight.record.name}" if sight.record else f"run {run.run_id}; its record is being made"
        head, *lines = sight.doing.splitlines() or [""]
        head = f"{sight.state.capitalize()}: {head}" if head else sight.state.capitalize()
        self.state.value = markup.box("info", head, [*lines, found, record])
        self.bar.max, self.bar.value = max(sight.total, 1), min(sight.done, max(sight.total, 1))

    def _cancel(self, _: Any) -> None:
        # Clicks that queued up come through a disabled button too; a second signal would disturb the cleaning up.
        if self._run is None or self.cancel.disabled:
            return
        with self._guarded():
            self._run.cancel()
            self.cancel.description, self.cancel.disabled = "Cancelling…", True


def ended_page(run: Run, sight: Sight) -> str:
    """Return how a run ended, with all that is known of why."""
    record = f"record: {sight.record / 'record.html'}" if sight.record else f"run {run.run_id} left no record"
    kind = LOOKS.get(sight.state, "error")
    role = "status" if sight.state == "completed" else "alert"
    return markup.box(kind, sight.state.capitalize(), [sight.changes, *sight.error.splitlines(), record], role=role)


class Told:
    """What is left of a run in the notebook: static, so that it is there when the notebook is opened again."""

    def __init__(self, *parts: Shown) -> None:
        self.parts = parts

    def _repr_html_(self) -> str:
        tables = "".join(part._repr_html_() for part in self.parts)
        return f'<div class="sk-told">{markup.LEFT}{tables}</div>'

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.parts))


def told(kind: type[Action], run: Run, sight: Sight) -> Shown:
    """Return the result of a run as a table."""
    rows: list[tuple[str, Any]] = [("state", sight.state), ("changed", sight.changes)]
    rows += [
        (name.replace("_", " "), value) for name, value in sight.result.items() if name not in ("changed", "record")
    ]
    rows += [("error", line.strip()) for line in sight.error.splitlines()]
    if sight.record:
        rows += [("record", sight.record.name), ("page", sight.record / "record.html")]
    else:
        rows += [("run", run.run_id)]
    return Shown(kind.title, [{"what": name, "is": value} for name, value in rows if value not in ("", None)])
