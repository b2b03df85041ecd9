from __future__ import annotations

import base64
import json
import multiprocessing
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.audit import events, keys, process
from statelesskit.audit.listing import find_record, list_records, state_of
from statelesskit.audit.records import Record
from statelesskit.audit.show import describe
from statelesskit.errors import AuditError, ExistsError, NameInvalidError, NotFoundError
from statelesskit.errors import EnvironmentLacksError as LacksError

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.create_record_key(tmp_path)
    return tmp_path / "record.key"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


def test_begin_names_the_run_and_its_process(records: Path) -> None:
    record = Record.begin(records, "push apply", facts={"parameters": {"channel": "desktop/stable"}})
    assert re.fullmatch(r"\d{8}T\d{6}Z-push-apply-[0-9a-f]{8}", record.path.name)
    (begin,), faults = events.read(record.path / "events.jsonl")
    assert (begin.kind, faults) == ("begin", [])
    assert begin.facts["name"] == record.path.name
    assert begin.facts["pid"] == os.getpid()
    assert begin.facts["mode"] == "in process"
    assert begin.facts["parameters"] == {"channel": "desktop/stable"}
    assert state_of(record.path) == "running"


def test_what_a_service_says_of_its_caller_stands(records: Path) -> None:
    record = Record.begin(records, "push", facts={"user": "ada", "mode": "service", "what": "x", "name": "../x"})
    (begin,), _ = events.read(record.path / "events.jsonl")
    assert (begin.facts["user"], begin.facts["mode"]) == ("ada", "service")
    assert (begin.facts["what"], begin.facts["name"]) == ("push", record.path.name)


@pytest.mark.parametrize("what", ["../../etc/x", "\x1b[31m", "é", "", "a.partial-b", "x" * 300])
def test_folder_name_is_safe_whatever_the_verb(records: Path, what: str) -> None:
    record = Record.begin(records, what, facts={})
    assert record.path.parent == records
    assert re.fullmatch(r"\d{8}T\d{6}Z-[a-z0-9-]{1,60}-[0-9a-f]{8}", record.path.name)


def test_run_id_may_be_chosen_and_is_taken_once(records: Path) -> None:
    record = Record.begin(records, "push", facts={}, run_id="0123abcd")
    assert record.path.name.endswith("-0123abcd")
    assert find_record(records, "0123abcd") == find_record(records, record.path.name) == record.path
    with pytest.raises(ExistsError, match="already"):
        Record.begin(records, "take", facts={}, run_id="0123abcd")
    with pytest.raises(NameInvalidError, match="run id"):
        Record.begin(records, "take", facts={}, run_id="../../ab")
    with pytest.raises(NotFoundError):
        find_record(records, "ffffffff")


def test_other_process_joins(records: Path, key: Path) -> None:
    record = Record.begin(records, "push", facts={})
    worker = SPAWN.Process(target=join_and_add, args=(record.path,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    record.end("completed", 0, key=key)
    assert [e.kind for e in events.read(record.path / "events.jsonl")[0]] == ["begin", "cell", "file", "end"]


def join_and_add(path: Path) -> None:
    record = Record.join(path)
    record.event("cell", index=0)
    record.attach("plan.json", b"{}")


def test_join_needs_a_record(records: Path) -> None:
    with pytest.raises(NotFoundError, match="no record"):
        Record.join(records / "nothing")
    (records / "events.jsonl").write_bytes(b"garbage")
    with pytest.raises(NotFoundError, match="no record"):
        Record.join(records)


def test_records_own_events_cannot_be_forged_by_accident(records: Path) -> None:
    record = Record.begin(records, "push", facts={})
    with pytest.raises(ValueError, match="only the record itself"):
        record.event("end", state="completed")


def test_attached_file_is_final_unless_it_is_the_notebook(records: Path) -> None:
    record = Record.begin(records, "push", facts={})
    record.attach("plan.json", b"1")
    record.attach("plan.json", b"1")
    with pytest.raises(ExistsError, match="already holds another"):
        record.attach("plan.json", b"2")
    record.attach("record.ipynb", b"1")
    record.attach("record.ipynb", b"2")
    for name in ("../plan", "events.jsonl", "statement.dsse.json", ".hidden"):
        with pytest.raises(NameInvalidError):
            record.attach(name, b"")
    assert (record.path / "plan.json").read_bytes() == b"1"
    assert (record.path / "record.ipynb").read_bytes() == b"2"


def test_end_seals_with_a_statement(records: Path, key: Path) -> None:
    record = Record.begin(records, "push apply", facts={"user": "ada"})
    record.attach("plan.json", b"{}")
    (record.path / f".plan.json{fs.PARTIAL}00").write_bytes(b"left by a kill")
    record.end("failed", 1, key=key, changes="nothing")
    envelope = json.loads((record.path / "statement.dsse.json").read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert [subject["name"] for subject in statement["subject"]] == ["events.jsonl", "plan.json"]
    assert {k: statement["predicate"][k] for k in ("what", "state", "exit_code", "user", "events")} == {
        "what": "push apply",
        "state": "failed",
        "exit_code": 1,
        "user": "ada",
        "events": 3,
    }
    assert sorted(child.name for child in record.path.iterdir()) == ["events.jsonl", "plan.json", "statement.dsse.json"]


def test_what_has_ended_stays_as_it_is(records: Path, key: Path) -> None:
    record = Record.begin(records, "push", facts={})
    record.end("completed", 0, key=key)
    before = {child.name: child.read_bytes() for child in record.path.iterdir()}
    for attempt in (
        lambda: record.end("failed", 1, key=key),
        lambda: record.event("cell"),
        lambda: record.attach("plan.json", b""),
    ):
        with pytest.raises(AuditError, match="has ended"):
            attempt()
    record.seal(key)
    assert {child.name: child.read_bytes() for child in record.path.iterdir()} == before


def test_record_without_key_has_ended_and_is_sealed_later(records: Path, key: Path) -> None:
    record = Record.begin(records, "push", facts={})
    with pytest.raises(AuditError, match="has not ended"):
        record.seal(key)
    with pytest.raises(LacksError):
        record.end("completed", 0, key=key.with_name("nothing"))
    assert state_of(record.path) == "completed"
    record.seal(key)
    assert (record.path / "statement.dsse.json").exists()


def test_a_growing_log_is_its_owners_alone(records: Path, key: Path) -> None:
    record = Record.begin(records, "push apply", facts={})
    log = record.path / "events.jsonl"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    record.end("completed", 0, key=key)
    assert stat.S_IMODE(log.stat().st_mode) == 0o644


def test_only_known_end_states(records: Path, key: Path) -> None:
    record = Record.begin(records, "push", facts={})
    with pytest.raises(ValueError, match="no end state"):
        record.end("done", 0, key=key)
    assert state_of(record.path) == "running"


def test_run_that_vanished_is_lost_and_can_be_ended_as_such(records: Path, key: Path) -> None:
    worker = SPAWN.Process(target=begin_and_vanish, args=(records,))
    worker.start()
    worker.join()
    (path,) = records.iterdir()
    assert state_of(path) == "lost"
    Record.join(path).end("lost", 1, key=key)
    (summary,) = list_records(records)
    assert (summary.state, summary.exit_code) == ("lost", 1)


def begin_and_vanish(records: Path) -> None:
    Record.begin(records, "push", facts={})
    os.kill(os.getpid(), 9)


def test_same_pid_of_another_time_or_boot_is_another_process() -> None:
    me = process.identity()
    assert process.is_alive(me)
    assert not process.is_alive({**me, "process_started": me["process_started"] - 1})
    assert not process.is_alive({**me, "boot_id": "another"})
    for hostile in (None, "1", -1, True, 2**80, [1]):
        assert not process.is_alive({**me, "pid": hostile})


def test_zombie_is_gone() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process._started(child.pid) is None
    child.wait()


def test_list_is_in_order_and_survives_garbage(records: Path, key: Path) -> None:
    first = Record.begin(records, "10 take", facts={"user": "\x1b[31mada"})
    first.end("completed", 0, key=key, changes="one\nsnapshot")
    Record.begin(records, "20 push", facts={})
    (records / "99990101T000000Z-junk").mkdir()
    (records / ".hidden").mkdir()
    done, running, junk = list_records(records)
    assert (done.what, done.state, done.exit_code) == ("10 take", "completed", 0)
    assert (done.user, done.changes) == ("\\x1b[31mada", "one\\nsnapshot")
    assert done.began_at
    assert done.ended_at
    assert done.began_at <= done.ended_at
    assert (running.state, running.ended_at, running.exit_code) == ("running", None, None)
    assert (junk.state, junk.what) == ("unreadable", "")


def test_describe_is_safe_on_a_terminal(records: Path, key: Path) -> None:
    record = Record.begin(records, "push", facts={})
    record.event("warning", text="\x1b[2J\nhidden", count=3)
    record.end("completed", 0, key=key)
    view = describe(record.path)
    assert [row.event for row in view.events] == ["begin", "warning", "end"]
    assert view.events[1].text == "count: 3, text: \\x1b[2J\\nhidden"
    assert view.faults == []
    assert view.summary.state == "completed"
    assert describe(records / "nothing").faults == ["events.jsonl is missing"]
