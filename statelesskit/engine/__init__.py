"""The papermill engine ``statelesskit``: a run's notebook and record say what happened, whatever happened.

Stock papermill (2.7.0) marks every cell that is still pending at the end as completed, also when the run
was stopped, timed out, or its kernel died. Here each cell has one of these states: ``completed``, ``failed``,
``timed-out``, ``kernel-died``, ``cancelled``, ``skipped`` (empty, or tagged so), ``not-run``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from papermill.engines import Engine, NBClientEngine, papermill_engines

from statelesskit import errors
from statelesskit.audit.keys import PRIVATE
from statelesskit.audit.records import Record
from statelesskit.config import Site, load_site, site_root
from statelesskit.engine.client import Client
from statelesskit.engine.ending import GRACE_S, Stopping, ending_of
from statelesskit.engine.keeper import COMPLETED, NOTEBOOK, Keeper, write_whole_files
from statelesskit.engine.kernel import kernel_of
from statelesskit.engine.outputs import Outputs
from statelesskit.errors import NotFoundError, StatelessError
from statelesskit.names import printable
from statelesskit.page import render_page
from statelesskit.runbook.find import KEY, read_runbook
from statelesskit.runbook.launch import RECORD_VARIABLE, SITE_VARIABLE, RunEnded, RunRecord, begin_record, progress_file
from statelesskit.runbook.parameters import check
from statelesskit.witness import tell_witness

write_whole_files()


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

        Besides papermill's own words it takes ``cell_timeout`` (papermill's ``execution_timeout`` is the same),
        ``run_timeout`` and ``grace``, in seconds. The notebook may say the first two itself, in the ``statelesskit``
        of its metadata, and a cell its own ``timeout`` in that of the cell.

        Raises:
            RunEnded: it ended in any other way. What is at ``output_path`` and in the record says how.
        """
        stopping = Stopping(kwargs.pop("grace", None) or GRACE_S)
        with stopping.by_signals():
            site, record, ended = _record_of(nb, kwargs.pop("record", None), kwargs.get("input_path"))
            keeper = Keeper(nb, output_path, log_output, progress_bar, autosave_cell_every, record)
            outputs = Outputs(record.path) if record else None
            try:
                keeper.notebook_start()
                if ended is None:
                    _run_cells(keeper, stopping, outputs, kernel_name, log_output, site, kwargs)
            except BaseException as error:
                ended = stopping.why or ending_of(error)
            stopping.close()
            ended = _closed(keeper, outputs, ended)
            if record is not None and site is not None:
                ended = _seal(site, record, keeper.nb, ended)
        if ended is not None:
            raise ended
        return keeper.nb


class OwnRunbooks(NBClientEngine):  # type: ignore[misc]
    """What papermill takes when no engine is named: ours for our runbooks, its own for everybody else's.

    Airflow's PapermillOperator can't name one, and with papermill's own a confirmed runbook refuses.
    """

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, *words: Any, **kwargs: Any) -> Any:
        if KEY in nb.metadata:
            return TruthfulEngine.execute_notebook(nb, kernel_name, *words, **kwargs)
        return super().execute_notebook(nb, kernel_name, *words, **kwargs)


papermill_engines.register(None, OwnRunbooks)


def _run_cells(
    keeper: Keeper,
    stopping: Stopping,
    outputs: Outputs | None,
    kernel_name: str,
    log_output: bool,
    site: Site | None,
    options: dict[str, Any],
) -> None:
    environment = dict(os.environ)
    environment.pop(RECORD_VARIABLE, None)
    if site is not None and keeper.record is not None:
        environment |= {SITE_VARIABLE: str(site.root), RECORD_VARIABLE: str(site.records / keeper.record.name)}
    own = keeper.nb.metadata.get(KEY, {})
    cell_timeout_s = options.get("cell_timeout") or options.get("execution_timeout") or own.get("cell_timeout")
    run_timeout_s = options.get("run_timeout") or own.get("run_timeout")
    with stopping.after(run_timeout_s, "the run"), kernel_of(kernel_name) as kernel:
        stopping.watch(kernel)
        client = Client(
            keeper,
            stopping,
            outputs,
            cell_timeout_s,
            km=kernel,
            kernel_name=kernel_name,
            startup_timeout=options.get("start_timeout", 60),
            log_output=log_output,
            stdout_file=options.get("stdout_file"),
            stderr_file=options.get("stderr_file"),
        )
        if stopping.why:
            raise stopping.why
        # nbclient shuts down only a kernel it made itself, unless it is told to.
        client.execute(env=environment, cleanup_kc=True)


def _closed(keeper: Keeper, outputs: Outputs | None, ended: RunEnded | None) -> RunEnded | None:
    """Write the notebook's end; return how the run ended if that, too, counts."""
    try:
        if outputs:
            outputs.close()
        keeper.close(ended)
    except Exception as error:  # the output can't be written; the record must tell how the run ended all the same
        ended = ended or ending_of(error)
        keeper.tell(ended)
    return ended


def _record_of(
    nb: Any, record: RunRecord | None, input_path: str | None
) -> tuple[Site | None, RunRecord | None, RunEnded | None]:
    """Join the record that ``statelesskit run`` began, or begin one; check the parameters before anything runs."""
    try:
        site = load_site(site_root(None))
    except NotFoundError:
        site = None
    if record is not None:
        return site, record, None
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


def _seal(site: Site, record: RunRecord, nb: Any, ended: RunEnded | None) -> RunEnded | None:
    """Put the notebook and its page into the record, and end it; return how the run ended if that, too, counts.

    A page that can't be made or written is said in the record and changes nothing: the notebook is there.
    """
    facts: dict[str, Any] = {"error": ended.message} if ended else {"changes": _changes(record)}
    with suppress(OSError):
        progress_file(site, record.run_id).unlink(missing_ok=True)
    try:
        record.attach(NOTEBOOK, nbformat.writes(nb).encode() + b"\n")
        record.attach("record.html", render_page(nb, record.name).encode())
    except Exception as error:
        facts["left_undone"] = str(ending_of(error))
    state, code = (ended.state, ended.exit_code) if ended else (COMPLETED, 0)
    try:
        record.end(state, code, key=site.keys / PRIVATE, **facts)
    except (StatelessError, OSError) as error:  # the record reads as lost, or is not sealed: nobody may take that for 0
        return ended or ending_of(error)
    if isinstance(record, Record):  # else the service tells it
        tell_witness(site)
    return ended


def _changes(record: RunRecord) -> str:
    """Return in one sentence what the run changed; of a record that the service keeps, it says that itself."""
    try:
        plan = json.loads((record.path / "plan.json").read_bytes())
    except FileNotFoundError:
        return ""
    return str(plan["summary"])
