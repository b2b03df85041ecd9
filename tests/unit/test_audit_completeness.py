"""Scheduled runs that left no record, and serials that two records claim."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from statelesskit.audit import keys
from statelesskit.audit.completeness import Expected, missing_runs, read_expected, told_twice
from statelesskit.audit.listing import list_records
from statelesskit.audit.records import Record
from statelesskit.errors import UsageError


@pytest.fixture
def records(tmp_path: Path) -> Path:
    keys.create_record_key(tmp_path)
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


def pushed(records: Path, serial: int, *, changed: bool = True) -> str:
    record = Record.begin(records, "push apply", facts={})
    record.event("applied", result={"channel": "desktop/stable", "serial": serial, "changed": changed})
    record.end("completed", 0, key=records.parent / "record.key")
    return record.name


def test_a_serial_is_told_by_one_record(records: Path) -> None:
    pushed(records, 1)
    pushed(records, 2)
    pushed(records, 2, changed=False)  # had nothing to do, and tells how things stand
    assert [*told_twice(sorted(records.glob("2*")))] == []
    again = pushed(records, 2)
    (found,) = told_twice([*sorted(path for path in records.glob("2*") if path.name != again), records / again])
    assert found[0] == again
    assert "tells of serial 2 of desktop/stable" in found[1]


def test_a_scheduled_run_without_record_is_named(records: Path) -> None:
    for _ in range(2):
        pushed(records, 1)
    there = list_records(records)
    at, hour = there[0].began_at, timedelta(hours=1)
    assert at is not None
    runs = [
        Expected(at - hour / 2, "push apply", hour),
        Expected(at - hour / 4, "push apply", hour),
        Expected(at + hour, "push apply", hour),
        Expected(at - hour / 2, "snapshot take", hour),
    ]
    assert missing_runs(runs, there) == [runs[3], runs[2]]
    assert len(missing_runs([*runs[:2], runs[0]], there)) == 1  # a record stands for one run only


def test_expected_runs_are_read(tmp_path: Path) -> None:
    line = json.dumps({"at": "2026-01-31T02:00:00Z", "what": "30-take-snapshot", "within_s": 60})
    (one,) = read_expected(line.encode())
    assert one == Expected(
        datetime.fromisoformat("2026-01-31T02:00:00+00:00"), "30-take-snapshot", timedelta(minutes=1)
    )
    for wrong in (b"x", b"[]", b'{"at":"2026-01-31T02:00:00","what":"x","within_s":1}', b'{"at":1}'):
        with pytest.raises(UsageError, match="line 2"):
            read_expected(line.encode() + b"\n" + wrong)
