"""Twelve ways to end, at four moments: the record is truthful, nothing is left running, no file is torn.

The moments are: the kernel has started and no cell has; in a cell; in a child process of a cell, beside another
that left the cell's session; and while the notebook is saved after the cell.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from statelesskit.audit import events
from statelesskit.audit.keys import PRIVATE
from statelesskit.audit.listing import list_records
from statelesskit.audit.records import Record
from statelesskit.audit.statement import STATEMENT
from statelesskit.audit.verify import verify_record
from statelesskit.runbook.find import runbook_folder
from statelesskit.site import init_site
from tests.conftest import free_port

pytestmark = [pytest.mark.slapd, pytest.mark.kernel, pytest.mark.root]
HERE = Path(__file__).parent
TOKEN = "ENDING_TOKEN"  # in the environment of everything a case starts
BEFORE, CELL, CHILD, SAVING = "before the first cell", "in a cell", "in a child process", "while saving"
MOMENTS = (BEFORE, CELL, CHILD, SAVING)
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}

# What the process does to itself at the moment; "" waits there for what the test does to it.
ACTS = {
    **dict.fromkeys((*SIGNALS, "SIGKILL of the runner", "SIGKILL of everything", "cell timeout", "run timeout"), ""),
    "SIGKILL of the kernel": "os.kill(os.getpid(), signal.SIGKILL)",
    "out of memory": "limit(); x = bytearray(1 << 30); x[::4096] = b'x' * len(x[::4096])",
    "an exception": "1 / 0",
    "exit 0": "sys.exit(0)",
    "a full disk": "fill()",
}
SAVING_ACTS = {"out of memory": "memory", "an exception": "exception", "exit 0": "exit", "a full disk": "full"}
LOST = ("lost", {-9}, "running", "pending")
CANCELLED = ("cancelled", {143}, "cancelled", "not-run")
TIMED_OUT = ("timed-out", {5}, "timed-out", "not-run")
DIED = ("kernel-died", {6}, "kernel-died", "not-run")
FAILED = ("failed", {1}, "failed", "not-run")
# Where the record's own disk is full its end may not fit; then it reads as lost, and the caller is told.
FULL = ("failed or lost", {8}, "completed", "not-run")
COMPLETED = ("completed", {0}, "completed", "completed")
ENDED = {
    **dict.fromkeys(SIGNALS, CANCELLED),
    "SIGKILL of the runner": LOST,
    "SIGKILL of everything": LOST,
    "SIGKILL of the kernel": DIED,
    "out of memory": DIED,
    "cell timeout": TIMED_OUT,
    "run timeout": TIMED_OUT,
    "an exception": FAILED,
    "exit 0": FAILED,
    "a full disk": FULL,
}
OTHERWISE = {
    ("exit 0", BEFORE): DIED,
    ("exit 0", CHILD): COMPLETED,  # a child that ends with 0 is none of our business, but what it left is
    ("out of memory", CHILD): FAILED,
    ("out of memory", SAVING): FAILED,
    ("cell timeout", SAVING): COMPLETED,  # the cell had ended in time
}
CASES = [(ending, moment) for ending in ENDED for moment in MOMENTS]

PRELUDE = """
import os, signal, subprocess, sys, time
from pathlib import Path
marks = Path({marks!r})
def limit():
    Path({cgroup!r}, "cgroup.procs").write_text("0")
def fill():
    sys.path.insert(0, {here!r})
    from tests.runbooks.failing import fill as really
    really(Path({site!r}))
def wait():
    (marks / "there").touch()
    time.sleep(100)
"""


@dataclass
class Case:
    """One run that ends."""

    ending: str
    moment: str
    folder: Path
    site: Path
    token: str
    guard: str = ""

    @property
    def marks(self) -> Path:
        return self.folder / "marks"

    @property
    def output(self) -> Path:
        return self.folder / "out.ipynb"

    def start(self, cgroup: Path) -> subprocess.Popen[str]:
        self.marks.mkdir()
        prelude = PRELUDE.format(
            marks=str(self.marks), cgroup=str(cgroup), here=str(HERE.parent.parent), site=str(self.site)
        )
        act = ACTS[self.ending] or "wait()"
        startup = self.folder / "ipython/profile_default/startup/00.py"
        startup.parent.mkdir(parents=True)
        cell = prelude
        options: dict[str, Any] = {"grace": 5}
        if self.moment == BEFORE:
            startup.write_text(prelude + act.replace("sys.exit", "os._exit"))
            options["start_timeout"] = 3 if self.ending == "cell timeout" else 60
            if self.ending == "an exception":
                options["kernel_name"] = "no-such-kernel"
        elif self.moment == CELL:
            cell += act
        elif self.moment == CHILD:
            act = act.replace("os.getpid()", "int(sys.argv[1])")
            cell += f"subprocess.Popen(['setsid', 'sleep', '100'])\nchild = {prelude + act!r}\n"
            cell += "subprocess.run([sys.executable, '-c', child, str(os.getpid())], check=True)"
        else:
            cell += "(marks / 'ended').touch()"
        if self.ending == "cell timeout" and self.moment != BEFORE:
            options["cell_timeout"] = 4
        if self.ending == "run timeout":
            options["run_timeout"] = 8
        saving = SAVING_ACTS.get(self.ending, "pause") if self.moment == SAVING else ""
        given = {
            "input": str(self.runbook(cell)), "output": str(self.output), "options": options, "marks": str(self.marks),
            "saving": saving, "pause": 9 if self.ending == "run timeout" else 2,
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, str(HERE / "failing.py"), json.dumps(given)],
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "IPYTHONDIR": str(self.folder / "ipython"),
                 "STATELESSKIT_SITE": str(self.site), "PYTHONPATH": str(HERE.parent.parent),
                 TOKEN: self.token, "STATELESSKIT_GUARD": self.guard},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def runbook(self, cell: str) -> Path:
        notebook = nbformat.read(runbook_folder() / "30-take-snapshot.ipynb", as_version=4)
        added = [nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell("print('after')")]
        notebook.cells = [*notebook.cells[:2], *added]  # title, parameters
        path = self.folder / "30-trial.ipynb"
        nbformat.write(notebook, path)
        return path

    def act_on(self, process: subprocess.Popen[str]) -> None:
        """Do to the run what it does not do to itself."""
        wanted = self.marks / ("saving" if self.moment == SAVING else "there")
        outside = {*SIGNALS, "SIGKILL of the runner", "SIGKILL of everything"}
        if self.moment == SAVING:
            outside.add("SIGKILL of the kernel")
        if self.ending not in outside:
            return
        deadline = time.monotonic() + 60
        while not wanted.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        if self.ending in SIGNALS:
            process.send_signal(SIGNALS[self.ending])
        elif self.ending == "SIGKILL of the runner":
            process.kill()
        else:
            everything = self.alive()
            if self.ending == "SIGKILL of the kernel":
                everything.remove(process.pid)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in everything:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)

    def alive(self) -> list[int]:
        """Return every process that has our token and is no zombie."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{TOKEN}={self.token}".encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
        return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "site"
    init_site(folder, name="test", port=free_port())
    return folder


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Make a control group whose processes together may use no more than 256 MiB (cgroups(7), either version)."""
    v1 = Path("/sys/fs/cgroup/memory")
    folder = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"statelesskit-{secrets.token_hex(4)}"
    if not v1.is_dir():
        with suppress(OSError):
            (folder.parent / "cgroup.subtree_control").write_text("+memory")
    folder.mkdir()
    limit = folder / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")
    try:
        limit.write_text(str(256 << 20))
        yield folder
    finally:
        deadline = time.monotonic() + 10
        while folder.exists() and time.monotonic() < deadline:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(("ending", "moment"), CASES)
def test_ending(template: Path, tmp_path: Path, cgroup: Path, ending: str, moment: str) -> None:
    end(Case(ending, moment, tmp_path, tmp_path / "disk/site", secrets.token_hex(8)), template, cgroup)


@pytest.mark.parametrize(
    "ending", ["SIGTERM", "SIGKILL of the runner", "SIGKILL of the kernel", "run timeout", "exit 0"]
)
def test_without_a_namespace_the_same_holds(template: Path, tmp_path: Path, cgroup: Path, ending: str) -> None:
    case = Case(ending, CHILD, tmp_path, tmp_path / "disk/site", secrets.token_hex(8), "subreaper")
    end(case, template, cgroup)


def end(case: Case, template: Path, cgroup: Path) -> None:
    with small_disk(case.site.parent):
        shutil.copytree(template, case.site)
        with case.start(cgroup) as process:
            case.act_on(process)
            text = process.communicate(timeout=60)[0]
        (case.site / "filler").unlink(missing_ok=True)
        check_truth(case, process.returncode, text)
        check_nothing_runs(case)
        check_nothing_torn(case)


def check_truth(case: Case, code: int, text: str) -> None:
    state, codes, in_it, after = OTHERWISE.get((case.ending, case.moment), ENDED[case.ending])
    cells = ["completed"] * 3 + [in_it, after]  # title, parameters, what was given
    if case.moment == BEFORE:
        cells = ["pending" if state == "lost" else "not-run"] * 5
    elif case.moment == SAVING and state not in ("lost", "completed"):  # a kill leaves what was saved before
        cells[3:] = ["completed", "kernel-died" if state == "kernel-died" else after]
    assert code in codes, text
    (summary,) = list_records(case.site / "records")
    record = case.site / "records" / summary.name
    if state == "failed or lost":
        assert summary.state in ("failed", "lost"), text
    else:
        assert summary.state == state, text
    if summary.state != "lost":
        assert summary.exit_code == code
        if case.ending == "a full disk" and not (record / STATEMENT).exists():  # there is room again
            Record.join(record).seal(case.site / "keys" / PRIVATE)
        assert verify_record(record, (case.site / "keys/record.pub").read_text()) == []
    guards = [event.facts for event in events.read(record / "events.jsonl")[0] if event.kind == "guard"]
    assert [("finding" in facts, str(facts["by"])[:9]) for facts in guards] in (
        [[], [(False, "pid names")]]
        if case.moment == BEFORE
        else [[(True, "subreaper")]]
        if case.guard
        else [[(False, "pid names")]]
    )
    told = json.loads(case.output.read_text())
    assert [cell["metadata"]["papermill"]["status"] for cell in told["cells"]] == cells, text
    if state != "lost":
        assert told["metadata"]["statelesskit"]["state"] == state.partition(" ")[0]


def check_nothing_runs(case: Case) -> None:
    deadline = time.monotonic() + 2
    while case.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in case.alive()] == []


def check_nothing_torn(case: Case) -> None:
    for path in [case.output, *case.site.rglob("*.ipynb"), *case.site.rglob("*.json")]:
        json.loads(path.read_bytes())
    for path in case.site.rglob("events.jsonl"):
        _, faults = events.read(path)
        assert [fault for fault in faults if "no end" not in fault] == []
