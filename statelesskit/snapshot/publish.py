"""Make a finished folder a snapshot: the last step of taking, copying and importing.

Nobody locks the store while a tree is read into it, which may take long. Instead whoever removes packs holds
the lock on the list of snapshots while it does, and here, under the same lock, it is seen that nothing the
manifest needs was removed meanwhile. So a snapshot that is in the list has all its objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import ConflictError
from statelesskit.lock import held, user_name
from statelesskit.names import snapshot_name
from statelesskit.snapshot import description
from statelesskit.snapshot.deleted import deletions
from statelesskit.snapshot.manifest_file import objects_in
from statelesskit.snapshot.registry import FORMAT, Snapshot, list_snapshots
from statelesskit.store import Store

if TYPE_CHECKING:
    from statelesskit.take import Taken

REMOVAL = "removal"  # the lock of who removes packs
WAIT_S = 600  # for somebody else to finish


class CollectedError(ConflictError):
    """Objects that were there when they were looked up have been collected; doing it again stores them anew."""


@contextmanager
def removal_waits(site: Site, doing: str) -> Iterator[None]:
    """Have nothing removed from the store while the block runs; only for who lost to that before."""
    with held(site.lock_file(REMOVAL), what="the store", doing=doing, wait_s=WAIT_S, shared=True):
        yield


@contextmanager
def removing(site: Site) -> Iterator[None]:
    """Hold all that must be held while packs are removed.

    Raises:
        LockedError: somebody needs the store as it is; the message says who.
    """
    with (
        held(site.lock_file(REMOVAL), what="the store", doing="removing packs", wait_s=WAIT_S),
        held(site.lock_file("snapshots"), what="the list of snapshots", doing="collecting", wait_s=WAIT_S),
    ):
        yield


@dataclass(frozen=True, slots=True)
class Place:
    """What the next snapshot of a prototype is told.

    Attributes:
        names: those that are taken, by deleted snapshots too.
        parent: the newest snapshot of the prototype, "" if there is none.
        sequence: the next place in the prototype's order; none is ever used twice.
    """

    names: frozenset[str]
    parent: str
    sequence: int


def newest(prototype: str, digest: str, taken: Taken, note: str) -> Callable[[Place], Snapshot]:
    """Return what describes a snapshot that was just taken here, for :func:`publish`."""

    def describe(place: Place) -> Snapshot:
        now = datetime.now(UTC)
        return Snapshot(
            name=snapshot_name(prototype, now, place.names),
            prototype=prototype,
            sequence=place.sequence,
            taken_at=now,
            taken_by=user_name(),
            parent=place.parent,
            digest=digest,
            entries=taken.entries,
            files=taken.files,
            bytes=taken.bytes,
            note=note,
        )

    return describe


def publish(
    site: Site,
    partial: Path,
    prototype: str,
    store: Store,
    packs: frozenset[str],
    describe: Callable[[Place], Snapshot],
    more: Mapping[str, Any] = {},
) -> Snapshot:
    """Give a folder that holds a flushed manifest its description and its name.

    Args:
        packs: the names of the packs that were found to hold all the manifest's objects.
        describe: is asked, under the lock, what the snapshot is.
        more: fields of its description that this version knows nothing of.

    Raises:
        CollectedError: an object is gone; the folder is no snapshot, and nothing was changed.
    """
    with held(site.lock_file("snapshots"), what="the list of snapshots", doing="naming a snapshot", wait_s=60):
        snapshot = describe(_place(site, prototype))
        _check_objects(partial, snapshot.digest, store, packs)
        partial.chmod(0o755)
        description.write(partial, {**more, "format": FORMAT} | snapshot.as_json())
        fs.rename_durably(partial, site.snapshots / snapshot.name)
    return snapshot


def _place(site: Site, prototype: str) -> Place:
    others, gone = list_snapshots(site, prototype), [one for one in deletions(site) if one.prototype == prototype]
    names = {path.name for path in site.snapshots.iterdir()} | {one.name for one in gone}
    return Place(
        names=frozenset(names),
        parent=others[-1].name if others else "",
        sequence=max([one.sequence for one in others] + [one.sequence for one in gone], default=0) + 1,
    )


def _check_objects(partial: Path, digest: str, store: Store, packs: frozenset[str]) -> None:
    if packs <= store.pack_names():
        return
    store.forget()
    if missing := store.missing(objects_in(partial, digest)):
        raise CollectedError(
            f"{len(missing)} objects were collected from the store while this was going on",
            hint="run the same command again: it will store them anew",
        )
