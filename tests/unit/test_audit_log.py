"""The log of records: what every writer leaves wherever it dies, what every forger leaves, and two strangers' eyes."""

from __future__ import annotations

import base64
import hashlib
import multiprocessing
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.audit import keys, log, merkle
from statelesskit.audit.checkpoint import Checkpoint
from statelesskit.audit.entering import enter_ended
from statelesskit.audit.listing import list_records, state_of
from statelesskit.audit.records import Record
from statelesskit.audit.verify import verify_records
from statelesskit.errors import AuditError, NoSpaceError

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.create_record_key(tmp_path)
    return tmp_path / "record.key"


@pytest.fixture
def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_MOMENT_S", 0)
    monkeypatch.setattr("statelesskit.audit.verify.is_at_work", lambda path: False)


def made(records: Path, key: Path, state: str = "completed") -> Path:
    record = Record.begin(records, "push apply", facts={"parameters": {}})
    record.attach("plan.json", b"{}")
    record.end(state, 0 if state == "completed" else 1, key=key)
    return record.path


def found(records: Path, public: str) -> list[tuple[str, str]]:
    return [(finding.record, finding.file) for finding in verify_records(records, public)]


def entries(records: Path) -> list[str]:
    return (records / "log/entries").read_text().splitlines()


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "refused", "timed-out", "kernel-died"])
def test_every_end_is_entered(records: Path, key: Path, public: str, state: str) -> None:
    path = made(records, key, state)
    (line,) = entries(records)
    digest = hashlib.sha256((path / "statement.dsse.json").read_bytes()).hexdigest()
    assert line == f"{digest}  {path.name}/statement.dsse.json"
    assert found(records, public) == []


def test_the_checkpoint_is_a_signed_note_of_the_tree(records: Path, key: Path, public: str) -> None:
    for _ in range(3):
        made(records, key)
    origin, size, root, extension, blank, signature, end = (records / "log/checkpoint").read_text().split("\n")
    assert (size, blank, end) == ("3", "", "")
    leaves = [merkle.leaf_hash(line.encode()) for line in entries(records)]
    assert base64.b64decode(root) == merkle.root_hash(leaves)
    assert extension == "entries sha256:" + hashlib.sha256((records / "log/entries").read_bytes()).hexdigest()
    dash, name, blob = signature.split(" ")
    assert (dash, name) == ("—", origin)
    raw = base64.b64decode(public.split()[1])[-32:]
    assert base64.b64decode(blob)[:4] == hashlib.sha256(f"{origin}\n\1".encode() + raw).digest()[:4]


def test_a_stranger_verifies_with_ssh_keygen_and_sha256sum(records: Path, key: Path, public: str) -> None:
    made(records, key)
    (records / "signers").write_text(f"auditor {public}")
    ssh = ["ssh-keygen", "-Y", "verify", "-f", records / "signers", "-I", "auditor", "-n", "statelesskit-log"]
    ssh += ["-s", records / "log/checkpoint.sig"]
    note = (records / "log/checkpoint").read_bytes()
    assert subprocess.run(ssh, input=note, capture_output=True).returncode == 0
    assert subprocess.run(ssh, input=note.replace(b"\n1\n", b"\n2\n"), capture_output=True).returncode != 0
    assert subprocess.run(["sha256sum", "--strict", "-c", "log/entries"], cwd=records).returncode == 0


def test_every_flipped_bit_of_the_log_is_found_there(records: Path, key: Path, public: str) -> None:
    made(records, key)
    for name in ("entries", "checkpoint", "checkpoint.sig"):
        file = records / "log" / name
        data = file.read_bytes()
        for at in range(len(data)):
            bit = 1 << random.randrange(8)
            file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            findings = found(records, public)
            assert ("log", name) in findings, f"byte {at} of {name}, bit {bit}: {findings}"
        file.write_bytes(data)
    assert found(records, public) == []


def cut(records: Path) -> None:
    file = records / "log/entries"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def swap(records: Path) -> None:
    file = records / "log/entries"
    file.write_bytes(b"".join(reversed(file.read_bytes().splitlines(keepends=True))))


def repeat(records: Path) -> None:
    file = records / "log/entries"
    file.write_bytes(file.read_bytes() * 2)


def remove_record(records: Path) -> None:
    shutil.rmtree(next(path for path in records.iterdir() if path.name != "log"))


def remove_log(records: Path) -> None:
    shutil.rmtree(records / "log")


@pytest.mark.parametrize("tamper", [cut, swap, repeat, remove_record, remove_log])
def test_tampering_is_found(records: Path, key: Path, public: str, tamper: Callable[[Path], None]) -> None:
    for _ in range(2):
        made(records, key)
    tamper(records)
    assert found(records, public)


@pytest.mark.parametrize("names", [["checkpoint"], ["checkpoint", "checkpoint.sig"], ["entries"]])
def test_an_old_file_put_back_is_found(records: Path, key: Path, public: str, names: list[str]) -> None:
    made(records, key)
    old = {name: (records / "log" / name).read_bytes() for name in names}
    made(records, key)
    for name, data in old.items():
        (records / "log" / name).write_bytes(data)
    assert "log" in {record for record, _ in found(records, public)}


def test_the_whole_past_put_back_is_found_by_who_saw_more(
    records: Path, key: Path, public: str, tmp_path: Path
) -> None:
    made(records, key)
    shutil.copytree(records, tmp_path / "past")
    made(records, key)
    seen = Checkpoint.verify((records / "log/checkpoint").read_bytes(), public)
    assert verify_records(records, public, [seen]) == []
    assert verify_records(tmp_path / "past", public) == []
    (finding,) = verify_records(tmp_path / "past", public, [seen])
    assert "was cut: it holds 1 entries, a checkpoint of 2 was seen" in finding.finding
    # Another history of the same length, made with the right key.
    made(tmp_path / "past", key)
    (finding,) = verify_records(tmp_path / "past", public, [seen])
    assert "was written anew" in finding.finding


def test_a_record_that_was_never_entered_is_named_and_entered_by_the_next(
    records: Path, key: Path, public: str
) -> None:
    made(records, key)
    record = Record.begin(records, "push apply", facts={})
    record.finish("completed", 0, key=key)  # killed here
    assert found(records, public) == [(record.name, "")]
    made(records, key)
    assert len(entries(records)) == 3
    assert found(records, public) == []


def test_a_run_that_vanished_is_ended_and_entered_by_the_next(records: Path, key: Path, public: str) -> None:
    worker = SPAWN.Process(target=begin_and_vanish, args=(records,))
    worker.start()
    worker.join()
    (lost,) = records.iterdir()
    assert state_of(lost) == "lost"
    made(records, key)
    assert state_of(lost) == "lost"
    assert len(entries(records)) == 2
    assert found(records, public) == []


def test_a_run_of_another_host_is_left_alone(records: Path, key: Path, public: str) -> None:
    worker = SPAWN.Process(target=begin_and_vanish, args=(records, "elsewhere"))
    worker.start()
    worker.join()
    (other,) = records.iterdir()
    before = (other / "events.jsonl").read_bytes()
    made(records, key)
    assert (other / "events.jsonl").read_bytes() == before
    assert len(entries(records)) == 1


def begin_and_vanish(records: Path, host: str = "") -> None:
    Record.begin(records, "push", facts={"host": host} if host else {})
    os.kill(os.getpid(), 9)


STEPS = ["make_folder", "create", "open_log", "write_all", "fsync", "rename"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_nothing_is_lost(records: Path, key: Path, public: str, step: str) -> None:
    """A child is killed at the n-th call of one primitive, for every n until it gets through."""
    made(records, key)
    for number in range(1, 40):
        worker = SPAWN.Process(target=end_killed, args=(records, key, step, number))
        worker.start()
        worker.join()
        if worker.exitcode == 0:
            break
        for finding in verify_records(records, public):
            told = any(word in finding.finding for word in ("killed", "vanished", "not sealed", "canonical"))
            assert told or ".partial-" in finding.file, finding
        enter_ended(records, key)
        # That a line was torn is told for ever.
        torn = [one for one in verify_records(records, public) if (step, one.file) != ("write_all", "events.jsonl")]
        assert torn == [], f"{step} {number}"
    assert worker.exitcode == 0
    assert len(entries(records)) == len(list_records(records))


def end_killed(records: Path, key: Path, step: str, number: int) -> None:
    record = Record.begin(records, "push apply", facts={})
    done, before = getattr(fs, step), [0]

    def killed(*args: object, **kwargs: object) -> object:
        before[0] += 1
        if before[0] == number:
            if step == "write_all":
                os.write(args[0], bytes(args[1])[:7])  # type: ignore[call-overload,arg-type]
            os.kill(os.getpid(), 9)
        return done(*args, **kwargs)

    setattr(fs, step, killed)
    record.end("completed", 0, key=key)


def test_many_at_once_lose_nothing_and_alarm_nobody(
    records: Path, key: Path, public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    workers = [SPAWN.Process(target=make_some, args=(records, key)) for _ in range(4)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        assert verify_records(records, public) == []
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(entries(records)) == 40
    assert found(records, public) == []


def make_some(records: Path, key: Path) -> None:
    for _ in range(10):
        made(records, key)


def test_a_full_disk_loses_nothing(records: Path, key: Path, public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made(records, key)

    def full(fd: int, data: bytes) -> None:
        if data.endswith(b"statement.dsse.json\n"):
            os.write(fd, data[:20])
            raise OSError(28, "No space left on device")
        write(fd, data)

    write = fs.write_all
    monkeypatch.setattr(fs, "write_all", full)
    with pytest.raises(NoSpaceError):
        made(records, key)
    monkeypatch.undo()
    monkeypatch.setattr("statelesskit.audit.verify.is_at_work", lambda path: False)
    assert len(entries(records)) == 1
    enter_ended(records, key)
    assert len(entries(records)) == 2
    assert found(records, public) == []


@pytest.mark.parametrize("name", ["entries", "checkpoint"])
def test_nothing_is_signed_over_a_damaged_log(records: Path, key: Path, public: str, name: str) -> None:
    made(records, key)
    made(records, key)
    file = records / "log" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:30] + b"0" + whole[31:] if whole[30:31] != b"0" else whole[:30] + b"1" + whole[31:])
    before = {path.name: path.read_bytes() for path in (records / "log").iterdir() if path.name != ".lock"}
    with pytest.raises(AuditError, match="is damaged, nothing more is entered"):
        made(records, key)
    assert {path.name: path.read_bytes() for path in (records / "log").iterdir() if path.name != ".lock"} == before
    file.write_bytes(whole)
    enter_ended(records, key)
    assert found(records, public) == []


def test_another_key_is_named_in_every_place(records: Path, key: Path, public: str, tmp_path: Path) -> None:
    made(records, key)
    (tmp_path / "other").mkdir()
    keys.create_record_key(tmp_path / "other")
    other = (tmp_path / "other/record.pub").read_text()
    assert {name for record, name in found(records, other) if record == "log"} == {"checkpoint", "checkpoint.sig"}
    with pytest.raises(AuditError, match="another key"):
        enter_ended(records, tmp_path / "other/record.key")
