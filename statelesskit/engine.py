"""The papermill engine ``statelesskit``: a run's notebook and record say what happened, whatever happened.

Stock papermill (2.7.0) marks every cell that is still pending at the end as completed, also when the run
was stopped, timed out, or its kernel died. Here each cell has one of these states: ``completed``, ``failed``,
``timed-out``, ``kernel-died``, ``cancelled``, ``not-run``.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager
from papermill.iorw import write_ipynb

from statelesskit import errors, fs
from statelesskit.audit.cells import cell_digests
from statelesskit.audit.keys import PRIVATE
from statelesskit.audit.records import Record
from statelesskit.config import Site, load_site, site_root
from statelesskit.errors import CancelledError, NotFoundError, StatelessError
from statelesskit.names import printable
from statelesskit.page import render_page
from statelesskit.runbook.find import KEY, read_runbook
from statelesskit.runbook.launch import RECORD_VARIABLE, SITE_VARIABLE, RunEnded, begin_record, progress_file
from statelesskit.runbook.parameters import check
from statelesskit.service import STOPPING

COMPLETED, NOT_RUN = "completed", "not-run"


class TruthfulEngine(Engine):  # type: ignore[misc]
    """Runs the cells, and keeps the record where a site is known."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool | Mapping[str, Any] = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        **kwargs: Any,
    ) -> Any:
        """Run a notebook; return it when all cells completed.

        Raises:
            RunEnded: it ended in any other way. What is at ``output_path`` and in the record says how.
        """
        record_path = kwargs.pop("record_path", None)
        site, record, ended = _record_of(nb, record_path, kwargs.get("input_path"))
        manager = TruthfulManager(nb, output_path, log_output, progress_bar, autosave_cell_every, record)
        try:
            manager.notebook_start()
            if ended is None:
                _run_cells(manager, kernel_name, log_output, site, record, kwargs)
        except BaseException as error:  # a signal too: before the first cell it raises, and must not read as completed
            ended = _ended(error)
        try:
            manager.close(ended)
        except Exception as error:  # the output can't be written; the record must tell how the run ended all the same
            ended = ended or _ended(error)
            manager.tell(ended)
        if record is not None and site is not None:
            _seal(site, record, manager.nb, ended)
        if ended is not None:
            raise ended
        return manager.nb


class TruthfulManager(NotebookExecutionManager):  # type: ignore[misc]
    """papermill's keeper of states, with every write whole and no pending cell called completed."""

    def __init__(
        self, nb: Any, output_path: str | None, log: bool, bar: Any, autosave: int, record: Record | None
    ) -> None:
        self._record = record
        super().__init__(nb, output_path, log, bar, autosave)

    def save(self, **kwargs: Any) -> None:
        if kwargs.get("nb"):
            self.nb = kwargs["nb"]
        data = nbformat.writes(self.nb).encode() + b"\n"
        if self._record is not None:
            fs.write_file(self._record.path / "record.ipynb", data)
        if self.output_path and "://" in self.output_path:
            write_ipynb(self.nb, self.output_path)
        elif self.output_path and self.output_path != "-":
            fs.write_file(Path(self.output_path).absolute(), data)
        self.last_save_time = self.now()

    def cell_ended(self, cell: Any, index: int, state: str) -> None:
        """Give a cell its state, before papermill's own bookkeeping can."""
        if state != COMPLETED:
            self.cell_exception(cell, cell_index=index)
        self.cell_complete(cell, cell_index=index)
        cell.metadata.papermill["status"] = state
        if self._record is not None and cell.cell_type == "code":
            digests = cell_digests({"cells": [cell]})[0]
            self._record.event("cell", **{**digests, "index": index, "status": state})
        self.save()

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
        """Write how the run ended into the notebook's metadata."""
        self.nb.metadata["statelesskit"] = {
            **self.nb.metadata.get("statelesskit", {}),
            "exit_code": ended.exit_code if ended else 0,
            "state": ended.state if ended else COMPLETED,
            **({"record": self._record.path.name} if self._record else {}),
        }


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Runs cell after cell until one does not complete, or a signal asks to stop.

    A signal raises nothing here, where half-done reads of the kernel's sockets would be left behind. It
    interrupts the kernel, so that the cell ends by itself and its ``finally`` runs; one that does not end
    within ``GRACE_S``, or a second signal, has it killed.
    """

    GRACE_S = 10
    cancelled = False

    def papermill_execute_cells(self) -> None:
        manager: TruthfulManager = self.nb_man
        for index, cell in enumerate(self.nb.cells):
            ended: RunEnded | None = None
            if self.cancelled:
                raise _ended(CancelledError("stopped by a signal"))
            try:
                manager.cell_start(cell, index)
                self.execute_cell(cell, index)
            except BaseException as error:
                ended = _ended(CancelledError("stopped by a signal") if self.cancelled else error)
            state = COMPLETED if ended is None else "failed" if ended.state == "refused" else ended.state
            manager.cell_ended(self.nb.cells[index], index, state)
            if ended is not None:
                raise ended

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that asks to stop."""
        if self.cancelled:
            self._signal_kernel(signal.SIGKILL)
            return
        self.cancelled = True
        self._signal_kernel(signal.SIGINT)
        last_resort = threading.Timer(self.GRACE_S, self._signal_kernel, [signal.SIGKILL])
        last_resort.daemon = True
        last_resort.start()

    def _signal_kernel(self, number: int) -> None:
        """Signal the kernel and what it started; it leads a process group of its own."""
        pid: int | None = getattr(self.km.provisioner, "pid", None)
        with suppress(ProcessLookupError):
            if pid:
                os.killpg(pid, number)


def _run_cells(
    manager: TruthfulManager,
    kernel_name: str,
    log_output: bool,
    site: Site | None,
    record: Record | None,
    options: dict[str, Any],
) -> None:
    environment = dict(os.environ)
    environment.pop(RECORD_VARIABLE, None)
    if site is not None and record is not None:
        environment |= {SITE_VARIABLE: str(site.root), RECORD_VARIABLE: str(record.path)}
    # Sockets in a folder of its own, where TCP ports would be open to every local user; without a name of
    # its own all kernels of one working folder would share theirs.
    with tempfile.TemporaryDirectory(prefix="statelesskit-") as sockets:
        kernel = AsyncKernelManager(kernel_name=kernel_name, transport="ipc")
        kernel.connection_file, kernel.ip = f"{sockets}/kernel.json", f"{sockets}/kernel"
        client = _Client(
            manager,
            km=kernel,
            kernel_name=kernel_name,
            timeout=options.get("execution_timeout") or options.get("timeout"),
            startup_timeout=options.get("start_timeout", 60),
            log_output=log_output,
            stdout_file=options.get("stdout_file"),
            stderr_file=options.get("stderr_file"),
            store_widget_state=False,
        )
        _execute(client, environment)


def _execute(client: _Client, environment: dict[str, str]) -> None:
    # Only the main thread may set handlers; whoever runs us in another one stops us in their own way.
    ours = (signal.SIGINT, *STOPPING) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.signal(number, client.stop) for number in ours}
    try:
        # nbclient shuts down only a kernel it made itself, unless it is told to.
        client.execute(env=environment, cleanup_kc=True)
    except RunEnded:
        raise
    except BaseException as error:
        raise _ended(CancelledError("stopped by a signal") if client.cancelled else error) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _ended(error: BaseException) -> RunEnded:
    """Say how a run ended that raised this."""
    if isinstance(error, RunEnded):
        return error
    if isinstance(error, CellExecutionError):
        kind = getattr(errors, str(error.ename), None)
        code = kind.exit_code if isinstance(kind, type) and issubclass(kind, StatelessError) else 1
        state = {2: "refused", 3: "refused", 4: "refused", 143: "cancelled"}.get(code, "failed")
        return RunEnded(state, code, f"{error.ename}: {error.evalue}")
    if isinstance(error, CellTimeoutError):
        return RunEnded("timed-out", errors.TimedOutError.exit_code, "a cell took longer than it may")
    if isinstance(error, DeadKernelError):
        return RunEnded("kernel-died", errors.KernelDiedError.exit_code, "the kernel died")
    if isinstance(error, (KeyboardInterrupt, CancelledError)):
        return RunEnded("cancelled", CancelledError.exit_code, "stopped by a signal")
    return RunEnded("failed", getattr(error, "exit_code", 1), f"{type(error).__name__}: {error}")


def _record_of(
    nb: Any, record_path: str | None, input_path: str | None
) -> tuple[Site | None, Record | None, RunEnded | None]:
    """Join the record that ``statelesskit run`` began, or begin one; check the parameters before anything runs."""
    try:
        site = load_site(site_root(None))
    except NotFoundError:
        site = None
    if record_path:
        return site, Record.join(Path(record_path)), None
    try:
        runbook = read_runbook(Path(input_path or "").absolute())
    except (StatelessError, OSError) as error:
        if KEY in nb.metadata:  # its cells would take us for a person who only looks, and complete with nothing done
            why = f"this runbook can't be read from {printable(input_path or '-')}; give papermill its file ({error})"
            return site, None, RunEnded("refused", errors.UsageError.exit_code, why)
        return site, None, None  # no runbook of ours: run it, truthfully, without the record of an action
    parameters = json.loads(json.dumps(nb.metadata.papermill.get("parameters", {})))
    record = begin_record(site, runbook, parameters) if site else None
    try:
        check(runbook.notebook, runbook.action, parameters)
    except StatelessError as error:
        return site, record, RunEnded("refused", error.exit_code, str(error))
    return site, record, None


def _seal(site: Site, record: Record, nb: Any, ended: RunEnded | None) -> None:
    """Put the notebook and its page into the record, and end it."""
    progress_file(site, record.run_id).unlink(missing_ok=True)
    record.attach("record.ipynb", nbformat.writes(nb).encode() + b"\n")
    record.attach("record.html", render_page(nb, record.path.name).encode())
    if ended is None:
        record.end(COMPLETED, 0, key=site.keys / PRIVATE, changes=_changes(record))
    else:
        record.end(ended.state, ended.exit_code, key=site.keys / PRIVATE, error=ended.message)


def _changes(record: Record) -> str:
    """Return in one sentence what the run changed."""
    try:
        plan = json.loads((record.path / "plan.json").read_bytes())
    except FileNotFoundError:
        return ""
    return str(plan["summary"])
