"""The check of records, by anybody who holds the public key: offline, trusting nothing in the folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from statelesskit.audit import events, files, keys, statement
from statelesskit.audit.cells import altered_cells
from statelesskit.audit.events import Event
from statelesskit.audit.listing import record_folders, state_of
from statelesskit.audit.records import EVENTS, FILE, REWRITTEN, ended_files
from statelesskit.audit.statement import MAX_STATEMENT, STATEMENT, Statement
from statelesskit.errors import AuditError
from statelesskit.names import printable

MAX_NOTEBOOK = 64 << 20  # bytes; the cell altered in a longer one is not searched for


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a record.

    Attributes:
        file: the file's name, or "" for the record as a whole.
        finding: what is wrong with it, in words.
    """

    record: str
    file: str
    finding: str


def verify_records(records_dir: Path, public_key: str) -> list[Finding]:
    """Return what is wrong with each of the records in a folder; see :func:`verify_record`."""
    return [finding for path in record_folders(records_dir) for finding in verify_record(path, public_key)]


def verify_record(path: Path, public_key: str) -> list[Finding]:
    """Return what is wrong with a record; nothing, if it is sealed and every byte is as it was then.

    Whatever the folder holds becomes a finding, never an exception.

    Args:
        public_key: the line of ``record.pub``, from a place the server could not change.

    Raises:
        UsageError: ``public_key`` is none.
    """
    keys.fingerprint(public_key)  # before anything else: a wrong key says nothing about the record
    path = path.absolute()
    return [Finding(printable(path.name), printable(file), text) for file, text in _check(path, public_key)]


def _check(path: Path, public_key: str) -> Iterator[tuple[str, str]]:
    try:
        present = {child.name for child in path.iterdir()}
    except OSError as error:
        yield "", f"is no record's folder: {error.strerror}"
        return
    if path.is_symlink():
        yield "", "is a symbolic link, not a record's folder"
        return
    try:
        log, faults = events.read(path / EVENTS)
    except AuditError as error:
        log, faults = [], [error.message]
    if log and log[0].seq == 1 and log[0].kind != events.BEGIN:
        faults.append("line 1: is not the begin of a record")
    begun_as = log[0].facts.get("name") if log and log[0].kind == events.BEGIN else None

    seal = None
    try:
        seal = statement.verify(files.read_small(path / STATEMENT, MAX_STATEMENT), public_key)
        if seal.predicate.get("name") not in (path.name, begun_as):
            name, seal = seal.predicate.get("name"), None
            yield STATEMENT, f"is the statement of another record, {printable(name)}"
    except AuditError as error:
        yield STATEMENT, error.message if STATEMENT in present else _why_unsealed(path)

    name = seal.predicate.get("name") if seal else begun_as
    if name not in (path.name, None):
        yield "", f"the folder was renamed; it was {printable(name)}"
    if seal and not faults:
        faults = _log_against(seal, path, log)
    yield from ((EVENTS, fault) for fault in faults)
    yield from _files_against(seal, path, log, present)


def _why_unsealed(path: Path) -> str:
    return "is missing: " + {
        "running": "the run still goes on",
        "lost": "the run vanished before its end",
        "unreadable": "nothing here is sealed",
    }.get(state_of(path), "the run ended but was not sealed, or the statement was removed")


def _log_against(seal: Statement, path: Path, log: list[Event]) -> list[str]:
    """Compare a log whose own chain is whole with what was signed."""
    try:
        if files.sha256_file(path / EVENTS) == seal.digests.get(EVENTS):
            return []
    except AuditError as error:
        return [error.message]
    signed = seal.predicate.get("events")
    if signed != len(log):
        return [f"was cut or added to: {len(log)} events, {printable(signed)} were signed"]
    return ["is not what was signed: the last event was altered, or all of them were written anew"]


def _files_against(
    seal: Statement | None, path: Path, log: list[Event], present: set[str]
) -> Iterator[tuple[str, str]]:
    """Compare the files with the statement; without one, with what the log says of them."""
    ended = log and log[-1].kind == events.END
    expected = dict(seal.digests) if seal else ended_files(log[-1]) if ended else _attached(log)
    for name in sorted((present | expected.keys()) - {EVENTS, STATEMENT}):
        if name not in present:
            yield name, "is missing"
        elif name in expected:
            try:
                if files.sha256_file(path / name) != expected[name]:
                    yield from ((name, fault) for fault in _how_altered(path / name, log))
            except AuditError as error:
                yield name, error.message
        elif seal or ended:
            yield name, "is not named by the statement: added after the end, or left out for what it is"


def _attached(log: Iterable[Event]) -> dict[str, str]:
    """Return the digests of the files that must not have changed since the log named them."""
    named = (event.facts for event in log if event.kind == FILE)
    return {
        facts["name"]: facts["sha256"]
        for facts in named
        if isinstance(facts.get("name"), str)
        and isinstance(facts.get("sha256"), str)
        and facts["name"] not in REWRITTEN
    }


def _how_altered(path: Path, log: Iterable[Event]) -> list[str]:
    if path.suffix != ".ipynb":
        return ["altered"]
    try:
        cells = altered_cells(files.read_small(path, MAX_NOTEBOOK), log)
    except AuditError as error:
        return [f"altered; it {error.message}"]
    return cells or ["altered, but in no recorded cell's source or output"]
