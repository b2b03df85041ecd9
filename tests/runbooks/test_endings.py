"""However a run ends, its notebook and its record say so, and no cell that did not run reads completed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from statelesskit.audit.listing import list_records
from statelesskit.audit.verify import verify_record
from statelesskit.runbook.find import find_runbook, runbook_folder
from statelesskit.runbook.launch import run_runbook
from tests.fleet import Fleet

pytestmark = [pytest.mark.slapd, pytest.mark.kernel, pytest.mark.root]


def runbook_with(cell: str, path: Path) -> Path:
    """Copy a runbook, with another cell after its check and a plain one after that."""
    notebook = nbformat.read(runbook_folder() / "30-take-snapshot.ipynb", as_version=4)
    added = [nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell("print('after')")]
    notebook.cells = [*notebook.cells[:3], *added]
    nbformat.write(notebook, path)
    return path


def start(fleet: Fleet, runbook: Path, output: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("papermill")), "--engine", "statelesskit", "--no-progress-bar",
         str(runbook), str(output), "-p", "prototype", "desktop", *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(output.parent), "STATELESSKIT_SITE": str(fleet.site.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def told(fleet: Fleet, output: Path) -> tuple[str, int | None, list[str]]:
    """Return what record and notebook say; they must say the same, and the record must be intact."""
    summary = list_records(fleet.site.records)[-1]
    record = fleet.site.records / summary.name
    assert verify_record(record, (fleet.site.keys / "record.pub").read_text()) == []
    inside: dict[str, Any] = json.loads((record / "record.ipynb").read_text())
    assert inside["cells"] == json.loads(output.read_text())["cells"]
    assert inside["metadata"]["statelesskit"]["state"] == summary.state
    assert inside["metadata"]["papermill"]["end_time"]
    states = [cell["metadata"]["papermill"]["status"] for cell in inside["cells"]]
    return summary.state, summary.exit_code, states


ENDINGS = {
    "completed": ("x = 1", (), 0, "completed"),
    "an exception": ("1 / 0", (), 1, "failed"),
    "exit 0 in a cell": ("import sys; sys.exit(0)", (), 1, "failed"),
    "a refusal": (
        "from statelesskit.errors import RefusedError; raise RefusedError('no', hint='do not')", (), 3, "failed"
    ),
    "a timeout": ("import time; time.sleep(60)", ("--execution-timeout", "2"), 5, "timed-out"),
    "the kernel killed": ("import os; os.kill(os.getpid(), 9)", (), 6, "kernel-died"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_ending(fleet: Fleet, tmp_path: Path, name: str) -> None:
    cell, words, code, cell_state = ENDINGS[name]
    output = tmp_path / "out.ipynb"
    with start(fleet, runbook_with(cell, tmp_path / "30-trial.ipynb"), output, *words) as process:
        text = process.communicate(timeout=60)[0]
    assert process.returncode == code, text
    state, recorded, states = told(fleet, output)
    assert recorded == code
    assert state == {"failed": "refused" if code == 3 else "failed"}.get(cell_state, cell_state)
    rest = "completed" if code == 0 else "not-run"
    assert states == [*["completed"] * 4, cell_state, rest]  # title, parameters, given parameters, check


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_cancels_and_says_so(fleet: Fleet, tmp_path: Path, number: signal.Signals) -> None:
    output, began, cleaned = tmp_path / "out.ipynb", tmp_path / "began", tmp_path / "cleaned"
    cell = (
        f"import pathlib, time\ntry:\n    pathlib.Path({str(began)!r}).touch()\n"
        f"    time.sleep(60)\nfinally:\n    pathlib.Path({str(cleaned)!r}).touch()"
    )
    with start(fleet, runbook_with(cell, tmp_path / "30-trial.ipynb"), output) as process:
        deadline = time.monotonic() + 30
        while not began.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        text = process.communicate(timeout=30)[0]
    assert process.returncode == 143, text
    assert cleaned.exists(), "the cell's finally did not run"
    state, code, states = told(fleet, output)
    assert (state, code) == ("cancelled", 143)
    assert states[-2:] == ["cancelled", "not-run"]


def test_a_run_that_vanished_is_lost(fleet: Fleet, tmp_path: Path) -> None:
    began = tmp_path / "began"
    cell = f"import pathlib, time; pathlib.Path({str(began)!r}).touch(); time.sleep(60)"
    with start(fleet, runbook_with(cell, tmp_path / "30-trial.ipynb"), tmp_path / "out.ipynb") as process:
        deadline = time.monotonic() + 30
        while not began.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list_records(fleet.site.records)[-1].state == "running"
        process.kill()
        process.communicate(timeout=30)
    summary = list_records(fleet.site.records)[-1]
    assert summary.state == "lost"
    (row,) = fleet.json("audit", "list")[-1:]
    assert row["state"] == "lost"
    states = [
        cell["metadata"]["papermill"]["status"]
        for cell in json.loads((fleet.site.records / summary.name / "record.ipynb").read_text())["cells"]
    ]
    assert states[-2:] == ["running", "pending"]
    done = fleet.run("audit", "verify")
    assert done.returncode == 1
    assert summary.name in done.stdout
    # The next test wants a clean list.
    import shutil

    shutil.rmtree(fleet.site.records / summary.name)


@pytest.mark.parametrize("wait_s", [0.25, 0.5, 0.8, 1.2])
def test_a_signal_while_it_starts_is_recorded_too(fleet: Fleet, wait_s: float) -> None:
    """papermill takes a second to import, in which no engine can answer a signal."""
    before = {path.name for path in fleet.site.records.iterdir()}
    with subprocess.Popen(
        [sys.executable, "-m", "statelesskit", "--site", str(fleet.site.root), "run", "30-take-snapshot",
         "-p", "prototype=desktop", "-p", "confirm=auto"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        time.sleep(wait_s)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=30)[0]
    new = [one for one in list_records(fleet.site.records) if one.name not in before]
    if new:  # else the signal came before there was anything to record
        assert process.returncode == 143, text
        assert (new[0].state, new[0].exit_code) == ("cancelled", 143)


def test_an_output_that_cannot_be_written_is_recorded(fleet: Fleet, tmp_path: Path) -> None:
    runbook = runbook_with("x = 1", tmp_path / "30-trial.ipynb")
    with start(fleet, runbook, tmp_path / "missing" / "out.ipynb") as process:
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "Traceback" not in text
    summary = list_records(fleet.site.records)[-1]
    assert (summary.state, summary.exit_code) == ("failed", 1)
    record = fleet.site.records / summary.name
    assert verify_record(record, (fleet.site.keys / "record.pub").read_text()) == []
    notebook = json.loads((record / "record.ipynb").read_text())
    assert notebook["metadata"]["statelesskit"]["state"] == "failed"
    assert {cell["metadata"]["papermill"]["status"] for cell in notebook["cells"]} == {"not-run"}


def test_a_signal_before_the_first_cell_never_reads_completed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    import papermill  # noqa: F401 # it loads the engine, and must be loaded first

    monkeypatch.setattr("statelesskit.engine.kernel_of", stopped)
    ended = run_runbook(fleet.site, find_runbook("30-take-snapshot"), {"prototype": "desktop"})
    assert (ended.state, ended.exit_code) == ("cancelled", 143)
    assert list_records(fleet.site.records)[-1].state == "cancelled"


def test_a_cell_may_have_its_own_limit_and_others_are_skipped(fleet: Fleet, tmp_path: Path) -> None:
    runbook, output = runbook_with("import time; time.sleep(60)", tmp_path / "30-trial.ipynb"), tmp_path / "out.ipynb"
    notebook = nbformat.read(runbook, as_version=4)
    notebook.cells[3].metadata["statelesskit"] = {"timeout": 2}
    notebook.cells.insert(3, nbformat.v4.new_code_cell(""))
    notebook.cells.insert(4, nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["skip-execution"]}))
    nbformat.write(notebook, runbook)
    with start(fleet, runbook, output) as process:
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 5, text
    assert "cell 6 took longer than the 2 s it may" in text
    assert told(fleet, output)[2][-4:] == ["skipped", "skipped", "timed-out", "not-run"]


def test_what_the_notebook_leaves_out_is_beside_it_and_sealed(fleet: Fleet, tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    cell = "print('begin', flush=True); print(('y' * 99 + chr(10)) * 20_000); print('end')"
    with start(fleet, runbook_with(cell, tmp_path / "30-trial.ipynb"), output) as process:
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 0, text
    assert told(fleet, output)[0] == "completed"
    assert output.stat().st_size < 400_000
    outputs = json.loads(output.read_text())["cells"][4]["outputs"]
    shown = "".join("".join(one["text"]) for one in outputs)
    assert "bytes were left out here; all of it is in output.txt of the record" in shown
    assert shown.endswith("\nend\n")
    record = fleet.site.records / list_records(fleet.site.records)[-1].name
    kept = (record / "output.txt").read_text()
    assert kept.count("y") == 99 * 20_000
    (record / "output.txt").write_text(kept.replace("begin", "bygin"))
    faults = verify_record(record, (fleet.site.keys / "record.pub").read_text())
    (record / "output.txt").write_text(kept)
    assert [fault.file for fault in faults] == ["output.txt"]
