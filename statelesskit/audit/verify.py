"""The check of records, by anybody who holds the public key: offline, trusting nothing in the folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from statelesskit.audit import events, files, keys, statement
from statelesskit.audit.attested import unattested_claims, unattested_events
from statelesskit.audit.cells import altered_cells
from statelesskit.audit.checkpoint import Checkpoint
from statelesskit.audit.completeness import told_twice
from statelesskit.audit.events import Event
from statelesskit.audit.handover import read_keys
from statelesskit.audit.listing import is_at_work, record_folders, state_of
from statelesskit.audit.log import ENTRIES, LOG, Log, older_faults, sealer_of
from statelesskit.audit.log import read as read_log
from statelesskit.audit.pruning import pruned_records
from statelesskit.audit.records import EVENTS, FILE, NOTEBOOK, REWRITTEN, ended_files
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


def verify_records(records_dir: Path, public_key: str, seen: Iterable[Checkpoint] = ()) -> list[Finding]:
    """Return what is wrong with the records in a folder and with their log; see :func:`verify_record`.

    A run that still goes on is not wrong.

    Args:
        public_key: one of the keys that sealed them; the others follow from the log's hand-overs.
        seen: checkpoints known from elsewhere, that the log must have grown from.
    """
    sealer, sealers = sealer_of(records_dir, public_key), read_keys(records_dir / LOG, public_key)
    paths = {path.name: path for path in record_folders(records_dir)}
    ended = [path for path in paths.values() if (path / STATEMENT).exists() or not is_at_work(path)]
    pruned = {entry.record: entry.sha256 for entry in pruned_records(records_dir, public_key)}
    found = [finding for path in ended for finding in _verified(path, sealer(path.name), pruned.get(path.name, ""))]
    if not (records_dir / LOG).exists() and not any((path / STATEMENT).exists() for path in paths.values()):
        return found  # nothing has ended yet
    log = read_log(records_dir / LOG, public_key)
    if idle := [path for path in _not_entered(log, paths) if not is_at_work(path)]:
        log = read_log(records_dir / LOG, public_key)  # they may have been entered since, and their writers gone then
    if log.keys != sealers:  # the key was rotated meanwhile
        return verify_records(records_dir, public_key, seen)
    found += [Finding(LOG, *fault) for fault in log.faults]
    found += [Finding(LOG, ENTRIES, text) for one in seen for text in older_faults(log, one)]
    found += [Finding(printable(name), EVENTS, text) for name, text in told_twice(ended)]
    return [*found, *_against_log(log, records_dir), *_past_log(log, idle)]


def _against_log(log: Log, records_dir: Path) -> Iterator[Finding]:
    """Hold the log against the records: what it names must be there, and be that."""
    for number, entry in enumerate(log.entries, 1):
        path = records_dir / entry.record
        if not path.is_dir():
            yield Finding(entry.record, "", f"is missing: entry {number} of the log is its statement")
            continue
        with suppress(AuditError):  # what can't be read was found before
            if files.sha256_file(path / STATEMENT) != entry.sha256:
                yield Finding(entry.record, STATEMENT, f"is not the one that entry {number} of the log names")


def _not_entered(log: Log, paths: dict[str, Path]) -> list[Path]:
    names = paths.keys() - {entry.record for entry in log.entries}
    return [paths[name] for name in sorted(names) if (paths[name] / STATEMENT).exists()]


def _past_log(log: Log, sealed: list[Path]) -> Iterator[Finding]:
    why = "was put there past it, its writer was killed (then the next record completes it), or the log was cut"
    for path in _not_entered(log, {path.name: path for path in sealed}):
        yield Finding(printable(path.name), "", f"is not in the log: it {why}")


def verify_record(path: Path, public_key: str, pruned: str = "") -> list[Finding]:
    """Return what is wrong with a record; nothing, if it is sealed and every byte is as it was then.

    Whatever the folder holds becomes a finding, never an exception.

    Args:
        public_key: the line of ``record.pub``, from a place the server could not change; with the log beside the
            record, that of any key that was handed over.
        pruned: the digest of the statement, if the files were given up; see :mod:`pruning`.

    Raises:
        UsageError: ``public_key`` is none.
    """
    path = path.absolute()
    return _verified(path, sealer_of(path.parent, public_key)(path.name), pruned)


def _verified(path: Path, public_key: str, pruned: str) -> list[Finding]:
    keys.fingerprint(public_key)  # before anything else: a wrong key says nothing about the record
    missing = "" if not pruned else "is missing"
    with suppress(AuditError):
        missing = missing if missing and files.sha256_file(path / STATEMENT) == pruned else ""
    return [
        Finding(printable(path.name), printable(file), text)
        for file, text in _check(path, public_key)
        if text != missing or file == STATEMENT
    ]


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
    yield from ((EVENTS, fault) for fault in (*faults, *unattested_events(log)))
    if NOTEBOOK in present:
        with suppress(AuditError):  # what can't be read is found below
            notebook = files.read_small(path / NOTEBOOK, MAX_NOTEBOOK)
            yield from ((NOTEBOOK, fault) for fault in unattested_claims(notebook, log))
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
