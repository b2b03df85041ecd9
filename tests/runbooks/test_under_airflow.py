"""Runbooks under Airflow: its PapermillOperator itself, with neither a server nor a database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest

from statelesskit.audit.listing import RecordSummary, list_records
from statelesskit.audit.verify import verify_record
from statelesskit.runbook.find import runbook_folder
from tests.fleet import Fleet

pytestmark = [pytest.mark.airflow, pytest.mark.slapd, pytest.mark.kernel, pytest.mark.root]
PYTHON = Path(__file__).parents[2] / ".venv-airflow/bin/python"
TASK = """
import json, sys
from airflow.providers.papermill.operators.papermill import PapermillOperator
given = json.loads(sys.argv[1])
PapermillOperator(task_id="run", **given).execute({})
"""


def start(fleet: Fleet, folder: Path, runbook: Path, **parameters: str) -> subprocess.Popen[str]:
    given = {"input_nb": str(runbook), "output_nb": str(folder / "out.ipynb"), "parameters": parameters}
    return subprocess.Popen(
        [PYTHON, "-c", TASK, json.dumps(given)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "AIRFLOW_HOME": str(folder / "airflow"),
             "STATELESSKIT_SITE": str(fleet.site.root)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def told(fleet: Fleet, folder: Path) -> RecordSummary:
    summary = list_records(fleet.site.records)[-1]
    record = fleet.site.records / summary.name
    assert verify_record(record, (fleet.site.keys / "record.pub").read_text()) == []
    assert json.loads((folder / "out.ipynb").read_text())["metadata"]["statelesskit"]["state"] == summary.state
    return summary


def test_a_confirmed_push_completes(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push(fleet.one)
    digest = fleet.plan_digest(fleet.two)
    runbook = runbook_folder() / "71-push-snapshot.ipynb"
    with start(fleet, tmp_path, runbook, channel="desktop/stable", snapshot=fleet.two, confirm=digest) as task:
        text = task.communicate(timeout=120)[0]
    assert task.returncode == 0, text
    assert fleet.pointed_at()[0] == fleet.two
    assert told(fleet, tmp_path).state == "completed"


def test_one_that_nobody_confirmed_fails_the_task(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push(fleet.one)
    runbook = runbook_folder() / "71-push-snapshot.ipynb"
    with start(fleet, tmp_path, runbook, channel="desktop/stable", snapshot=fleet.two) as task:
        text = task.communicate(timeout=120)[0]
    assert task.returncode != 0
    assert "not confirmed" in text
    assert fleet.pointed_at()[0] == fleet.one
    assert told(fleet, tmp_path).state == "refused"


def test_a_task_that_is_cleared_is_cancelled(fleet: Fleet, tmp_path: Path) -> None:
    notebook = nbformat.read(runbook_folder() / "30-take-snapshot.ipynb", as_version=4)
    began, cleaned = tmp_path / "began", tmp_path / "cleaned"
    cell = (
        f"import pathlib, time\ntry:\n    pathlib.Path({str(began)!r}).touch()\n    time.sleep(60)\n"
        f"finally:\n    pathlib.Path({str(cleaned)!r}).touch()"
    )
    notebook.cells = [*notebook.cells[:2], nbformat.v4.new_code_cell(cell)]
    runbook = tmp_path / "30-trial.ipynb"
    nbformat.write(notebook, runbook)
    with start(fleet, tmp_path, runbook, prototype="desktop") as task:
        deadline = time.monotonic() + 60
        while not began.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(task.pid, signal.SIGTERM)  # what Airflow's supervisor sends
        text = task.communicate(timeout=60)[0]
    assert task.returncode != 0, text
    assert cleaned.exists()
    assert told(fleet, tmp_path).state == "cancelled"
