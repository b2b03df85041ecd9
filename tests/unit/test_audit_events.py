from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.audit import events
from statelesskit.errors import AuditError, NoSpaceError

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    for number in range(1, 7):
        events.append(path, "step", {"number": number})
    return path


def lines_of(log: Path) -> list[bytes]:
    return log.read_bytes().splitlines(keepends=True)


def test_line_is_canonical_json_chained_to_the_one_before(log: Path) -> None:
    first, second = log.read_bytes().split(b"\n")[:2]
    assert first.startswith(b'{"at":"20')
    assert first.endswith(b'Z","event":"step","facts":{"number":1},"prev":"' + b"0" * 64 + b'","seq":1}')
    assert hashlib.sha256(first).hexdigest().encode() in second


def test_read_returns_what_was_appended(log: Path) -> None:
    read, faults = events.read(log)
    assert faults == []
    assert [(event.seq, event.kind, event.facts) for event in read] == [(n, "step", {"number": n}) for n in range(1, 7)]
    assert events.first_and_last(log) == (read[0], read[-1])


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (lambda ls: [*ls[:2], ls[2].replace(b'r":3', b'r":8'), *ls[3:]], "line 4: event 3 before it was altered"),
        (lambda ls: ls[:2] + ls[3:], "line 3: event 3 is missing before event 4"),
        (lambda ls: ls[:1] + ls[4:], "line 2: events 2 to 4 are missing before event 5"),
        (lambda ls: ls[1:], "line 1: event 1 is missing before event 2"),
        (lambda ls: ls[:3] + ls[2:], "line 4: event 3 is repeated or out of order"),
        (lambda ls: [ls[0], ls[2], ls[1], *ls[3:]], "line 2: event 2 is missing before event 3"),
        (lambda ls: [*ls[:3], ls[3][:40]], "line 4: torn; its writer was killed, or the file was cut"),
        (lambda ls: [*ls[:5], ls[5].rstrip()], "line 6: torn; its writer was killed, or the file was cut"),
        (lambda ls: [ls[0].replace(b'"seq"', b' "seq"'), *ls[1:]], "line 1: no event in canonical form"),
        (lambda ls: [*ls[:3], b"\n", *ls[3:]], "line 4: no event in canonical form"),
        (lambda ls: [*ls[:3], b'{"at":NaN}\n', *ls[3:]], "line 4: no event in canonical form"),
        (lambda ls: [*ls[:3], b"[" * 100_000 + b"\n", *ls[3:]], "line 4: no event in canonical form"),
        (lambda ls: [*ls[:3], b"1" * 5000 + b"\n", *ls[3:]], "line 4: no event in canonical form"),
        (lambda ls: [*ls[:3], b"\xff" * (3 << 20), *ls[3:]], "line 4: too long; it and what follows was not read"),
        (lambda ls: [], "is empty"),
    ],
)
def test_tampering_is_named_by_line(log: Path, tamper, fault: str) -> None:  # type: ignore[no-untyped-def]
    log.write_bytes(b"".join(tamper(lines_of(log))))
    assert events.read(log)[1][0] == fault


def test_torn_line_is_kept_and_told_of(log: Path) -> None:
    torn = lines_of(log)[-1][:30]
    log.write_bytes(b"".join(lines_of(log)[:-1]) + torn)
    events.append(log, "next", {})
    assert torn + b"\n" in log.read_bytes()
    read, faults = events.read(log)
    assert [(event.seq, event.kind) for event in read[-2:]] == [(7, "torn"), (8, "next")]
    assert read[-2].facts == {"bytes": 30, "line": 6}
    assert faults == [
        "line 6: no event in canonical form",
        "line 7: tells that a writer was killed while it wrote line 6",
    ]
    lines = lines_of(log)
    log.write_bytes(b"".join([*lines[:5], torn[:-1] + b"#\n", *lines[6:]]))
    assert "line 7: event 6 before it was altered" in events.read(log)[1], "the evidence is part of the chain"


def test_torn_first_line(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_bytes(b'{"at":')
    events.append(log, "next", {})
    assert [(event.seq, event.kind) for event in events.read(log)[0]] == [(2, "torn"), (3, "next")]


def test_line_that_lacks_only_its_newline_is_an_event(log: Path) -> None:
    os.truncate(log, log.stat().st_size - 1)
    events.append(log, "next", {})
    assert events.read(log)[1] == []


def test_altered_last_line_does_not_stop_the_run_and_is_named(log: Path) -> None:
    log.write_bytes(b"".join(lines_of(log)[:-1]) + b"garbage\n")
    events.append(log, "next", {})
    read, faults = events.read(log)
    assert (read[-1].seq, faults) == (7, ["line 6: no event in canonical form"])


def test_nothing_is_appended_after_the_end(log: Path) -> None:
    events.append(log, "end", {})
    with pytest.raises(AuditError, match="has ended"):
        events.append(log, "step", {})


@pytest.mark.parametrize("facts", [{"x": float("nan")}, {"x": object()}, {1: 2, "1": 3}, {"x": b"bytes"}])
def test_facts_that_are_no_json_are_refused(log: Path, facts: dict[str, object]) -> None:
    before = log.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        events.append(log, "step", facts)
    assert log.read_bytes() == before


def test_too_long_an_event_is_refused(log: Path) -> None:
    with pytest.raises(AuditError, match="too much"):
        events.append(log, "step", {"text": "x" * events.MAX_LINE})
    assert events.read(log)[1] == []


def test_too_long_a_log_takes_only_the_end(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LOG", log.stat().st_size)
    with pytest.raises(AuditError, match="too much"):
        events.append(log, "step", {})
    events.append(log, "end", {})
    assert events.read(log)[1] == []


def test_log_that_ends_in_an_overlong_line_is_not_continued(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"x" * (20 << 20))
    with pytest.raises(AuditError, match="too long"):
        events.append(log, "step", {})


def test_long_lines_are_found_from_the_end(log: Path) -> None:
    for size in (4000, 70_000, 1_000_000):
        events.append(log, "long", {"text": "x" * size})
        events.append(log, "short", {})
    assert events.read(log)[1] == []


def test_full_disk_leaves_the_log_as_it_was(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.read_bytes()

    def half(fd: int, line: bytes) -> None:
        os.write(fd, line[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fs, "append_line", half)
    with pytest.raises(NoSpaceError):
        events.append(log, "step", {})
    assert log.read_bytes() == before


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_only_a_regular_file_is_a_log(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "events.jsonl"
    (tmp_path / "elsewhere").write_bytes(b"")
    {"symlink": lambda: log.symlink_to("elsewhere"), "fifo": lambda: os.mkfifo(log), "folder": log.mkdir}[kind]()
    with pytest.raises((AuditError, OSError)):
        events.append(log, "step", {})
    with pytest.raises(AuditError, match="not a file"):
        events.read(log)


def add(path: Path, count: int, text: str) -> None:
    for number in range(count):
        events.append(path, "step", {"number": number, "text": text})


def test_eight_processes_make_one_chain(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    workers = [SPAWN.Process(target=add, args=(log, 50, str(number))) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    read, faults = events.read(log)
    assert (faults, len(read)) == ([], 400)
    assert all([e.facts["number"] for e in read if e.facts["text"] == str(n)] == list(range(50)) for n in range(8))


def test_killed_writers_leave_a_chain_that_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    for number in range(5):
        workers = [SPAWN.Process(target=add, args=(log, 100_000, "x" * 5000)) for _ in range(3)]
        for worker in workers:
            worker.start()
        size = log.stat().st_size if log.exists() else 0
        deadline = time.monotonic() + 60
        while not log.exists() or log.stat().st_size < size + 50_000:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGKILL)
        for worker in workers:
            worker.join()
        events.append(log, "after", {"round": number})
        read, faults = events.read(log)
        assert read[-1].facts == {"round": number}
        # A kill inside write(2) may tear a line; then it is named, twice, and nothing else is.
        torn = [event for event in read if event.kind == "torn"]
        assert len(faults) == 2 * len(torn)
