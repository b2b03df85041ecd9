"""The service as ordinary users meet it: real users, a real socket, a real directory, real kernels."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statelesskit.audit import events
from statelesskit.audit.events import Event
from statelesskit.audit.listing import list_records, state_of
from statelesskit.audit.records import EVENTS
from statelesskit.audit.verify import verify_record, verify_records
from statelesskit.config import Site
from statelesskit.directory import slapd
from statelesskit.service.server import MOST_OF_ONE
from statelesskit.service.wire import SOCKET
from tests.users import OTHER, USER, Served, eventually

pytestmark = [pytest.mark.slapd, pytest.mark.root, pytest.mark.kernel]
UID = pwd.getpwnam(USER).pw_uid


def last(site: Site) -> Path:
    return site.records / list_records(site.records)[-1].name


def told(record: Path) -> list[Event]:
    found, faults = events.read(record / EVENTS)
    assert faults == []
    return found


def clean(site: Site) -> bool:
    """Say whether nothing is wrong with any record, but for the lies that tests told."""
    found = verify_records(site.records, (site.keys / "record.pub").read_text())
    return [one for one in found if "-71-lie-" not in one.record] == []


def answer(site: Site, data: bytes) -> dict[str, Any]:
    """Send bytes to the service as whoever we are, and return its first line."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(site.root / SOCKET))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            line = file.readline()
    return json.loads(line) if line else {}  # type: ignore[no-any-return]


@contextmanager
def directory_stopped(site: Site) -> Iterator[None]:
    """Have the directory answer nothing meanwhile, so that whatever asks it goes on for a while."""
    pid = slapd.status(site).pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_user_without_rights_pushes_and_the_service_records_it(served: Served) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    done = served.run("push", "apply", "desktop/stable", fleet.two, "--json")
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at()[0] == fleet.two
    record = last(site)
    assert record.name == json.loads(done.stdout)["record"]
    begin, *between, end = told(record)
    assert (begin.facts["mode"], begin.facts["uid"], begin.facts["user"]) == ("service", UID, USER)
    assert [event.kind for event in between if event.kind != "file"] == [
        "plan", "confirmed", "applying", "applied", "verified"
    ]  # fmt: skip
    assert next(event.facts["by"] for event in between if event.kind == "confirmed") == USER
    assert end.facts["state"] == "completed"
    info = record.stat()
    assert info.st_uid == 0
    assert not stat.S_IMODE(info.st_mode) & 0o022
    assert clean(site)


def test_what_no_rule_allows_is_refused_and_recorded(served: Served) -> None:
    fleet, site = served.fleet, served.site
    before = fleet.pointed_at()
    for words, user in (
        (["snapshot", "delete", fleet.one], USER),
        (["client", "remove", "pc-thick"], USER),
        (["push", "apply", "desktop/stable", fleet.one], OTHER),
    ):
        count = len(list_records(site.records))
        done = served.run(*words, user=user)
        assert done.returncode == 3, done.stderr
        assert f"{user} may not do this here" in done.stderr
        begin, end = told(last(site))
        assert (begin.facts["user"], begin.facts["what"]) == (user, " ".join(words[:2]))
        assert (end.facts["state"], end.facts["exit_code"]) == ("refused", 3)
        assert len(list_records(site.records)) == count + 1
    assert served.run("push", "apply", "desktop/stable", fleet.one, "--plan", user=OTHER).returncode == 3
    assert fleet.pointed_at() == before
    assert clean(site)


def test_the_services_errors_are_the_users(served: Served) -> None:
    fleet = served.fleet
    moved = served.run("push", "apply", "desktop/stable", fleet.one, "--plan-digest", "sha256:0")
    assert moved.returncode == 4
    assert "hint: read the new plan" in moved.stderr
    absent = served.run("push", "apply", "desktop/stabel", fleet.one)
    assert absent.returncode == 2
    assert "did you mean desktop/stable?" in absent.stderr


def test_systemd_can_hold_the_socket(served: Served) -> None:
    """The service is started by the first who comes, as by its units."""
    site = served.site
    served.stop()
    command = [sys.executable, "-m", "statelesskit.service.server", "--site", str(site.root)]
    (site.root / SOCKET).unlink()
    before = os.umask(0o111)
    try:
        activated = subprocess.Popen(["systemd-socket-activate", "-l", str(site.root / SOCKET), *command])
        eventually((site.root / SOCKET).exists)
    finally:
        os.umask(before)
    (site.root / SOCKET).chmod(0o666)
    try:
        assert served.run("push", "rollback", "desktop/stable").returncode == 0
    finally:
        activated.terminate()
        activated.wait(30)
        served.start()
    assert clean(site)


def test_nobody_says_who_they_are(served: Served) -> None:
    """Facts that the kernel tells are not taken from the wire, whoever sends them."""
    site, count = served.site, len(list_records(served.site.records))
    request = {"format": 1, "what": "perform", "verb": "snapshot take", "parameters": {"prototype": "desktop"}}
    request |= {"confirm": "at once", "record": ""}
    for more in ({"user": "root"}, {"uid": 0}, {"caller": {"uid": 0}}):
        assert answer(site, json.dumps({**request, **more}).encode() + b"\n")["error"]["exit_code"] == 2
    for name in ("uid", "user", "mode", "pid", "host", "runner", "claimed", "boot_id", "schedule"):
        run = {"format": 1, "what": "begin", "runbook": "x", "verb": "push apply", "facts": {name: 0}, "run_id": ""}
        assert "can't say of itself" in answer(site, json.dumps(run).encode() + b"\n")["error"]["message"]
    assert len(list_records(site.records)) == count


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_stops_asking_stops_what_is_done_for_them(served: Served, number: signal.Signals) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    before, count = fleet.pointed_at(), len(list_records(site.records))
    with (
        directory_stopped(site),
        served.popen("-m", "statelesskit", "push", "apply", "desktop/stable", fleet.two) as at,
    ):
        eventually(lambda: len(list_records(site.records)) > count)
        time.sleep(0.3)
        at.send_signal(number)
        eventually(lambda: state_of(last(site)) != "running")
        at.communicate(timeout=30)
    assert state_of(last(site)) == "cancelled"
    assert at.returncode == {signal.SIGINT: 143, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert fleet.pointed_at() == before
    fleet.push(fleet.two)  # its locks are free
    assert clean(site)


def test_a_service_process_that_is_killed_leaves_a_lost_record_and_free_locks(served: Served) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    count = len(list_records(site.records))
    with (
        directory_stopped(site),
        served.popen("-m", "statelesskit", "push", "apply", "desktop/stable", fleet.two) as at,
    ):
        eventually(lambda: len(list_records(site.records)) > count)
        record = last(site)
        begin, _ = events.first_and_last(record / EVENTS)
        assert begin is not None
        assert begin.facts["pid"] != served.process.pid
        os.kill(begin.facts["pid"], signal.SIGKILL)
        _, stderr = at.communicate(timeout=30)
    assert at.returncode == 1
    assert "ended before it told how it went" in stderr
    assert state_of(record) == "lost"
    assert served.run("push", "apply", "desktop/stable", fleet.two).returncode == 0
    assert clean(site)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_service_that_ends_takes_everything_with_it_and_can_be_started_again(
    served: Served, number: signal.Signals
) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    before, count = fleet.pointed_at(), len(list_records(site.records))
    with (
        directory_stopped(site),
        served.popen("-m", "statelesskit", "push", "apply", "desktop/stable", fleet.two) as at,
    ):
        eventually(lambda: len(list_records(site.records)) > count)
        time.sleep(0.3)
        served.stop(number)
        at.communicate(timeout=30)
    assert at.returncode in (1, 143)
    eventually(lambda: state_of(last(site)) in ("cancelled", "lost"))
    assert fleet.pointed_at() == before
    away = served.run("push", "apply", "desktop/stable", fleet.two)
    assert away.returncode == 7
    assert "as root: systemctl start" in away.stderr
    served.start()
    assert served.run("push", "apply", "desktop/stable", fleet.two).returncode == 0
    assert clean(site)


FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "format": st.just(1) | st.integers(),
        "what": st.sampled_from(["plan", "perform", "begin", "survey", "choices", "events", "end", ""]),
        "verb": st.sampled_from(["push apply", "snapshot take", "site restore", "x"]) | st.text(),
        "parameters": st.dictionaries(st.text(), st.integers() | st.text()) | st.none(),
        "record": st.text() | st.just("../../keys"),
        "confirm": st.text() | st.just("at once"),
        "facts": st.dictionaries(st.text(), st.text()),
        "name": st.text(),
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300) | FRAMES.map(lambda frame: json.dumps(frame).encode() + b"\n"))
def test_garbage_does_nothing(served: Served, data: bytes) -> None:
    count = len(list_records(served.site.records))
    found = answer(served.site, data)
    assert set(found) <= {"error", "done"}
    if "done" in found:
        assert json.loads(data)["what"] in ("survey", "choices")
    assert served.process.poll() is None
    assert len(list_records(served.site.records)) == count


def test_the_silent_block_nobody_but_themselves(served: Served) -> None:
    fleet = served.fleet
    fleet.push(fleet.one)
    silent = f"""
import socket, time
held = []
for _ in range({MOST_OF_ONE}):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect({str(served.site.root / SOCKET)!r})
    held[-1].send(b'{{"form')
print("held", flush=True)
time.sleep(60)
"""
    with ExitStack() as stack:
        process = stack.enter_context(served.popen("-c", silent, user=OTHER))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        busy = served.run("push", "apply", "desktop/stable", fleet.two, user=OTHER)
        assert (busy.returncode, busy.stderr[:30]) == (3, "error: the service is busy wit")
        assert served.run("push", "apply", "desktop/stable", fleet.two).returncode == 0


def test_a_line_without_an_end_is_not_read_for_ever(served: Served) -> None:
    assert "more than" in answer(served.site, b"x" * (1 << 20) + b"xx")["error"]["message"]


# Runs: their kernel is the user's, their record the service's.


def run_push(served: Served, snapshot: str, name: str = "71-push-snapshot") -> subprocess.CompletedProcess[str]:
    digest = served.fleet.plan_digest(snapshot)
    return served.run(
        "run", name, "-p", "channel=desktop/stable", "-p", f"snapshot={snapshot}", "-p", f"confirm={digest}"
    )  # fmt: skip


def test_a_users_run_is_claimed_and_what_it_applied_is_attested(served: Served) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    done = run_push(served, fleet.two)
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at()[0] == fleet.two
    record = last(site)
    begin, *between, end = told(record)
    assert (begin.facts["mode"], begin.facts["user"]) == ("service", USER)
    assert begin.facts["claimed"] == ["approved", "parameters", "runbook", "runbook_digest", "runbook_path", "what"]
    assert {event.kind for event in between if event.facts.get("claimed")} == {"cell", "cell-began", "guard"}
    assert {event.kind for event in between if not event.facts.get("claimed")} == {
        "plan", "confirmed", "applying", "applied", "verified", "file"
    }  # fmt: skip
    assert (end.facts["state"], end.facts["claimed"]) == ("completed", True)
    assert end.facts["changes"].startswith("Move desktop/stable")
    assert {path.name: path.stat().st_uid for path in record.iterdir()} == dict.fromkeys(
        ("events.jsonl", "plan.json", "record.html", "record.ipynb", "statement.dsse.json"), 0
    )
    assert "pc-caching" in (record / "record.html").read_text()
    assert clean(site)


FORGE = """
import json, os, socket
from pathlib import Path
record = Path(os.environ["STATELESSKIT_RECORD"])
site = record.parents[1]

def tried(what, attempt):
    try:
        attempt()
        print(what, "DONE")
    except OSError as error:
        print(what, error.strerror)

def frame(**request):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(site / "service.sock"))
        connection.sendall(json.dumps({"format": 1, **request}).encode() + b"\\n")
        print("frame", connection.makefile().readline())

print("uid", os.getuid())
tried("read-log", lambda: (record / "events.jsonl").read_bytes())
tried("write-log", lambda: open(record / "events.jsonl", "ab"))
tried("add-file", lambda: (record / "plan.json").write_text("{}"))
tried("move-record", lambda: record.rename(record.with_name("gone")))
tried("read-key", lambda: (site / "keys/record.key").read_bytes())
tried("replace-key", lambda: (site / "keys/record.key").write_text(""))
tried("log", lambda: open(site / "records/log/entries", "ab"))
tried("lock", lambda: open(site / "locks/channel.desktop.stable.lock"))
tried("socket", lambda: (site / "service.sock").unlink())
frame(do="event", kind="applied", facts={"result": {"serial": 999}})
frame(what="event", record=record.name, kind="applied")
frame(what="begin", runbook="x", verb="push apply", facts={}, run_id=record.name[-8:])
other = sorted(path.name for path in record.parent.glob("*-push-apply-*"))[-1]
frame(what="perform", verb="push rollback", parameters={"channel": "desktop/stable"}, confirm="at once", record=other)
"""


def test_a_runbooks_code_can_forge_nothing(served: Served, request: pytest.FixtureRequest) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    before = fleet.pointed_at()
    from statelesskit.runbook.find import runbook_folder

    notebook = json.loads((runbook_folder() / "71-push-snapshot.ipynb").read_text())
    evil = {"cell_type": "code", "id": "evil", "metadata": {}, "source": FORGE, "outputs": [], "execution_count": None}
    notebook["cells"].insert(3, evil)
    path = served.home / "71-push-snapshot.ipynb"
    path.write_text(json.dumps(notebook))
    done = run_push(served, fleet.two, str(path))
    assert done.returncode == 0, done.stderr
    record = last(site)
    cells = json.loads((record / "record.ipynb").read_text())["cells"]
    said = next("".join(o.get("text", "") if isinstance(o.get("text", ""), str) else "".join(o["text"])
                        for o in cell["outputs"]) for cell in cells if "tried(" in "".join(cell["source"]))  # fmt: skip
    assert f"uid {UID}" in said
    assert "DONE" not in said
    assert said.count("Permission denied") == 9
    frames = [json.loads(line.partition(" ")[2]) for line in said.splitlines() if line.startswith("frame ")]
    assert [frame["error"]["kind"] for frame in frames] == ["UsageError", "UsageError", "ExistsError", "RefusedError"]
    assert fleet.pointed_at() == (fleet.two, before[1] + 1)
    assert clean(site)


def test_a_notebook_that_claims_what_was_not_done_is_found(served: Served) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    from statelesskit.runbook.find import runbook_folder

    notebook = json.loads((runbook_folder() / "71-push-snapshot.ipynb").read_text())
    lie = (
        "from statelesskit.frames import Applied\n\nApplied('Applied', [], {'channel': 'desktop/stable', 'serial': 99})"
    )
    for cell in notebook["cells"]:
        if "".join(cell["source"]) == "book.apply()":
            cell["source"] = lie
    path = served.home / "71-lie.ipynb"
    path.write_text(json.dumps(notebook))
    done = run_push(served, fleet.two, str(path))
    assert done.returncode == 0, done.stderr
    assert fleet.pointed_at()[0] == fleet.one
    record = last(site)
    public = (site.keys / "record.pub").read_text()
    found = verify_record(record, public)
    assert [one.file for one in found] == ["record.ipynb"]
    assert "claims as applied what no event attests" in found[0].finding
    assert '"serial":99' in found[0].finding


FORM = """
import asyncio, sys
from statelesskit.actions import PushSnapshot
from statelesskit.runbook.cells import begin
from statelesskit_widgets.following import Run
from statelesskit_widgets.form import ActionForm

async def main():
    names = {"channel": "desktop/stable", "snapshot": sys.argv[1], "confirm": ""}
    form = ActionForm(begin(PushSnapshot, "71-push-snapshot", names))
    print("offered", [value for _, value in form.fields["channel"].input.options])
    form.review.click()
    print("button", form.confirm.description)
    form.confirm.click()
    seen = False
    while form.run.busy:
        seen = seen or Run.find(form.book.site, form._runbook) is not None
        await asyncio.sleep(0.1)
    print("seen", seen)
    print(form.alert.value, form.result)

asyncio.run(main())
"""


def test_a_form_works_for_a_user_without_rights(served: Served) -> None:
    fleet = served.fleet
    fleet.push(fleet.one)
    done = served.python("-W", "ignore", "-c", FORM, fleet.two)
    assert done.returncode == 0, done.stderr
    assert "offered ['', 'desktop/stable']" in done.stdout
    assert "button Push: 3 clients change" in done.stdout
    assert "seen True" in done.stdout
    assert "completed" in done.stdout
    assert fleet.pointed_at()[0] == fleet.two
    begin, *_ = told(last(served.site))
    assert (begin.facts["mode"], begin.facts["user"]) == ("service", USER)
    assert clean(served.site)


def test_doctor_says_who_performs(served: Served) -> None:
    def found(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
        return {row["check"]: row for row in map(json.loads, done.stdout.splitlines())}

    mine = found(served.run("site", "doctor", "--json"))
    assert mine["service"]["found"].startswith("answers")
    assert {row["state"] for row in mine.values()} == {"ok"}
    assert found(served.fleet.run("site", "doctor", "--json"))["service"]["state"] == "ok"


def test_a_run_can_be_followed_and_cancelled_by_its_user(served: Served, request: pytest.FixtureRequest) -> None:
    from statelesskit.runbook.find import runbook_folder

    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    notebook = json.loads((runbook_folder() / "71-push-snapshot.ipynb").read_text())
    slow = {"cell_type": "code", "id": "slow", "metadata": {}, "source": "import time\n\ntime.sleep(60)", "outputs": []}
    notebook["cells"].insert(3, {**slow, "execution_count": None})
    path = served.home / "71-slow.ipynb"
    path.write_text(json.dumps(notebook))
    words = ["run", str(path), "-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}", "--run-id", "0badcafe"]
    with served.popen("-m", "statelesskit", *words) as at:
        eventually(lambda: any(one.run_id == "0badcafe" for one in list_records(site.records)))
        record = last(site)
        eventually(lambda: sum(event.kind == "cell-began" for event in events.read(record / EVENTS)[0]) >= 3)
        listed = served.run("runs", "list", "--json")
        assert json.loads(listed.stdout.splitlines()[-1])["run_id"] == "0badcafe"
        assert served.run("runs", "cancel", "0badcafe").returncode == 0
        assert at.wait(60) == 143
        at.communicate()
    assert served.process.poll() is None
    assert state_of(record) == "cancelled"
    assert clean(site)


def test_a_runner_that_is_killed_leaves_a_lost_record(served: Served) -> None:
    fleet, site = served.fleet, served.site
    fleet.push(fleet.one)
    digest, count = fleet.plan_digest(fleet.two), len(list_records(site.records))
    words = ["run", "71-push-snapshot", "-p", "channel=desktop/stable", "-p", f"snapshot={fleet.two}"]
    with served.popen("-m", "statelesskit", *words, "-p", f"confirm={digest}") as at:
        eventually(lambda: len(list_records(site.records)) > count)
        at.kill()
        at.communicate(timeout=30)
    record = last(site)
    eventually(lambda: state_of(record) == "lost")
    end = told(record)[-1]
    assert end.facts["error"] == "whoever carried it out was gone before its end"
    assert "claimed" not in end.facts
    assert clean(site)
