"""A run that ended badly is continued: same runbook, same parameters, what was done is not done again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from statelesskit.audit import events
from statelesskit.audit.listing import list_records
from statelesskit.audit.verify import verify_record
from statelesskit.runbook.find import runbook_folder
from tests.fleet import Fleet

pytestmark = [pytest.mark.slapd, pytest.mark.kernel, pytest.mark.root]


def pushing(folder: Path, *, before: str = "", after: str = "") -> Path:
    """Make runbook 71 with one more cell before what it applies, and one after."""
    notebook = nbformat.read(runbook_folder() / "71-push-snapshot.ipynb", as_version=4)
    applies = next(index for index, cell in enumerate(notebook.cells) if "apply()" in cell.source)
    notebook.cells.insert(applies + 1, nbformat.v4.new_code_cell(after))
    notebook.cells.insert(applies, nbformat.v4.new_code_cell(before))
    path = folder / "71-trial.ipynb"
    nbformat.write(notebook, path)
    return path


def last(fleet: Fleet) -> Path:
    return fleet.site.records / list_records(fleet.site.records)[-1].name


def facts(record: Path) -> dict[str, object]:
    log, _ = events.read(record / "events.jsonl")
    return dict(log[0].facts)


def test_what_failed_before_it_was_applied_is_applied(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push(fleet.one)
    ready = tmp_path / "ready"
    runbook = pushing(tmp_path, before=f"assert __import__('pathlib').Path({str(ready)!r}).exists()")
    words = ("-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}", "-p")
    failed = fleet.run("run", str(runbook), *words, f"confirm={fleet.plan_digest(fleet.two)}")
    assert failed.returncode == 1, failed.stderr
    old = last(fleet)
    held = {path.name: path.read_bytes() for path in old.iterdir()}
    ready.touch()
    done = fleet.run("run", "--resume", old.name[-8:])
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at()[0] == fleet.two
    new = last(fleet)
    assert facts(new)["resumes"] == old.name
    assert facts(new)["parameters"] == facts(old)["parameters"]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == held
    for record in (old, new):
        assert verify_record(record, (fleet.site.keys / "record.pub").read_text()) == []
    again = fleet.run("run", "--resume", new.name)
    assert again.returncode == 3
    assert "is completed" in again.stderr


def test_what_vanished_after_it_was_applied_is_not_applied_again(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push(fleet.one)
    began, ready = tmp_path / "began", tmp_path / "ready"
    runbook = pushing(
        tmp_path,
        after=f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\n"
        f"time.sleep(0 if pathlib.Path({str(ready)!r}).exists() else 60)",
    )
    words = ["-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}"]
    with subprocess.Popen(
        [sys.executable, "-m", "statelesskit", "--site", str(fleet.site.root), "run", str(runbook), *words,
         "-p", f"confirm={fleet.plan_digest(fleet.two)}"],
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not began.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    old = last(fleet)
    applied = fleet.pointed_at()
    assert applied[0] == fleet.two
    ready.touch()
    done = fleet.run("run", "--resume", old.name, "-p", "confirm=auto", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "completed"
    assert fleet.pointed_at() == applied, "it was pushed twice"
    fleet.push(fleet.one)
    moved = fleet.pointed_at()
    done = fleet.run("run", "--resume", old.name, "-p", "confirm=auto")
    assert done.returncode == 4, done.stderr
    assert "was changed since" in done.stderr
    assert fleet.pointed_at() == moved


def test_another_runbook_is_no_continuation(fleet: Fleet, tmp_path: Path) -> None:
    runbook = pushing(tmp_path, before="1 / 0")
    words = ("-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}", "-p", "confirm=auto")
    assert fleet.run("run", str(runbook), *words).returncode == 1
    old = last(fleet)
    records = len(list(fleet.site.records.iterdir()))
    pushing(tmp_path, before="pass")
    for more, code, says in (
        ((), 4, "is not the runbook"),
        (("71-push-snapshot",), 4, "is not the runbook"),
        (("-p", "snapshot=other"), 2, "keeps its parameters"),
    ):
        done = fleet.run("run", "--resume", old.name, *more)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert len(list(fleet.site.records.iterdir())) == records


def test_a_run_is_listed_followed_and_cancelled(fleet: Fleet, tmp_path: Path) -> None:
    notebook = nbformat.read(runbook_folder() / "30-take-snapshot.ipynb", as_version=4)
    cell = "import time\nprint('first\\x1b[31m', flush=True)\ntime.sleep(60)"
    notebook.cells = [*notebook.cells[:2], nbformat.v4.new_code_cell(cell)]
    runbook = tmp_path / "30-trial.ipynb"
    nbformat.write(notebook, runbook)
    command = [sys.executable, "-m", "statelesskit", "--site", str(fleet.site.root)]
    with subprocess.Popen(
        [*command, "run", str(runbook), "-p", "prototype=desktop", "--run-id", "0badcafe"], stdout=subprocess.DEVNULL
    ) as runner:
        deadline = time.monotonic() + 60
        while not list(fleet.site.records.glob("*0badcafe")) and time.monotonic() < deadline:
            time.sleep(0.05)
        with subprocess.Popen([*command, "runs", "follow", "0badcafe"], stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout
            seen = ""
            while "first" not in seen:
                line = follower.stdout.readline()
                assert line, "it ended without what the cell printed"
                seen += line
            assert "0badcafe" in [row["run_id"] for row in fleet.json("runs", "list")]
            assert fleet.run("runs", "cancel", "0badcafe").returncode == 0
            seen += follower.stdout.read()  # communicate() would miss what is buffered
        assert runner.wait(timeout=60) == 143
    assert follower.returncode == 143
    assert "\x1b" not in seen
    assert "guard: by: pid namespace" in seen
    assert seen.endswith("30-trial-0badcafe: cancelled\n")
    assert fleet.run("runs", "cancel", "0badcafe").returncode == 4
    assert "0badcafe" not in [row["run_id"] for row in fleet.json("runs", "list")]
