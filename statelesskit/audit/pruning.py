"""Records whose files were given up: the statement stays, and with it who did what, and every file's digest.

The record of the run that did it holds the file ``pruned``, in the form of the log's entries; whoever verifies
takes a file for given up only where a sealed record says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from statelesskit import fs
from statelesskit.audit import files, log, statement
from statelesskit.audit.listing import list_records
from statelesskit.audit.log import Entry
from statelesskit.audit.records import EVENTS
from statelesskit.audit.statement import MAX_STATEMENT, STATEMENT
from statelesskit.errors import AuditError

WHAT, PRUNED = "audit prune", "pruned"  # the verb, and the file in its record
MAX_PRUNED = 64 << 20  # bytes


def prunable(records_dir: Path, public: str, before: datetime) -> list[Entry]:
    """Return the records that ended before then and still have files, as the log has them; no record of a prune.

    Raises:
        AuditError: the log is not whole, so that nothing is sure to be in it.
    """
    if not (records_dir / log.LOG).exists():
        return []  # nothing has ended yet
    read = log.read(records_dir / log.LOG, public)
    if read.faults:
        name, fault = read.faults[0]
        raise AuditError(f"nothing can be pruned: the log's {name} {fault}", hint="`statelesskit audit verify`")
    old = {one.name for one in list_records(records_dir) if one.ended_at and one.ended_at < before}
    return [entry for entry in read.entries if entry.record in old and _has_files(records_dir / entry.record)]


def size_bytes(path: Path) -> int:
    """Return what pruning a record would free."""
    return sum(child.lstat().st_size for child in path.iterdir() if child.name != STATEMENT)


def prune(path: Path) -> None:
    """Remove all of a record but its statement; killed in between, do it again."""
    # So long as the events are there, the record is listed as one that is whole.
    for child in sorted(path.iterdir(), key=lambda one: one.name == EVENTS):
        if child.name != STATEMENT:
            fs.remove_tree(child)
    fs.fsync_folder(path)


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the file ``pruned``."""
    return b"".join(entry.encode() + b"\n" for entry in entries)


def pruned_records(records_dir: Path, public: str) -> set[Entry]:
    """Return what sealed records say was pruned; what is altered says nothing."""
    found: set[Entry] = set()
    sealer = log.sealer_of(records_dir, public)
    for path in records_dir.glob("*-audit-prune-*"):
        try:
            seal = statement.verify(files.read_small(path / STATEMENT, MAX_STATEMENT), sealer(path.name))
            right = seal.predicate.get("name") == path.name and seal.predicate.get("what") == WHAT
            if right and seal.digests.get(PRUNED) == files.sha256_file(path / PRUNED):
                found |= {*log.decode(files.read_small(path / PRUNED, MAX_PRUNED))[0]}
        except AuditError:
            continue
    return found


def _has_files(path: Path) -> bool:
    """Say whether a record holds more than its statement, and is not itself needed to judge others.

    Such are those of prunes, and those of schedules, which say what was approved and when it was due.
    """
    names = {child.name for child in path.iterdir()}
    return PRUNED not in names and names != {STATEMENT} and "-schedule-" not in path.name
