"""Delete a snapshot, and list it in ``snapshots/deleted.jsonl``: no name and no place in the order is given twice.

A line of JSON for each deleted snapshot, with a checksum as in :mod:`.description`, added and flushed before the
snapshot goes. The list is always replaced as a whole, so a crash never tears a line: one that cannot be read was
damaged, which a verification says, and what is still legible of it counts. A snapshot that is there was not
deleted, whatever the list says: then only the intention was written.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import NameInvalidError
from statelesskit.lock import held
from statelesskit.names import prototype_of
from statelesskit.snapshot.description import CHECKSUM, altered, checksum
from statelesskit.snapshot.registry import Snapshot

DELETED = "deleted.jsonl"


@dataclass(frozen=True, slots=True)
class Deletion:
    """One snapshot that is no more, as its list keeps it."""

    name: str
    prototype: str
    sequence: int
    digest: str
    deleted_at: str
    deleted_by: str
    record: str


def deletions(site: Site) -> list[Deletion]:
    """Return what was deleted, the oldest first; of damaged lines what is still legible, "" and 0 for the rest."""
    found: list[Deletion] = []
    damaged = b""  # lines in a row: a newline that comes or goes makes one into two, or two into one
    for line in _lines(site):
        if one := _read(line):
            found += _legible(damaged)
            found.append(one)
            damaged = b""
        else:
            damaged += line
    return found + _legible(damaged)


def faults(site: Site) -> list[str]:
    """Say which lines are not as they were written."""
    found = []
    for number, line in enumerate(_lines(site), start=1):
        if not _read(line):
            fault = "cannot be read"
        elif altered(about := json.loads(line)):
            fault = f"was altered: its fields do not have the {CHECKSUM} it names"
        elif CHECKSUM not in about:
            fault = f"has no {CHECKSUM}, so a change of it would not be seen"
        else:
            continue
        found.append(f"{site.snapshots / DELETED}: line {number} {fault}; restore the list from a backup of the site")
    return found


def _lines(site: Site) -> list[bytes]:
    try:
        return (site.snapshots / DELETED).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _read(line: bytes) -> Deletion | None:
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        data = json.loads(line)
        return Deletion(**{name: kind(data[name]) for name, kind in _KINDS.items()})
    return None


_KINDS: dict[str, type] = {name: int if name == "sequence" else str for name in Deletion.__slots__}
_NAME = re.compile(rb'"name":"([A-Za-z0-9._-]+)"')
_SEQUENCE = re.compile(rb'"sequence":([0-9]{1,15})\b')
_DIGEST = re.compile(rb'"digest":"(sha256:[0-9a-f]{64})"')


def _legible(damaged: bytes) -> list[Deletion]:
    """Return the names in damaged lines. Each has the highest number that is there: to skip some does no harm."""
    found = []
    sequence = max(map(int, _SEQUENCE.findall(damaged)), default=0)
    names, digests = _NAME.findall(damaged), _DIGEST.findall(damaged)
    for name in (one.decode() for one in names):
        with suppress(NameInvalidError):
            digest = digests[0].decode() if len(names) == len(digests) == 1 else ""
            found.append(Deletion(name, prototype_of(name), sequence, digest, "", "", ""))
    return found


def note_deletion(site: Site, snapshot: Snapshot, *, deleted_at: str, deleted_by: str, record: str) -> None:
    """Add a line, durably. The caller holds the lock on the list of snapshots."""
    about = {
        "name": snapshot.name,
        "prototype": snapshot.prototype,
        "sequence": snapshot.sequence,
        "digest": snapshot.digest,
        "deleted_at": deleted_at,
        "deleted_by": deleted_by,
        "record": record,
    }
    lines = b"".join(_lines(site))
    line = fs.canonical_json(about | {CHECKSUM: checksum(about)}) + b"\n"
    fs.write_file(site.snapshots / DELETED, lines + (b"" if lines.endswith(b"\n") or not lines else b"\n") + line)


def delete(site: Site, snapshot: Snapshot, *, by: str, record: str) -> None:
    """Take a snapshot out of the list, durably; its contents stay until they are collected.

    The caller holds the snapshot's lock, has seen that nothing needs it, and has taken it out of the directory.
    """
    folder = site.snapshots / snapshot.name
    gone = fs.partial_name(site.snapshots / snapshot.prototype)  # which the next take or collection cleans up
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # tells it from a dead one's leftover while it is being removed
        with held(site.lock_file("snapshots"), what="the list of snapshots", doing="deleting a snapshot", wait_s=60):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            note_deletion(site, snapshot, deleted_at=now, deleted_by=by, record=record)
            with fs.disk_full_named(folder):
                fs.rename_durably(folder, gone)
        fs.remove_tree(gone)
    finally:
        os.close(fd)
