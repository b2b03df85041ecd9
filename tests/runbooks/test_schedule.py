"""Runbooks that begin by themselves: what systemd is given, what runs, who is told, and what an auditor finds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner, Result

from statelesskit import service
from statelesskit.action import Action
from statelesskit.actions.prune_records import PruneRecords
from statelesskit.audit import keys
from statelesskit.audit.events import read
from statelesskit.audit.listing import list_records
from statelesskit.audit.schedules import schedule_findings
from statelesskit.cli import cli
from statelesskit.config import DirectoryServer, Site
from statelesskit.errors import (
    ExistsError,
    LockedError,
    MissingToolError,
    NameInvalidError,
    NotFoundError,
    ParameterError,
    RefusedError,
    TimedOutError,
)
from statelesskit.lock import held
from statelesskit.runbook.find import find_runbook, runbook_folder
from statelesskit.runbook.launch import begin_record
from statelesskit.schedule.actions import ScheduleRun
from statelesskit.schedule.entry import list_schedules, read_schedule
from statelesskit.schedule.running import run_scheduled, tell_failure
from statelesskit.schedule.units import render

TAKE = str(runbook_folder() / "30-take-snapshot.ipynb")


@pytest.fixture(autouse=True)
def key(site: Site) -> None:
    keys.create_record_key(site.keys)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    (tmp_path / "units").mkdir()
    return tmp_path / "units"


def notebook(path: Path, cell: str) -> Path:
    """Make a runbook that does nothing but the cell."""
    made = nbformat.read(TAKE, as_version=4)
    made.cells = [*made.cells[:2], nbformat.v4.new_code_cell(cell)]
    nbformat.write(made, path)
    return path


def scheduled(site: Site, units: Path, runbook: str | Path = TAKE, **more: Any) -> service.Outcome:
    words = {"calendar": "Mon..Fri 02:30 Europe/Berlin", "name": "nightly", "units": str(units)}
    given = json.dumps({"prototype": "desktop", "confirm": "auto"})
    action = ScheduleRun.check({"given": given, **words, "runbook": str(runbook), **more})
    return service.perform(site, action, service.AT_ONCE)


def command(site: Site, *words: str) -> Result:
    return CliRunner().invoke(cli, ["--site", str(site.root), *words], standalone_mode=False)


def begin(site: Site, record: str) -> dict[str, Any]:
    return dict(read(site.records / record / "events.jsonl")[0][0].facts)


def findings(site: Site, now: datetime | None = None) -> list[tuple[str, str]]:
    public = (site.keys / "record.pub").read_text()
    return schedule_findings(site.records, public, list_records(site.records), now or datetime.now(UTC))


@pytest.mark.systemd
def test_systemd_has_nothing_against_the_units(site: Site, units: Path) -> None:
    scheduled(site, units, jitter=90, on_failure="/bin/true")
    made = sorted(units.iterdir())
    assert [path.name for path in made] == [
        "statelesskit-nightly-failed.service", "statelesskit-nightly.service", "statelesskit-nightly.timer",
    ]  # fmt: skip
    done = subprocess.run(["systemd-analyze", "verify", *made], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    service_unit = (units / "statelesskit-nightly.service").read_text()
    for line in ("Type=oneshot", "KillMode=mixed", "OnFailure=statelesskit-nightly-failed.service"):
        assert f"\n{line}\n" in service_unit
    timer = (units / "statelesskit-nightly.timer").read_text()
    for line in ("OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 02:30:00 Europe/Berlin", "Persistent=true"):
        assert f"\n{line}\n" in timer
    assert "\nRandomizedDelaySec=90s\n" in timer
    # 5.0 when it was written (0 is closed, 10 open; a root service with nothing said has 9.6). What is open is open
    # as root must change owners, mount and make devices.
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=55", made[1]]
    judged = subprocess.run(argv, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout[-500:]


@pytest.mark.systemd
def test_units_survive_what_a_path_or_a_name_may_hold(site: Site, tmp_path: Path) -> None:
    root = tmp_path / 'a "b" 100%n $HOME \\x'
    root.mkdir()
    schedule = replace(ScheduleRun(TAKE, "daily", given='{"prototype":"x"}').made(), name="nightly")
    odd = replace(site, root=root, name="%H ${X}", server=DirectoryServer(bind_dn="cn=x", password_file="ldap"))
    for name, text in render(odd, schedule).items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.glob("statelesskit-*")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "LoadCredential=ldap:" in (tmp_path / "statelesskit-nightly.service").read_text()
    for bad in ("a\nExecStart=/bin/evil", "a\x00"):
        with pytest.raises(ParameterError):
            render(replace(site, name=bad), schedule)


def test_what_is_scheduled_is_a_copy_that_is_kept(site: Site, units: Path, tmp_path: Path) -> None:
    path = notebook(tmp_path / "mine.ipynb", "print(1)")
    data = path.read_bytes()
    outcome = scheduled(site, units, path)
    path.write_text("{}")
    pinned = read_schedule(site, "nightly").pinned(site)
    assert pinned.read_bytes() == data
    assert pinned.stat().st_mode & 0o022 == pinned.parent.stat().st_mode & 0o022 == 0
    assert outcome.result["runbook_digest"] == read_schedule(site, "nightly").runbook_digest
    assert findings(site) == []


def test_scheduling_it_again_changes_nothing_or_what_is_new(site: Site, units: Path) -> None:
    scheduled(site, units)
    assert not scheduled(site, units).plan.changes
    assert scheduled(site, units, jitter=60).plan.changes
    assert list_schedules(site)[0].jitter_s == 60
    with pytest.raises(ExistsError, match="remove it first"):
        service.perform(site, ScheduleRun(TAKE, "daily", "nightly", '{"prototype":"x"}', units=""), service.AT_ONCE)
    (units / "statelesskit-other.timer").write_text("[Timer]\n")
    with pytest.raises(ExistsError, match="not of this site"):
        scheduled(site, units, name="other")


def test_a_removed_schedule_leaves_nothing_but_its_records(site: Site, units: Path) -> None:
    scheduled(site, units)
    done = command(site, "schedule", "remove", "nightly")
    assert done.exception is None
    assert list(units.iterdir()) == list(site.schedule.iterdir()) == []
    assert [one.what for one in list_records(site.records)] == ["schedule add", "schedule remove"]
    with pytest.raises(NotFoundError):
        run_scheduled(site, "nightly")


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no calendar": ({"calendar": "at night"}, ParameterError, "is no calendar"),
    "an unknown parameter": ({"given": '{"prototpe":"x"}'}, ParameterError, "did you mean"),
    "no JSON": ({"given": "prototype=x"}, ParameterError, "expected a JSON object"),
    "a digest to confirm": ({"given": '{"prototype":"x","confirm":"sha256:0"}'}, ParameterError, "holds for one run"),
    "a secret": ({"given": '{"prototype":"password=hunter22"}'}, ParameterError, "secret"),
    "a name that leads elsewhere": ({"name": "../x"}, NameInvalidError, "is no name"),
    "a hook that is not there": ({"on_failure": "/nowhere/hook"}, MissingToolError, "not installed"),
    "a hook that is no command": ({"on_failure": "'"}, ParameterError, "on_failure"),
    "a strange address": ({"on_failure": "mailto:a\nBcc: b@c"}, ParameterError, "on_failure"),
    "less than no time": ({"jitter": -1}, ParameterError, "expected 0 to"),
    "no runbook": ({"runbook": "30-take-snapshots"}, NotFoundError, "did you mean"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_not_run_is_not_scheduled(site: Site, units: Path, what: str) -> None:
    more, error, text = REFUSED[what]
    with pytest.raises(error, match=text):
        scheduled(site, units, **{"runbook": TAKE, **more})
    assert list(units.iterdir()) == list(site.schedule.iterdir()) == []


def test_nobody_is_no_one_who_approves(site: Site, units: Path) -> None:
    action: Action = ScheduleRun(TAKE, "daily", given='{"prototype":"x"}', units=str(units))
    with pytest.raises(RefusedError, match="approved by a person"):
        service.perform(site, action, service.AUTO)


def test_the_command_line_schedules_plans_and_prints_cron(
    site: Site, units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "30-take-snapshot", "-p", "prototype=desktop", "--schedule", "Mon 02:30", "--name", "weekly"]
    planned = command(site, *words, "--units", str(units), "--plan")
    assert planned.exception is None
    assert "without -p confirm=auto" in planned.output
    assert list(site.schedule.iterdir()) == list(units.iterdir()) == []
    monkeypatch.setenv("TZ", "Europe/Berlin")
    done = command(site, *words, "--cron", "--json")
    result = json.loads(done.output)
    assert result["calendar"] == "Mon *-*-* 02:30:00 Europe/Berlin"
    assert re.fullmatch(
        r"30 2 \* \* 1 root \S+ -I -m statelesskit --site \S+ schedule run weekly \|\| "
        r"\S+ -I -m statelesskit --site \S+ schedule failed weekly",
        result["cron"],
    )
    (one,) = list_schedules(site)
    assert (one.name, one.units) == ("weekly", "")
    with pytest.raises(ParameterError, match="cron can't say"):
        raise command(site, *words[:-2], "--cron", "--schedule", "02:30:15").exception or AssertionError


@pytest.mark.kernel
def test_a_scheduled_run_is_isolated_and_says_what_began_it(site: Site, units: Path, tmp_path: Path) -> None:
    profile = tmp_path / "home/.ipython/profile_default/startup"
    profile.mkdir(parents=True)
    (profile / "00-evil.py").write_text("raise SystemExit('a profile was read')")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/json.py").write_text("raise SystemExit('a stray module was read')")
    cell = "import json, os\nassert not os.path.exists(os.path.expanduser('~/.ipython/profile_default/startup'))"
    scheduled(site, units, notebook(tmp_path / "mine.ipynb", cell))
    command_line = next(
        line.removeprefix("ExecStart=").split()
        for line in (units / "statelesskit-nightly.service").read_text().splitlines()
        if line.startswith("ExecStart=")
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "evil")}
    done = subprocess.run(command_line, env=environment, cwd=tmp_path / "evil", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = begin(site, list_records(site.records)[-1].name)
    assert (told["schedule"], told["approved"]) == ("nightly", True)
    assert findings(site) == []


@pytest.fixture
def hook(tmp_path: Path) -> Callable[[], dict[str, str]]:
    script = tmp_path / "hook"
    script.write_text(f'#!/bin/sh\nenv | grep ^STATELESSKIT_ > {tmp_path}/told\necho "$1" >> {tmp_path}/told\n')
    script.chmod(0o755)

    def told() -> dict[str, str]:
        lines = (tmp_path / "told").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    return told


def test_an_altered_copy_is_refused_told_and_found(
    site: Site, units: Path, tmp_path: Path, hook: Callable[[], dict[str, str]]
) -> None:
    scheduled(site, units, on_failure=f"{tmp_path}/hook 'two words'")
    pinned = read_schedule(site, "nightly").pinned(site)
    pinned.write_bytes(pinned.read_bytes() + b"\n")
    with pytest.raises(RefusedError, match="it was altered"):
        run_scheduled(site, "nightly")
    record = list_records(site.records)[-1]
    assert (record.state, record.exit_code, begin(site, record.name)["approved"]) == ("refused", 3, False)
    ((name, text),) = findings(site)
    assert name == record.name
    assert "began a runbook never approved" in text
    done = command(site, "audit", "verify", "--json")
    assert (done.return_value, json.loads(done.output)["record"]) == (1, record.name)
    assert "ended as refused (exit code 3)" in tell_failure(site, "nightly")
    assert hook() == {
        "STATELESSKIT_SCHEDULE": "nightly",
        "STATELESSKIT_FAILED_RECORD": record.name,
        "STATELESSKIT_FAILED_STATE": "refused",
        "STATELESSKIT_FAILED_CODE": "3",
        "two words": "",
    }
    # The next one does not even begin: nobody is told of the one before for it.
    assert "ended as not-run" in tell_failure(site, "nightly")
    assert hook()["STATELESSKIT_FAILED_RECORD"] == ""


def test_who_alters_the_sites_own_words_too_is_found(site: Site, units: Path) -> None:
    scheduled(site, units)
    schedule = read_schedule(site, "nightly")
    data = schedule.pinned(site).read_bytes() + b"\n"
    # It names the digest of the altered one; only the sealed record knows better.
    forged = replace(schedule, runbook_digest="sha256:" + hashlib.sha256(data).hexdigest(), parameters={"x": 1})
    forged.write(site, data)
    with pytest.raises(ParameterError):
        run_scheduled(site, "nightly")
    assert [name for name, _ in findings(site)] == [list_records(site.records)[-1].name]


def test_a_run_that_still_goes_on_is_not_begun_twice(site: Site, units: Path) -> None:
    scheduled(site, units)
    with held(site.lock_file("schedule/nightly"), what="x", doing="x"), pytest.raises(LockedError):
        run_scheduled(site, "nightly")


def test_a_hook_that_hangs_is_ended(site: Site, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statelesskit.schedule.running.TIMEOUT_S", 0.5)
    scheduled(site, units, on_failure="sleep 600")
    with pytest.raises(TimedOutError):
        tell_failure(site, "nightly")


def test_who_is_written_to_gets_a_letter(
    site: Site, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat > {tmp_path}/letter\n")
    sendmail.chmod(0o755)
    monkeypatch.setattr("statelesskit.run.SYSTEM_PATH", f"{tmp_path}:{os.defpath}")
    scheduled(site, units, on_failure="mailto:ada@example.org")
    tell_failure(site, "nightly")
    letter = (tmp_path / "letter").read_text()
    assert "To: ada@example.org\n" in letter
    assert "Subject: test: the scheduled run nightly" in letter


def test_runs_that_did_not_begin_are_named(site: Site, units: Path, tmp_path: Path) -> None:
    scheduled(site, units, calendar="*-*-* 04:00 UTC", within=600, jitter=60)
    now = datetime.now(UTC)
    due = (now + timedelta(days=3)).replace(hour=12)
    missing = findings(site, due)
    assert len(missing) in (3, 4)  # by the time of day this runs at
    assert all("a run of the schedule nightly was due at" in text and "within 660 s" in text for _, text in missing)
    # One whose time is not over is not missing yet.
    four = (now + timedelta(days=1)).replace(hour=4, minute=0, second=0, microsecond=0)
    before, after = findings(site, four + timedelta(seconds=600)), findings(site, four + timedelta(seconds=661))
    assert len(after) == len(before) + 1
    command(site, "schedule", "remove", "nightly")
    assert findings(site, due) == []


def test_a_run_that_did_begin_is_not_missing(site: Site, units: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled(site, units, calendar="*-*-* *:*:00/1 UTC", within=3000)
    pinned = read_schedule(site, "nightly").pinned(site)
    pinned.write_bytes(pinned.read_bytes() + b" ")
    with pytest.raises(RefusedError):
        run_scheduled(site, "nightly")
    began = list_records(site.records)[-1].began_at
    assert began
    missing = [text for name, text in findings(site, began + timedelta(seconds=3000)) if not name]
    assert missing == []


def test_what_is_due_is_known_offline_and_after_pruning(site: Site, units: Path, tmp_path: Path) -> None:
    scheduled(site, units, calendar="daily UTC")
    tomorrow = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"
    service.perform(site, PruneRecords(before=tomorrow), service.AT_ONCE)
    assert findings(site, datetime.now(UTC) + timedelta(days=3))
    done = command(site, "audit", "export", str(tmp_path / "out"))
    assert done.exception is None
    words = ["audit", "verify", str(tmp_path / "out/records"), "--json"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert (done.return_value, done.output) == (0, "")  # nothing was due before the last record


def test_a_forged_approval_is_none(site: Site, units: Path) -> None:
    outcome = scheduled(site, units)
    path = site.records / outcome.record / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"within_s":3600', b'"within_s":9999'))
    assert findings(site, datetime.now(UTC) + timedelta(days=30)) == []
    assert command(site, "audit", "verify").return_value == 1


@pytest.mark.parametrize("wrong", [b"", b"{}", b'{"format": 2}', b"[1]"])
def test_a_damaged_schedule_is_an_error_and_can_be_made_anew(site: Site, units: Path, wrong: bytes) -> None:
    scheduled(site, units)
    (site.schedule / "nightly/schedule.json").write_bytes(wrong)
    done = command(site, "schedule", "list")
    assert "is no schedule" in str(done.exception)
    assert scheduled(site, units).plan.changes
    assert command(site, "schedule", "list").exception is None


def test_an_unscheduled_run_says_whether_its_runbook_is_ours(site: Site, tmp_path: Path) -> None:
    path = notebook(tmp_path / "30-take-snapshot.ipynb", "1")
    for wanted, approved in ((TAKE, True), (str(path), False)):
        record = begin_record(site, find_runbook(wanted), {})
        assert begin(site, record.name)["approved"] is approved
