"""Runbook 71 with nobody there: by our own command and by plain papermill, confirmed or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from statelesskit.audit.listing import list_records
from statelesskit.audit.verify import verify_record
from statelesskit.config import Site
from statelesskit.runbook.find import runbook_folder
from statelesskit.runbook.launch import new_run_id, run_log, start_detached
from tests.fleet import Fleet

pytestmark = [pytest.mark.slapd, pytest.mark.kernel, pytest.mark.root]
RUNBOOK = runbook_folder() / "71-push-snapshot.ipynb"


def papermill(site: Site, runbook: Path, output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run papermill's own command line with our engine, as Airflow or cron would."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("papermill")), "--engine", "statelesskit", runbook, output, *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(output.parent), "STATELESSKIT_SITE": str(site.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip


def last_record(site: Site) -> Path:
    return site.records / list_records(site.records)[-1].name


def statuses(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text())["cells"]
    return [cell["metadata"]["papermill"]["status"] for cell in cells]


def clean(site: Site, record: Path) -> bool:
    return verify_record(record, (site.keys / "record.pub").read_text()) == []


def test_a_confirmed_push_completes_and_is_recorded(fleet: Fleet) -> None:
    fleet.push(fleet.one)
    _, serial = fleet.pointed_at()
    done = fleet.run(
        "run", "71-push-snapshot", "-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}",
        "-p", f"confirm={fleet.plan_digest(fleet.two)}", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at() == (fleet.two, serial + 1)
    record = last_record(fleet.site)
    assert json.loads(done.stdout) == {"state": "completed", "exit_code": 0, "record": record.name, "error": ""}
    assert set(statuses(record / "record.ipynb")) == {"completed"}
    assert clean(fleet.site, record)
    assert {path.name for path in record.iterdir()} == {
        "events.jsonl", "plan.json", "record.html", "record.ipynb", "statement.dsse.json"
    }  # fmt: skip
    page = (record / "record.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "pc-caching" in page


def test_plain_papermill_does_the_same(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push(fleet.one)
    output = tmp_path / "out.ipynb"
    digest = fleet.plan_digest(fleet.two)
    done = papermill(
        fleet.site, RUNBOOK, output,
        "-p", "channel", "desktop/stable", "-p", "snapshot", fleet.two, "-p", "confirm", digest,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at()[0] == fleet.two
    record = last_record(fleet.site)
    assert clean(fleet.site, record)
    assert set(statuses(output)) == {"completed"}
    assert json.loads(output.read_text())["metadata"]["statelesskit"]["record"] == record.name
    assert "widgets" not in json.loads(output.read_text())["metadata"]


def test_a_runbook_needs_no_engine_named(fleet: Fleet, tmp_path: Path) -> None:
    """Airflow's PapermillOperator can't name one."""
    fleet.push(fleet.one)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("papermill")), RUNBOOK, tmp_path / "out.ipynb", "-p", "channel",
         "desktop/stable", "-p", "snapshot", fleet.two, "-p", "confirm", fleet.plan_digest(fleet.two)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "STATELESSKIT_SITE": str(fleet.site.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at()[0] == fleet.two
    assert clean(fleet.site, last_record(fleet.site))


@pytest.mark.parametrize("how", ["another engine", "from a pipe"])
def test_a_confirmed_run_that_nobody_would_record_fails(fleet: Fleet, tmp_path: Path, how: str) -> None:
    """It used to plan, do nothing and end with 0."""
    fleet.push(fleet.one)
    before = fleet.pointed_at()
    engine = ["--engine", "statelesskit"] if how == "from a pipe" else ["--engine", "nbclient"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("papermill")), *engine, RUNBOOK if how == "another engine" else "-",
         tmp_path / "out.ipynb", "-p", "channel", "desktop/stable", "-p", "snapshot", fleet.two,
         "-p", "confirm", fleet.plan_digest(fleet.two)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "STATELESSKIT_SITE": str(fleet.site.root)},
        input=RUNBOOK.read_text(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == (2 if how == "from a pipe" else 1), done.stderr
    assert ("give papermill its file" if how == "from a pipe" else "it has no record: nothing was done") in done.stderr
    assert fleet.pointed_at() == before


def test_without_confirmation_it_plans_and_refuses(fleet: Fleet) -> None:
    fleet.push(fleet.one)
    before = fleet.pointed_at()
    done = fleet.run("run", "71-push-snapshot", "-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}")
    assert done.returncode == 3
    assert "confirm=sha256:" in done.stderr
    assert fleet.pointed_at() == before
    record = last_record(fleet.site)
    assert clean(fleet.site, record)
    assert json.loads((record / "plan.json").read_text())["facts"]["to"] == fleet.two
    states = statuses(record / "record.ipynb")
    assert states[-1] == "not-run"
    assert "failed" in states


def test_auto_is_held_to_policy(fleet: Fleet) -> None:
    fleet.push(fleet.one)
    before = fleet.pointed_at()
    words = ("run", "71-push-snapshot", "-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}")
    done = fleet.run(*words, "-p", "confirm=auto")
    assert (done.returncode, fleet.pointed_at()) == (3, before)
    assert "is staged" in done.stderr


def test_an_outdated_plan_is_a_conflict(fleet: Fleet) -> None:
    fleet.push(fleet.one)
    digest = fleet.plan_digest(fleet.two)
    fleet.push(fleet.two)
    fleet.push(fleet.one)
    before = fleet.pointed_at()
    words = ("run", "71-push-snapshot", "-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}")
    done = fleet.run(*words, "-p", f"confirm={digest}")
    assert (done.returncode, fleet.pointed_at()) == (4, before)
    assert "no longer the one that was confirmed" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-p", "chanel", "desktop/stable"], "did you mean 'channel'?"),
        (["-p", "channel", "desktop/stable"], "snapshot is missing"),
        (["-p", "channel", "7", "-p", "snapshot", "x"], "channel is 7 (int), expected str"),
        (["-p", "channel", "desktop/stable", "-p", "snapshot", "x", "-p", "confirm", "1"], "confirm is 1"),
    ],
)
def test_wrong_parameters_are_refused_before_the_kernel_starts(
    fleet: Fleet, tmp_path: Path, words: list[str], says: str
) -> None:
    output = tmp_path / "out.ipynb"
    done = papermill(fleet.site, RUNBOOK, output, *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "kernel" not in done.stderr.lower()
    assert set(statuses(output)) == {"not-run"}
    record = last_record(fleet.site)
    assert clean(fleet.site, record)
    assert list_records(fleet.site.records)[-1].state == "refused"


def test_the_same_push_again_changes_nothing(fleet: Fleet) -> None:
    fleet.push(fleet.two)
    before = fleet.pointed_at()
    words = ("run", "71-push-snapshot", "-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}")
    done = fleet.run(*words, "-p", "confirm=auto")
    assert (done.returncode, fleet.pointed_at()) == (0, before)


def test_a_push_can_be_rolled_back(fleet: Fleet) -> None:
    fleet.push(fleet.one)
    fleet.push(fleet.two)
    (result,) = fleet.json("push", "rollback", "desktop/stable")
    assert result["previous"] == fleet.two
    assert fleet.pointed_at() == (fleet.one, result["serial"])


def test_a_detached_run_outlives_nothing_but_itself(fleet: Fleet) -> None:
    fleet.push(fleet.one)
    run_id = new_run_id()
    parameters: dict[str, Any] = {"channel": "desktop/stable", "snapshot": fleet.two}
    parameters["confirm"] = fleet.plan_digest(fleet.two)
    with start_detached(fleet.site, "71-push-snapshot", parameters, run_id) as process:
        assert process.wait(timeout=60) == 0
    assert last_record(fleet.site).name.endswith(run_id)
    assert "completed" in run_log(fleet.site, run_id).read_text()


def test_the_other_runbooks_run_headless(fleet: Fleet, tmp_path: Path) -> None:
    from tests.fleet import small_root

    tree = small_root(tmp_path / "tree")
    done = fleet.run("run", "20-create-prototype", "-p", "name=lab", "-p", f"source=dir:{tree}", "-p", "confirm=auto")
    assert done.returncode == 0, done.stderr
    done = fleet.run("run", "30-take-snapshot", "-p", "prototype=lab", "-p", "confirm=auto")
    assert done.returncode == 0, done.stderr
    assert len(fleet.json("snapshot", "list", "lab")) == 1
    assert fleet.json("audit", "verify") == []
