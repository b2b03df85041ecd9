"""The notebook of a run as it grows: the state of each cell, and every write of it whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from papermill.engines import NotebookExecutionManager
from papermill.iorw import LocalHandler, papermill_io, write_ipynb

from statelesskit import fs, scrub
from statelesskit.audit.cells import cell_digests
from statelesskit.runbook.launch import RunEnded, RunRecord

COMPLETED, NOT_RUN, SKIPPED = "completed", "not-run", "skipped"
SKIP_TAG = "skip-execution"  # nbclient's
NOTEBOOK = "record.ipynb"


class Keeper(NotebookExecutionManager):  # type: ignore[misc]
    """papermill's keeper of states, with every write whole and no pending cell called completed."""

    def __init__(
        self, nb: Any, output_path: str | None, log: bool, bar: Any, autosave: int, record: RunRecord | None
    ) -> None:
        self.record = record
        super().__init__(nb, output_path, log, bar, autosave)

    def save(self, **kwargs: Any) -> None:
        if kwargs.get("nb"):
            self.nb = kwargs["nb"]
        scrub.in_place(self.nb)
        try:
            if self.record is not None:
                self.record.keep(NOTEBOOK, nbformat.writes(self.nb).encode() + b"\n")
        finally:  # the one must tell the truth where the other can't
            if self.output_path and self.output_path != "-":
                write_ipynb(self.nb, self.output_path)
        self.last_save_time = self.now()

    def cell_start(self, cell: Any, index: int) -> None:
        try:
            if self.record is not None and cell.cell_type == "code":
                self.record.event("cell-began", index=index)
            super().cell_start(cell, index)
        except BaseException:
            cell.metadata.papermill["status"] = self.PENDING  # what can't be told is not done
            raise

    def cell_ended(self, cell: Any, index: int, state: str) -> None:
        """Give a cell its state; papermill's own bookkeeping would first call it completed."""
        head, ended = cell.metadata.papermill, self.now()
        head["end_time"], head["status"] = ended.isoformat(), state
        head["duration"] = (ended - datetime.fromisoformat(head["start_time"])).total_seconds()
        if state not in (COMPLETED, SKIPPED):
            self.nb.metadata.papermill["exception"] = head["exception"] = True
        if self.record is not None and cell.cell_type == "code":
            scrub.in_place(cell)
            digests = cell_digests({"cells": [cell]})[0]
            self.record.event("cell", **{**digests, "index": index, "status": state})
        self.save()
        if self.pbar:
            self.pbar.update(1)

    def close(self, ended: RunEnded | None) -> None:
        """Write the end into the notebook."""
        self.cleanup_pbar()
        self.end_time = self.now()
        head = self.nb.metadata.papermill
        head["end_time"] = self.end_time.isoformat()
        head["duration"] = (self.end_time - self.start_time).total_seconds()
        head["exception"] = ended is not None
        for cell in self.nb.cells:
            if cell.metadata.papermill["status"] == self.PENDING:
                cell.metadata.papermill["status"] = NOT_RUN
        self.tell(ended)
        self.save()

    def tell(self, ended: RunEnded | None) -> None:
        """Put how the run ended into the notebook's metadata, in memory."""
        self.nb.metadata["statelesskit"] = {
            **self.nb.metadata.get("statelesskit", {}),
            "exit_code": ended.exit_code if ended else 0,
            "state": ended.state if ended else COMPLETED,
            **({"record": self.record.name} if self.record else {}),
        }


class WholeFiles(LocalHandler):  # type: ignore[misc]
    """papermill's writer of local files; its own empties the file first, and so leaves torn ones.

    papermill writes once more, after the engine and after the record has ended. What is there is just that, so
    nothing is written then, and nothing can go wrong.
    """

    def write(self, buf: str, path: str) -> None:
        target, data = Path(self._cwd or ".", path).absolute(), buf.encode()
        try:
            same = target.read_bytes() == data
        except OSError:
            same = False
        if not same:
            fs.write_file(target, data)


def write_whole_files() -> None:
    """Have papermill write local files whole, in this process; it has no other way to say so.

    A handler that is registered again, by an entry point too, comes after papermill's own, and is never asked.
    """
    handlers = papermill_io._handlers
    papermill_io._handlers = [(scheme, WholeFiles() if scheme == "local" else one) for scheme, one in handlers]
