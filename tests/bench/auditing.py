"""Records to measure with, and single bits flipped in them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from statelesskit import fs
from statelesskit.audit import keys, log, verify
from statelesskit.audit.entering import enter_ended
from statelesskit.audit.records import Record


def make_records(records: Path, count: int) -> None:
    """Make records as pushes leave them, with their key beside the folder and nothing flushed."""
    keys.create_record_key(records.parent)
    key, flush = records.parent / "record.key", fs.fsync
    fs.fsync = lambda fd: None
    try:
        for number in range(count):
            record = Record.begin(records, "push apply", facts={"parameters": {"channel": "desktop/stable"}})
            record.attach("plan.json", b'{"rows":[]}' * 20)
            record.event("plan", digest="sha256:" + "0" * 64, summary="Push", changes=True)
            record.event("confirmed", by="ada", how="at once")
            record.event("applying")
            record.event("applied", result={"serial": number})
            record.event("verified", checks=[], ok=True)
            record.finish("completed", 0, key=key, changes="desktop/stable")
        enter_ended(records, key)
    finally:
        fs.fsync = flush


def flips_missed(records: Path, count: int) -> int:
    """Flip single bits of records and log, one at a time; return how many were not found in their file."""
    public = (records.parent / "record.pub").read_text()
    files = [path for path in sorted(records.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    missed = 0
    with _nobody_at_work():
        for path in random.choices(files, [one.stat().st_size for one in files], k=count):
            data, at = path.read_bytes(), random.randrange(path.stat().st_size)
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :])
            found = {(one.record, one.file) for one in verify.verify_records(records, public)}
            missed += (path.parent.name, path.name) not in found
            path.write_bytes(data)
    return missed


@contextmanager
def _nobody_at_work() -> Iterator[None]:
    """Have verify neither wait for a writer nor leave out the runs of this process."""
    moment, is_at_work = log._MOMENT_S, verify.is_at_work
    log._MOMENT_S, verify.is_at_work = 0, lambda path: False
    try:
        yield
    finally:
        log._MOMENT_S, verify.is_at_work = moment, is_at_work
