"""Bring the directory up to date with the site's disk: prototypes and snapshots it does not know yet.

The same contact enters the pushes whose line in the history was lost.

Taking a snapshot needs no directory; the entry is made at the next contact.
"""

from __future__ import annotations

from contextlib import suppress

from statelesskit.config import Site
from statelesskit.directory import Directory, PrototypeEntry, SnapshotEntry
from statelesskit.directory.pushes import complete_history
from statelesskit.errors import ExistsError, NotFoundError
from statelesskit.prototype import list_prototypes
from statelesskit.snapshot import Snapshot, list_snapshots, load


def register(site: Site, directory: Directory) -> list[str]:
    """Add what is missing, and return its names. Entries that are there are left as they are.

    Several may do this at once, each for an action of its own: what another has just entered is as good as ours.
    """
    added = []
    snapshots = list_snapshots(site)  # before the prototypes, so that each one's prototype is among those
    known = {entry.name for entry in directory.prototypes()}
    # Of an imported snapshot the prototype may have no tree here.
    notes = {snapshot.prototype: "" for snapshot in snapshots}
    notes |= {prototype.name: prototype.note for prototype in list_prototypes(site)}
    for name, note in notes.items():
        if name not in known:
            with suppress(ExistsError):
                directory.add_prototype(PrototypeEntry(name, note))
                added.append(name)
    states = {entry.name: entry.state for entry in directory.snapshots()}
    for snapshot in snapshots:
        if snapshot.name not in states:
            added += _enter(site, directory, snapshot.name)
        elif states[snapshot.name] != snapshot.state:
            directory.set_snapshot_state(snapshot.name, states[snapshot.name], snapshot.state)
    complete_history(directory)
    return added


def _enter(site: Site, directory: Directory, name: str) -> list[str]:
    """Enter one snapshot as the disk has it now; not one that is deleted meanwhile.

    Who deletes takes it out of the directory before it goes and once more when it is gone, so whichever of
    the two is last finds the other's work.
    """
    with suppress(ExistsError, NotFoundError):
        directory.add_snapshot(entry_of(load(site, name)))
        if (site.snapshots / name).exists():
            return [name]
        directory.remove_snapshot(name)
    return []


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
