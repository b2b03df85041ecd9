"""Delete a snapshot, and list it in ``snapshots/deleted.jsonl``: no name and no place in the order is given twice.

A line of JSON for each deleted snapshot, appended and flushed before the snapshot goes. A crash may leave a
last line that is cut off; it stands for nothing, and the next line begins anew. A snapshot that is there was
not deleted, whatever the list says: then only the intention was written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.lock import held
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
    """Return what was deleted, the oldest first; lines that cannot be read are passed over."""
    found: list[Deletion] = []
    with suppress(FileNotFoundError), (site.snapshots / DELETED).open("rb") as lines:
        found += _readable(lines)
    return found


def _readable(lines: Any) -> Iterator[Deletion]:
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            data = json.loads(line)
            yield Deletion(**{name: kind(data[name]) for name, kind in _KINDS.items()})


_KINDS: dict[str, type] = {name: int if name == "sequence" else str for name in Deletion.__slots__}


def note_deletion(site: Site, snapshot: Snapshot, *, deleted_at: str, deleted_by: str, record: str) -> None:
    """Append a line, durably. The caller holds the lock on the list of snapshots."""
    about = {
        "name": snapshot.name,
        "prototype": snapshot.prototype,
        "sequence": snapshot.sequence,
        "digest": snapshot.digest,
        "deleted_at": deleted_at,
        "deleted_by": deleted_by,
        "record": record,
    }
    with fs.disk_full_named(site.snapshots / DELETED):
        fd = fs.open_log(site.snapshots / DELETED, 0o644)
        try:
            size = os.fstat(fd).st_size
            torn = size and os.pread(fd, 1, size - 1) != b"\n"
            fs.append_line(fd, (b"\n" if torn else b"") + fs.canonical_json(about))
        finally:
            os.close(fd)
        fs.fsync_folder(site.snapshots)


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
