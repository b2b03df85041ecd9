"""Bring the directory up to date with the site's disk: prototypes and snapshots it does not know yet.

Taking a snapshot needs no directory; the entry is made at the next contact.
"""

from __future__ import annotations

from statelesskit.config import Site
from statelesskit.directory import Directory, PrototypeEntry, SnapshotEntry
from statelesskit.prototype import list_prototypes
from statelesskit.snapshot import Snapshot, list_snapshots


def register(site: Site, directory: Directory) -> list[str]:
    """Add what is missing, and return its names. Entries that are there are left as they are."""
    added = []
    known = {entry.name for entry in directory.prototypes()}
    for prototype in list_prototypes(site):
        if prototype.name not in known:
            directory.add_prototype(PrototypeEntry(prototype.name, prototype.note))
            added.append(prototype.name)
    states = {entry.name: entry.state for entry in directory.snapshots()}
    for snapshot in list_snapshots(site):
        if snapshot.name not in states:
            directory.add_snapshot(entry_of(snapshot))
            added.append(snapshot.name)
        elif states[snapshot.name] != snapshot.state:
            directory.set_snapshot_state(snapshot.name, states[snapshot.name], snapshot.state)
    return added


def entry_of(snapshot: Snapshot) -> SnapshotEntry:
    """Return what the directory says of a snapshot."""
    return SnapshotEntry(
        name=snapshot.name,
        prototype=snapshot.prototype,
        digest=snapshot.digest,
        state=snapshot.state,
        created_at=snapshot.taken_at,
        parent=snapshot.parent or None,
        size_bytes=snapshot.bytes,
        files=snapshot.files,
        note=snapshot.note,
    )
