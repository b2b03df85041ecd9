"""Snapshots on disk: take, list, load, verify.

``snapshots/NAME/`` holds ``snapshot.json`` (what is said about it) and ``manifest.jsonl.zst`` (what it is).
The folder appears when both are whole and every object they need is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import DamagedError, FormatError, NotFoundError, RefusedError, UsageError
from statelesskit.lock import held, user_name
from statelesskit.manifest import HEADER, Manifest
from statelesskit.names import prototype_of, snapshot_name
from statelesskit.progress import SILENT, Progress
from statelesskit.prototype import load as load_prototype
from statelesskit.store import Store
from statelesskit.take import Taken, take_tree
from statelesskit.tree import Finding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMAT = 1
MANIFEST_MAX = 4 * 1024**3  # bytes, decompressed; more than ten million files need
# A state may only move forward: what was released is never quietly "staged" again.
STATES = ("staged", "tested", "released", "deprecated", "revoked")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable point in time of a prototype.

    Attributes:
        sequence: its place in the order of the prototype's snapshots; the clock is never asked.
        digest: ``sha256:…`` of the manifest, the snapshot's identity.
        files, bytes: how many regular files, and the sum of their lengths.
        state, note: what people say of it; the only things that change.
    """

    name: str
    prototype: str
    sequence: int
    taken_at: datetime
    taken_by: str
    parent: str
    digest: str
    entries: int
    files: int
    bytes: int
    state: str = "staged"
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"taken_at": self.taken_at.isoformat()}


def take(site: Site, prototype: str, *, note: str = "", progress: Progress = SILENT) -> tuple[Snapshot, Taken]:
    """Take a snapshot of a prototype's tree as it stands now.

    The caller holds the prototype's lock. On any error, and after a crash at any moment, there is no
    snapshot, at most objects in the store that nothing names.

    Raises:
        NotFoundError: no such prototype.
        NoSpaceError: the store's disk is full.
    """
    tree = load_prototype(site, prototype).tree
    # Whoever takes holds the prototype's lock, so what an earlier take of it left is a dead one's.
    for leftover in site.snapshots.glob(f".{prototype}{fs.PARTIAL}*"):
        fs.remove_tree(leftover)
    partial = fs.partial_name(site.snapshots / prototype)
    with fs.disk_full_named(site.snapshots):
        partial.mkdir(mode=0o755)
        try:
            taken, digest = _write_manifest(partial / "manifest.jsonl.zst", tree, Store(site.store), progress)
            with held(site.lock_file("snapshots"), what="the list of snapshots", doing="naming a snapshot", wait_s=30):
                snapshot = _named(site, prototype, digest, taken, note)
                fs.write_json(partial / "snapshot.json", {"format": FORMAT} | snapshot.as_json())
                fs.rename_durably(partial, site.snapshots / snapshot.name)
        except BaseException:
            fs.remove_tree(partial)
            raise
    return snapshot, taken


def _write_manifest(path: Path, tree: Path, store: Store, progress: Progress) -> tuple[Taken, str]:
    total = hashlib.sha256()
    compressor = zstd.ZstdCompressor(level=3)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:

        def emit(line: bytes) -> None:
            total.update(line)
            if packed := compressor.compress(line):
                fs.write_all(fd, packed)

        emit(HEADER)
        taken = take_tree(tree, store, emit, progress)
        fs.write_all(fd, compressor.flush())
        fs.fsync(fd)
    finally:
        os.close(fd)
    return taken, "sha256:" + total.hexdigest()


def _named(site: Site, prototype: str, digest: str, taken: Taken, note: str) -> Snapshot:
    """Give the snapshot the next name and place; the caller holds the lock on the list."""
    others = list_snapshots(site, prototype)
    now = datetime.now(UTC)
    return Snapshot(
        name=snapshot_name(prototype, now, {path.name for path in site.snapshots.iterdir()}),
        prototype=prototype,
        sequence=others[-1].sequence + 1 if others else 1,
        taken_at=now,
        taken_by=user_name(),
        parent=others[-1].name if others else "",
        digest=digest,
        entries=taken.entries,
        files=taken.files,
        bytes=taken.bytes,
        note=note,
    )


def list_snapshots(site: Site, prototype: str | None = None) -> list[Snapshot]:
    """Return the site's snapshots, or a prototype's, in their stored order."""
    found = [_load(path.parent) for path in site.snapshots.glob("[!.]*/snapshot.json")]
    wanted = [snapshot for snapshot in found if prototype in (None, snapshot.prototype)]
    return sorted(wanted, key=lambda snapshot: (snapshot.prototype, snapshot.sequence))


def load(site: Site, name: str) -> Snapshot:
    """Return one snapshot.

    Raises:
        NameInvalidError: that is no snapshot's name.
        NotFoundError: there is none of that name.
    """
    prototype_of(name)
    path = site.snapshots / name
    if not (path / "snapshot.json").exists():
        near = get_close_matches(name, [other.name for other in list_snapshots(site)], n=1)
        raise NotFoundError(
            f"there is no snapshot {name}",
            hint=f"did you mean {near[0]}?" if near else "statelesskit snapshot list shows all",
        )
    return _load(path)


def _load(path: Path) -> Snapshot:
    try:
        data = json.loads((path / "snapshot.json").read_bytes())
        if data.pop("format") != FORMAT:
            raise FormatError(f"{path / 'snapshot.json'} is of a format this tool does not know")
        known = {name: data[name] for name in Snapshot.__slots__}
        known["taken_at"] = datetime.fromisoformat(known["taken_at"])
        return Snapshot(**known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path / 'snapshot.json'} cannot be read: {error}", hint="restore it from a backup of the site"
        ) from error


def load_manifest(site: Site, snapshot: Snapshot) -> Manifest:
    """Read a snapshot's manifest, check it is the one the snapshot is named for, and every entry of it.

    Raises:
        DamagedError: it is missing, cut off, or its digest is another.
    """
    path = site.snapshots / snapshot.name / "manifest.jsonl.zst"
    try:
        decompressor = zstd.ZstdDecompressor()
        text = decompressor.decompress(path.read_bytes(), max_length=MANIFEST_MAX)
    except (OSError, zstd.ZstdError) as error:
        raise DamagedError(f"the manifest {path} cannot be read: {error}") from error
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    if digest != snapshot.digest or not decompressor.eof:
        raise DamagedError(f"the manifest {path} is damaged: its digest is {digest}, expected {snapshot.digest}")
    return Manifest.parse(text)


def verify(site: Site, snapshot: Snapshot, progress: Progress = SILENT) -> Iterator[Finding]:
    """Read every byte a snapshot needs, and yield what is not as its manifest says."""
    try:
        manifest = load_manifest(site, snapshot)
    except DamagedError as error:
        yield Finding(b"", error.message)
        return
    wanted: dict[bytes, list[tuple[bytes, int]]] = {}
    for entry in manifest.entries():
        if entry.type == "file":
            wanted.setdefault(bytes.fromhex(entry.sha256), []).append((entry.path, entry.size))
    store = Store(site.store)
    progress.stage(f"verifying {snapshot.name}", total=len(wanted), unit="files")
    for digest in store.in_stored_order(set(wanted)):
        fault = ""
        try:
            size = sum(map(len, store.read(digest)))
        except DamagedError as error:
            fault = error.message
        for path, expected in wanted[digest]:
            if fault or size != expected:
                yield Finding(path, fault or f"it is {size} bytes long, the manifest says {expected}")
        progress.advance()


def check_state(snapshot: Snapshot, state: str) -> None:
    """Say whether a snapshot may move to a state.

    Raises:
        UsageError: there is no such state.
        RefusedError: that would be a step back.
    """
    if state not in STATES:
        raise UsageError(f"there is no state {state!r}", hint="the states are, in order: " + ", ".join(STATES))
    if STATES.index(state) < STATES.index(snapshot.state):
        raise RefusedError(
            f"{snapshot.name} is {snapshot.state}; it can't become {state} again",
            hint="take a new snapshot of the prototype instead",
        )


def set_state(site: Site, name: str, state: str) -> tuple[Snapshot, Snapshot]:
    """Move a snapshot to a later state; return it as it was and as it is. Raises as :func:`check_state`."""
    with held(site.lock_file("snapshots"), what="the list of snapshots", doing=f"making {name} {state}", wait_s=30):
        before = load(site, name)
        check_state(before, state)
        path = site.snapshots / name / "snapshot.json"
        fs.write_json(path, json.loads(path.read_bytes()) | {"state": state})
    return before, replace(before, state=state)
