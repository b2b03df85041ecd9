"""The tamper table: every kind of edit is found and named; and what nobody touched raises no alarm."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from statelesskit import fs
from statelesskit.audit import keys, log
from statelesskit.audit.cells import cell_digests
from statelesskit.audit.entering import enter_ended
from statelesskit.audit.records import Record
from statelesskit.audit.verify import verify_records

FLIPS, CLEAN = 600, 1000
CELL = {"cell_type": "code", "source": "push()", "metadata": {}, "outputs": [{"output_type": "stream", "text": "ok"}]}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_MOMENT_S", 0)
    monkeypatch.setattr("statelesskit.audit.verify.is_at_work", lambda path: False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.create_record_key(tmp_path)
    return tmp_path / "record.key"


@pytest.fixture
def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


def make(records: Path, key: Path, number: int) -> None:
    record = Record.begin(records, "71-push-snapshot", facts={"parameters": {"channel": f"desktop/c{number}"}})
    record.attach("plan.json", b'{"facts":{"from":"a","to":"b"}}')
    record.event("cell", **cell_digests({"cells": [CELL]})[0])
    record.attach("record.ipynb", json.dumps({"cells": [CELL]}).encode())
    record.event("applied", result={"serial": number})
    record.finish("completed", 0, key=key, changes="x")


@pytest.fixture
def records(tmp_path: Path, key: Path) -> Path:
    (tmp_path / "records").mkdir()
    for number in range(3):
        if number == 2:
            shutil.copytree(tmp_path / "records/log", tmp_path / "old")
        make(tmp_path / "records", key, number)
        enter_ended(tmp_path / "records", key)
    return tmp_path / "records"


def folders(records: Path) -> list[Path]:
    """Return the records in the order of the log; those of one second have names in any order."""
    return [records / line.split()[1].partition("/")[0] for line in (records / "log/entries").read_text().splitlines()]


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def tamper(records: Path) -> None:
        path = (records if name.startswith("log/") else folders(records)[1]) / name
        path.write_bytes(change(path.read_bytes()))

    return tamper


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(change(data.splitlines(keepends=True)))


def notebook(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def tamper(data: bytes) -> bytes:
        found = json.loads(data)
        change(found["cells"][0])
        return json.dumps(found).encode()

    return tamper


def exchange(records: Path) -> None:
    one, two, _ = folders(records)
    one.rename(records / "x")
    two.rename(one)
    (records / "x").rename(two)


def replace_key(records: Path) -> None:
    """Seal everything anew with another key, as somebody without ours would have to."""
    (records.parent / "k").mkdir()
    keys.create_record_key(records.parent / "k")
    for path in folders(records):
        (path / "statement.dsse.json").unlink()
    shutil.rmtree(records / "log")
    enter_ended(records, records.parent / "k/record.key")


def put_back(records: Path) -> None:
    for name in ("checkpoint", "checkpoint.sig"):
        shutil.copy(records.parent / "old" / name, records / "log" / name)


TABLE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a cell's source": (
        edit("record.ipynb", notebook(lambda cell: cell.update(source="pull()"))), "record.ipynb", "cell 0: source"
    ),
    "a cell's output": (
        edit("record.ipynb", notebook(lambda cell: cell.update(outputs=[]))), "record.ipynb", "cell 0: output"
    ),
    "a plan": (edit("plan.json", lambda data: data.replace(b'"b"', b'"c"')), "plan.json", "altered"),
    "an event removed": (
        edit("events.jsonl", lines(lambda all_: [*all_[:2], *all_[3:]])), "events.jsonl", "event 3 is missing"
    ),
    "events exchanged": (
        edit("events.jsonl", lines(lambda all_: [all_[0], all_[2], all_[1], *all_[3:]])), "events.jsonl", "missing"
    ),
    "an event repeated": (
        edit("events.jsonl", lines(lambda all_: [*all_[:2], *all_[1:]])), "events.jsonl", "is repeated"
    ),
    "an event altered": (
        edit("events.jsonl", lambda data: data.replace(b'"serial":1', b'"serial":9')), "events.jsonl", "was altered"
    ),
    "events cut": (edit("events.jsonl", lines(lambda all_: all_[:-2])), "events.jsonl", "was cut or added to"),
    "the statement of another": (
        lambda top: shutil.copy(folders(top)[0] / "statement.dsse.json", folders(top)[1]), "statement.dsse.json",
        "is the statement of another record",
    ),
    "a record moved to another run": (exchange, "", "the folder was renamed; it was"),
    "a record removed": (lambda top: shutil.rmtree(folders(top)[1]), "", "is missing: entry 2 of the log"),
    "a record copied": (lambda top: shutil.copytree(folders(top)[1], top / "copy"), "", "is not in the log"),
    "the log cut": (edit("log/entries", lines(lambda all_: all_[:-1])), "entries", "was cut: it holds 2 entries, 3"),
    "the log turned": (edit("log/entries", lines(lambda all_: all_[::-1])), "entries", "was altered"),
    "the log added to": (
        edit("log/entries", lambda data: data + data[:64] + b"  20990101T000000Z-x-00000000/statement.dsse.json\n"),
        "checkpoint", "covers 3 of 4 entries",
    ),
    "an entry repeated": (
        edit("log/entries", lines(lambda all_: [*all_, all_[0]])), "entries", "a second time"
    ),
    "an old checkpoint put back": (put_back, "checkpoint", "covers 2 of 3 entries"),
    "the key replaced": (replace_key, "checkpoint", "with another key"),
    "the log removed": (lambda top: shutil.rmtree(top / "log"), "checkpoint", "is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLE)
def test_every_edit_is_found_and_named(records: Path, public: str, what: str) -> None:
    assert verify_records(records, public) == []
    tamper, file, words = TABLE[what]
    tamper(records)
    told = [f"{finding.file}: {finding.finding}" for finding in verify_records(records, public)]
    assert any(one.startswith(f"{file}: ") and words in one for one in told), told


def flips(records: Path, count: int) -> Iterator[tuple[Path, int, int]]:
    """Yield places of single bits, each byte of records and log as likely as another."""
    files = [path for path in sorted(records.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    sizes = [path.stat().st_size for path in files]
    for path in random.choices(files, sizes, k=count):
        yield path, random.randrange(path.stat().st_size), random.randrange(8)


def test_any_flipped_bit_is_found_in_its_file(records: Path, public: str) -> None:
    for path, at, bit in flips(records, FLIPS):
        data = path.read_bytes()
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        found = {(finding.record, finding.file) for finding in verify_records(records, public)}
        assert (path.parent.name, path.name) in found, f"{path.name} byte {at} bit {bit}: {found}"
        path.write_bytes(data)
    assert verify_records(records, public) == []


def test_a_thousand_clean_records_raise_no_alarm(
    tmp_path: Path, key: Path, public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs, "fsync", lambda fd: None)
    (tmp_path / "many").mkdir()
    for number in range(CLEAN):
        make(tmp_path / "many", key, number)
    enter_ended(tmp_path / "many", key)
    assert verify_records(tmp_path / "many", public) == []
