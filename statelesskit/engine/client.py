"""Runs a notebook's cells one after the other, until one does not complete or the run is asked to stop."""

from __future__ import annotations

import signal
from typing import Any

from nbclient.exceptions import CellExecutionError
from nbformat.notebooknode import from_dict
from papermill.clientwrap import PapermillNotebookClient

from statelesskit.engine.ending import Stopping, ending_of
from statelesskit.engine.guard import SUBREAPER
from statelesskit.engine.keeper import COMPLETED, SKIP_TAG, SKIPPED, Keeper
from statelesskit.engine.outputs import Outputs
from statelesskit.errors import StatelessError
from statelesskit.runbook.launch import RunEnded


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client, which stops where it should."""

    def __init__(
        self, keeper: Keeper, stopping: Stopping, outputs: Outputs | None, cell_timeout_s: float | None, **options: Any
    ) -> None:
        super().__init__(keeper, store_widget_state=False, **options)
        self._keeper, self._stopping, self._outputs = keeper, stopping, outputs
        self._cell_timeout_s = cell_timeout_s

    def papermill_execute_cells(self) -> None:
        if self._keeper.record is not None:
            guarded = self.km.guarded_by()
            weaker = {"finding": "what the kernel starts survives if its guard is killed"}
            self._keeper.record.event("guard", by=guarded, **(weaker if guarded.startswith(SUBREAPER) else {}))
        for index, cell in enumerate(self.nb.cells):
            if self._stopping.why:
                raise self._stopping.why
            self._keeper.cell_start(cell, index)
            ended = self._run(cell, index)
            state = COMPLETED if ended is None else "failed" if ended.state == "refused" else ended.state
            if ended is None and cell.cell_type == "code" and _skipped(cell):
                state = SKIPPED
            cell = self.nb.cells[index]  # nbclient replaces it
            if self._outputs and (shown := self._outputs.end_cell(index)):
                cell.outputs.append(from_dict(shown))
            try:
                self._keeper.cell_ended(cell, index, state)
            except (StatelessError, OSError):
                if ended is None:  # what went wrong first is what must be told
                    raise
            if ended is not None:
                raise ended

    def process_message(self, message: dict[str, Any], cell: Any, cell_index: int) -> Any:
        kept = self._outputs.take(message, cell_index) if self._outputs else message
        return super().process_message(kept, cell, cell_index) if kept else None

    def _run(self, cell: Any, index: int) -> RunEnded | None:
        limit_s = cell.metadata.get("statelesskit", {}).get("timeout", self._cell_timeout_s)
        try:
            with self._stopping.after(limit_s, f"cell {index}"):
                self.execute_cell(cell, index)
        except BaseException as error:
            if not isinstance(error, CellExecutionError):  # ours or a caller's: the cell may be running still
                self._stopping.signal(signal.SIGINT)
            return self._stopping.why or ending_of(error)
        return None


def _skipped(cell: Any) -> bool:
    return not cell.source.strip() or SKIP_TAG in cell.metadata.get("tags", [])
