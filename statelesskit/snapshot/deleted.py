"""What was deleted, so that no name and no place in the order is ever given twice: ``snapshots/deleted.jsonl``.

A line of JSON for each deleted snapshot, appended and flushed before the snapshot goes. A crash may leave a
last line that is cut off; it stands for nothing, and the next line begins anew. A snapshot that is there was
not deleted, whatever the list says: then only the intention was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
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
