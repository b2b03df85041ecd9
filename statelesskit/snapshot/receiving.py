"""Take in a snapshot that another site sends; see :mod:`.wire`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import ConflictError, DamagedError, ExistsError, FormatError, RefusedError
from statelesskit.names import prototype_of
from statelesskit.snapshot import description
from statelesskit.snapshot.deleted import deletions
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.manifest_file import load_manifest
from statelesskit.snapshot.publish import CollectedError, Place, publish
from statelesskit.snapshot.registry import Snapshot, list_snapshots, load, snapshot_of
from statelesskit.snapshot.wire import DIGEST, VERSION, Wire
from statelesskit.store import LARGE, Store, Writer

MANIFEST_MAX = 1024**3  # bytes at rest
TRIES = 5  # how often what is missing is asked for, while somebody collects here


@dataclass(slots=True)
class Received:
    """What came: the snapshot as it is here, and how much had to be moved for it."""

    snapshot: Snapshot
    objects: int = 0
    content_bytes: int = 0


def is_here(site: Site, name: str, digest: str) -> bool:
    """Say whether a snapshot of that name and digest is here.

    Raises:
        NameInvalidError: that is no snapshot's name.
        RefusedError: another one has that name.
    """
    prototype_of(name)
    there = (site.snapshots / name).exists()
    known = [load(site, name).digest] if there else [gone.digest for gone in deletions(site) if gone.name == name]
    if other := [one for one in known if one != digest]:
        raise RefusedError(
            f"there is, or was, another {name} at {site.root}: its digest is {other[0] or 'not known any more'}, "
            f"not {digest}",
            hint="the two sites took snapshots of one name in the same second; take a new one and copy that",
        )
    return there


def receive(site: Site, name: str, digest: str, wire: Wire) -> Received:
    """Take in the snapshot; it gets the next place in this site's order, and is staged here.

    On any error, and after a crash at any moment, there is no snapshot, at most objects that nothing names.

    Raises:
        FormatError, DamagedError: what came is not what it should be.
        RefusedError: it is revoked, or another one has that name.
        NoSpaceError: the disk is full.
    """
    try:
        return _receive(site, name, digest, wire)
    except EOFError as error:
        raise FormatError(f"{name} did not come whole: {error}", hint="copy it again") from error


def _receive(site: Site, name: str, digest: str, wire: Wire) -> Received:
    wire.say(**{"statelesskit-copy": VERSION})
    heard = wire.hear()
    about = heard.get("about")
    there = _described(about, name, digest)
    assert isinstance(about, dict)
    with fs.work_folder(site.snapshots / there.prototype) as partial:
        data = wire.receive(wire.number(heard, "manifest_bytes", MANIFEST_MAX))
        fs.write_file(partial / MANIFEST, data, mode=0o444)
        # Read from the folder it lies in, and every entry checked: it comes into the site here.
        there, sizes = _counted(site, replace(there, name=partial.name))
        there = replace(there, name=name)
        received, store = Received(there), Store(site.store)
        for _ in range(TRIES):
            while missing := store.missing(sizes):
                _ask(wire, store, missing, sizes)
                received.objects += len(missing)
                received.content_bytes += sum(sizes[digest] for digest in missing)
            try:
                received.snapshot = _publish(site, partial, about, there, store)
            except CollectedError:
                continue
            wire.say(missing=0)
            return received
    raise ConflictError(f"objects of {name} went as often as they came", hint="somebody collects here; try again")


def _described(about: Any, name: str, digest: str) -> Snapshot:
    try:
        if not isinstance(about, dict):
            raise ValueError("it is no object")
        there = snapshot_of(about)
        if description.altered(about):
            raise ValueError("it was altered")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"what the other side says about {name} cannot be read: {error}") from error
    if (there.name, there.digest, there.prototype) != (name, digest, prototype_of(name)):
        raise FormatError(f"the other side sends {there.name[:100]!r} where {name} was announced")
    if there.state == "revoked":
        raise RefusedError(f"{name} is revoked; it must not spread", hint="copy another one")
    return there


def _counted(site: Site, snapshot: Snapshot) -> tuple[Snapshot, dict[bytes, int]]:
    """Check a manifest; return the snapshot with what it really holds, and the length of each object."""
    sizes: dict[bytes, int] = {}
    entries = files = total = 0
    for entry in load_manifest(site, snapshot).entries():
        entries += 1
        if entry.type == "file":
            files, total = files + 1, total + entry.size
            if sizes.setdefault(bytes.fromhex(entry.sha256), entry.size) != entry.size:
                raise FormatError(f"the manifest gives the object {entry.sha256} two lengths")
    return replace(snapshot, entries=entries, files=files, bytes=total), sizes


def _ask(wire: Wire, store: Store, missing: list[bytes], sizes: dict[bytes, int]) -> None:
    """Ask for objects and put them into the store; all or none."""
    wire.say(missing=len(missing))
    wire.send(b"".join(missing))
    wire.flush()
    left = set(missing)
    with Writer(store, 1) as writer:
        while left:
            digest = wire.receive(DIGEST)
            if digest not in left:
                raise FormatError("the other side sends an object nobody asked for")
            left.discard(digest)
            _put(writer, digest, wire.receive_pieces(sizes[digest]), sizes[digest])
        writer.finish()


def _put(writer: Writer, digest: bytes, pieces: Iterator[bytes], size: int) -> None:
    found = writer.add(0, b"".join(pieces)) if size < LARGE else writer.add_stream(0, pieces)[0]
    if found != digest:
        raise DamagedError(f"what came for the object {digest.hex()} has the digest {found.hex()}")


def _publish(site: Site, partial: Path, about: dict[str, Any], there: Snapshot, store: Store) -> Snapshot:
    def describe(place: Place) -> Snapshot:
        if is_here(site, there.name, there.digest):
            raise ExistsError(f"{there.name} came on another way meanwhile")
        listed = {other.name for other in list_snapshots(site, there.prototype)}
        return replace(
            there,
            sequence=place.sequence,
            parent=there.parent if there.parent in listed else "",
            state="deprecated" if there.state == "deprecated" else "staged",
        )

    try:
        return publish(site, partial, there.prototype, store, store.seen_packs(), describe, about)
    except ExistsError:
        return load(site, there.name)
