"""Free what no snapshot needs any more.

Safe beside everything else: packs are removed only under the lock on the list of snapshots, after it was
listed again (see :mod:`statelesskit.snapshot.publish`), and a pack only when each object that is needed of it is
durably in another one. A crash at any moment leaves at most what the next collection removes.
"""

from __future__ import annotations

import json
from binascii import unhexlify
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.digests import DigestSet
from statelesskit.errors import DamagedError
from statelesskit.manifest import digests_in
from statelesskit.pack import LEVEL, UNFINISHED, Pack
from statelesskit.progress import SILENT, Progress
from statelesskit.repack import STRONG, remove_packs, rewrite
from statelesskit.snapshot import Snapshot, list_snapshots
from statelesskit.snapshot.manifest_file import pieces
from statelesskit.snapshot.publish import removing
from statelesskit.snapshot.whole import is_partial
from statelesskit.store import Store

GARBAGE = 0.25  # of a pack's contents; with more, the rest of it is written anew
SMALL, MANY = 16 * 1024 * 1024, 64  # bytes of a pack; more than so many small ones are merged
KNOWN = 200_000  # digests of the snapshot before that are remembered, in some 20 MB
REPACKED = "repacked.json"  # in the store: the packs that are compressed as well as it goes; derived
SET_ASIDE = "*.pack.damaged"  # what a repair replaced


@dataclass(slots=True)
class Garbage:
    """What the packs hold and nothing needs.

    Attributes:
        dead: packs that hold nothing that is needed.
        worn: packs that are to be written anew: much of them is garbage, or they are many and small, or
            compressed in haste.
        objects, content_bytes: how much of it all is not needed, uncompressed.
        stored_bytes: about what that takes on the disk.
        set_aside: damaged packs that were replaced.
    """

    dead: list[Path] = field(default_factory=list)
    worn: list[Path] = field(default_factory=list)
    objects: int = 0
    content_bytes: int = 0
    stored_bytes: int = 0
    set_aside: list[Path] = field(default_factory=list)


def needed_objects(site: Site, snapshots: Iterable[Snapshot], progress: Progress = SILENT) -> DigestSet:
    """Return the objects that these snapshots need.

    Raises:
        DamagedError: a manifest cannot be read, so nobody knows what is needed and nothing may be removed.
    """
    snapshots = list({one.digest: one for one in snapshots}.values())
    progress.stage("reading manifests", total=len(snapshots), unit="snapshots")
    needed, before = DigestSet(), set[bytes]()
    for snapshot in snapshots:
        now = set[bytes]()
        try:
            for piece in pieces(site, snapshot):
                found = set(digests_in(piece))
                for digest in found - before:  # most are those of the snapshot before
                    needed.add(unhexlify(digest))
                now |= found if len(now) < KNOWN else set()
        except DamagedError as error:
            error.hint = (
                f"nothing is removed while it is not known what {snapshot.name} needs: "
                f"repair it (snapshot verify --repair-from PLACE), or delete it"
            )
            raise
        before = now
        progress.advance()
    return needed


def find_garbage(site: Site, needed: DigestSet, *, repack: bool = False) -> Garbage:
    """Say what is to be done with each pack. Packs whose tables can't be read are left alone."""
    store, garbage = Store(site.store), Garbage()
    strong = _repacked(store)
    small = []
    for pack in store.readable_packs():
        # What is needed counts in every pack that has it: whether the other copy is whole, only reading it tells.
        unneeded = [number for number, digest in enumerate(pack.digests()) if digest not in needed]
        total, dead = sum(map(pack.size, range(len(pack)))), sum(map(pack.size, unneeded))
        stored = _size(pack.path)
        garbage.objects += len(unneeded)
        garbage.content_bytes += dead
        if len(unneeded) == len(pack):
            garbage.stored_bytes += stored
            garbage.dead.append(pack.path)
            continue
        garbage.stored_bytes += stored * dead // max(total, 1)
        if dead > GARBAGE * total or (repack and pack.path.name not in strong):
            garbage.worn.append(pack.path)
        elif stored < SMALL:
            small.append(pack.path)
    if len(small) > MANY:
        garbage.worn += small
    if not any(is_partial(site, one.name) for one in list_snapshots(site)):
        garbage.set_aside = sorted(store.packs.glob(SET_ASIDE))
    return garbage


@dataclass(slots=True)
class Freed:
    """What a collection did with the store.

    Attributes:
        bytes: by how much the packs take less on the disk; negative if they take more.
        kept: packs that could not be removed, as something needed of them is damaged, or came to be needed.
    """

    removed: int = 0
    written: int = 0
    bytes: int = 0
    kept: list[Path] = field(default_factory=list)


def free(site: Site, *, repack: bool = False, progress: Progress = SILENT) -> Freed:
    """Remove from the store what no snapshot needs, and write anew what is worn.

    Args:
        repack: compress as well as it goes what is not so yet; slow.

    Raises:
        DamagedError: as :func:`needed_objects`; nothing was removed.
        NoSpaceError: there is no room to write anew; nothing was removed.
    """
    store, before = Store(site.store), list_snapshots(site)
    for path in site.snapshots.glob(f".*{fs.PARTIAL}*"):
        fs.remove_leftovers(site.snapshots / path.name[1:].partition(fs.PARTIAL)[0])
    fs.remove_leftovers(store.packs / UNFINISHED)
    needed = needed_objects(site, before, progress)
    garbage = find_garbage(site, needed, repack=repack)
    freed, written = Freed(), []
    strong = repack or {path.name for path in garbage.worn} <= _repacked(store)
    if garbage.worn:
        level = STRONG if strong else LEVEL
        written = rewrite(store, garbage.worn, needed, level=level, progress=progress).packs
    progress.stage("removing packs")
    with removing(site):
        known = {one.digest for one in before}
        for digest in needed_objects(site, (one for one in list_snapshots(site) if one.digest not in known)):
            needed.add(digest)
        store.forget()
        doomed = [*garbage.dead, *garbage.worn]
        freed.kept = _still_needed(store, doomed, needed)
        gone = [path for path in doomed if path not in freed.kept and path not in written]
        freed.bytes = sum(map(_size, [*gone, *garbage.set_aside])) - sum(map(_size, written))
        remove_packs(store, [*gone, *garbage.set_aside])
    freed.removed, freed.written = len(gone) + len(garbage.set_aside), len(written)
    if strong:
        _note_repacked(store, [path.name for path in written])
    return freed


def _still_needed(store: Store, doomed: list[Path], needed: DigestSet) -> list[Path]:
    """Return those of some packs that hold something needed that no other pack has whole."""
    kept: list[Path] = []
    for path in doomed:
        with suppress(FileNotFoundError):
            others = {one for one in doomed if one not in kept}
            for digest in Pack(path).digests():
                if digest in needed and not any(one not in others for one in store.packs_with(digest)):
                    kept.append(path)
                    break
    return kept


def _repacked(store: Store) -> frozenset[str]:
    with suppress(OSError, ValueError, TypeError):
        return frozenset(json.loads((store.packs.parent / REPACKED).read_bytes()))
    return frozenset()


def _note_repacked(store: Store, names: list[str]) -> None:
    fs.write_json(store.packs.parent / REPACKED, sorted((_repacked(store) & store.pack_names()) | {*names}))


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
