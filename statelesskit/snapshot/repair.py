"""Give snapshots back what they lack, from another place; see :mod:`.source`.

Nothing that is here is given up before something whole stands in its place, so a repair that dies leaves at
least what was there, and can be run again. A damaged pack is kept aside as ``….pack.damaged``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import DamagedError, FormatError
from statelesskit.lock import held
from statelesskit.manifest import Manifest
from statelesskit.pack import LEVEL, UNFINISHED, PackWriter
from statelesskit.progress import SILENT, Progress
from statelesskit.repack import rewrite
from statelesskit.snapshot import description
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.manifest_file import check_manifest, load_manifest, objects_of
from statelesskit.snapshot.registry import Snapshot, list_snapshots
from statelesskit.snapshot.source import Source
from statelesskit.snapshot.verify import verify_all
from statelesskit.store import LARGE, Store
from statelesskit.tree import Finding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DAMAGED = ".damaged"  # behind the name of a pack that was set aside


@dataclass(slots=True)
class Repaired:
    """What a repair did, and what it could not.

    Attributes:
        manifests: the snapshots whose manifest was restored.
        objects: how many were fetched.
        set_aside: the damaged packs of which nothing is needed any more.
        left: what a verification found afterwards, with the snapshots' names.
    """

    manifests: list[str] = field(default_factory=list)
    objects: int = 0
    set_aside: list[Path] = field(default_factory=list)
    left: list[tuple[str, Finding]] = field(default_factory=list)


def repair(site: Site, snapshots: list[Snapshot], source: Source, progress: Progress = SILENT) -> Repaired:
    """Verify snapshots, fetch what they lack, and verify them again.

    Raises:
        NoSpaceError: the disk is full.
    """
    with fs.disk_full_named(site.store):
        return _repair(site, snapshots, source, progress)


def _repair(site: Site, snapshots: list[Snapshot], source: Source, progress: Progress) -> Repaired:
    done, store = Repaired(), Store(site.store)
    for snapshot in snapshots:
        if _restore_manifest(site, snapshot, source, store, progress):
            done.manifests.append(snapshot.name)
    faulty: dict[Path, set[bytes]] = {}
    for _ in verify_all(site, snapshots, progress, faulty=faulty):  # so the store knows what is damaged
        pass
    store.forget()
    fetched = _fetch(store, source, _lacking(site, snapshots, store), progress)
    store.list_damaged(store.listed_damaged() - fetched)
    done.objects = len(fetched)
    done.set_aside = _set_aside(site, store, faulty, progress)
    done.left = list(verify_all(site, snapshots, progress))
    return done


def _restore_manifest(site: Site, snapshot: Snapshot, source: Source, store: Store, progress: Progress) -> bool:
    """Put a manifest in place that is damaged or missing; nothing but the right one will do."""
    with suppress(DamagedError):
        check_manifest(site, snapshot)
        _heal_manifest_file(site, snapshot)
        return False
    progress.stage(f"looking for the manifest of {snapshot.name}")
    text = source.manifest(snapshot.digest, store, progress)
    if text is None or "sha256:" + hashlib.sha256(text).hexdigest() != snapshot.digest:
        return False
    try:
        Manifest.parse(text)
    except FormatError:
        return False
    fs.write_file(site.snapshots / snapshot.name / MANIFEST, zstd.compress(text, level=3), mode=0o444)
    _heal_manifest_file(site, snapshot)
    return True


def _heal_manifest_file(site: Site, snapshot: Snapshot) -> None:
    lock = site.lock_file("snapshots")
    with held(lock, what="the list of snapshots", doing=f"repairing {snapshot.name}", wait_s=30):
        description.heal_manifest_file(site.snapshots / snapshot.name)


def _lacking(site: Site, snapshots: Iterable[Snapshot], store: Store) -> dict[bytes, bytes]:
    """Return the objects that snapshots need and that are missing or damaged, each with a path it has."""
    found: dict[bytes, bytes] = {}
    for snapshot in snapshots:
        try:
            missing = set(store.missing(objects_of(site, snapshot)))
            if not missing <= found.keys():
                for entry in load_manifest(site, snapshot).entries():
                    if entry.type == "file" and (digest := bytes.fromhex(entry.sha256)) in missing:
                        found.setdefault(digest, entry.path)
        except DamagedError:  # its manifest could not be restored, so nobody knows what it needs
            continue
    return found


def _fetch(store: Store, source: Source, lacking: dict[bytes, bytes], progress: Progress) -> set[bytes]:
    """Fetch objects into a new pack, each held against its digest; return those that could be had."""
    source.expect(lacking)
    progress.stage("fetching objects", total=len(lacking), unit="objects")
    fetched = set()
    fs.remove_leftovers(store.packs / UNFINISHED)
    writer = PackWriter(store.packs, level=LEVEL)
    try:
        for digest in lacking:
            if _add(writer, digest, source.read(digest)):
                fetched.add(digest)
            progress.advance()
        writer.seal()
        if writer.publish():
            fs.fsync_folder(store.packs)
    finally:
        writer.abandon()
    store.forget()
    return fetched


def _add(writer: PackWriter, digest: bytes, pieces: Iterator[bytes]) -> bool:
    """Append an object if it is what its name says; small ones share frames."""
    content, size = [], 0
    try:
        for piece in pieces:
            content.append(piece)
            size += len(piece)
            if size >= LARGE:
                found, _ = writer.add_stream(_chained(content, pieces))
                if found != digest:
                    writer.undo()
                return found == digest
    except DamagedError:
        return False
    whole = b"".join(content)
    if hashlib.sha256(whole).digest() != digest:
        return False
    writer.add(digest, whole)
    return True


def _chained(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    while first:
        yield first.pop(0)
    yield from rest


def _set_aside(site: Site, store: Store, faulty: dict[Path, set[bytes]], progress: Progress) -> list[Path]:
    """Carry over what can be read of damaged packs, and set aside those of which nothing else is needed."""

    def has_no_other(digest: bytes) -> bool:
        return faulty.keys() >= set(store.packs_with(digest))

    needed = _needed(site)
    spent = [
        path
        for path, damaged in faulty.items()
        if not any(has_no_other(digest) and (needed is None or digest in needed) for digest in damaged)
    ]
    if spent:
        made = rewrite(store, spent, _Where(has_no_other), level=LEVEL, progress=progress).packs
        spent = [path for path in spent if path not in made]  # a damage that hurt nothing is mended by that
    if store.damaged and needed is not None and not store.missing(needed):
        spent += store.damaged  # nobody can say what is in them, but nothing is missing
    with held(
        site.lock_file("snapshots"), what="the list of snapshots", doing="setting damaged packs aside", wait_s=30
    ):
        for path in spent:
            fs.rename(path, path.with_name(path.name + DAMAGED))
        fs.fsync_folder(store.packs)
    store.forget()
    return spent


class _Where:
    """All digests of which something is true."""

    def __init__(self, true_of: Callable[[bytes], bool]) -> None:
        self._true_of = true_of

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, bytes) and self._true_of(digest)


def _needed(site: Site) -> set[bytes] | None:
    """Return what the site's snapshots need; None when a manifest can't be read, so that nobody knows."""
    needed: set[bytes] = set()
    try:
        for snapshot in list_snapshots(site):
            needed |= objects_of(site, snapshot)
    except DamagedError:
        return None
    return needed
