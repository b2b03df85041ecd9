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
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import DamagedError, FormatError, NameInvalidError, NotFoundError, RefusedError, UsageError
from statelesskit.lock import held, user_name
from statelesskit.manifest import HEADER, Manifest
from statelesskit.names import printable, prototype_of, snapshot_name
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
ABOUT, MANIFEST = "snapshot.json", "manifest.jsonl.zst"
MEMORY = "take.memory"  # beside a prototype: derived, see statelesskit.memory
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


# What each field is in snapshot.json.
_KINDS = {item.name: int if item.type == "int" else str for item in fields(Snapshot)}


def take(site: Site, prototype: str, *, note: str = "", progress: Progress = SILENT) -> tuple[Snapshot, Taken]:
    """Take a snapshot of a prototype's tree as it stands now.

    The caller holds the prototype's lock. On any error, and after a crash at any moment, there is no
    snapshot, at most objects in the store that nothing names.

    Raises:
        NotFoundError: no such prototype.
        NoSpaceError: the store's disk is full.
    """
    tree = load_prototype(site, prototype).tree
    if not tree.is_dir():
        raise NotFoundError(f"the tree of the prototype {prototype} is not at {tree}", hint="has it been moved?")
    with fs.work_folder(site.snapshots / prototype) as partial:
        memory = site.prototypes / prototype / MEMORY
        taken, digest = _write_manifest(partial / MANIFEST, tree, Store(site.store), progress, memory)
        with held(site.lock_file("snapshots"), what="the list of snapshots", doing="naming a snapshot", wait_s=30):
            snapshot = _named(site, prototype, digest, taken, note)
            partial.chmod(0o755)
            fs.write_json(partial / ABOUT, {"format": FORMAT} | snapshot.as_json())
            fs.rename_durably(partial, site.snapshots / snapshot.name)
    return snapshot, taken


def _write_manifest(path: Path, tree: Path, store: Store, progress: Progress, memory: Path) -> tuple[Taken, str]:
    total = hashlib.sha256()
    compressor = zstd.ZstdCompressor(level=3)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:

        def emit(line: bytes) -> None:
            total.update(line)
            if packed := compressor.compress(line):
                fs.write_all(fd, packed)

        emit(HEADER)
        taken = take_tree(tree, store, emit, progress, memory_file=memory)
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
    """Return the site's snapshots, or a prototype's, in their stored order.

    Raises:
        DamagedError: what is said about one of them cannot be read; the message names all those.
    """
    found, damaged = [], []
    for path in sorted(site.snapshots.iterdir()):
        if (owner := _owner(path.name)) and prototype in (None, owner):
            try:
                found.append(_load(path))
            except DamagedError as error:
                damaged.append(error)
    if damaged:
        raise DamagedError("\n".join(error.message for error in damaged), hint=damaged[0].hint)
    return sorted(found, key=lambda snapshot: (snapshot.prototype, snapshot.sequence))


def _owner(name: str) -> str:
    """Return the prototype whose snapshot has this name, or "" if it is none's."""
    try:
        return prototype_of(name)
    except NameInvalidError:
        return ""


def load(site: Site, name: str) -> Snapshot:
    """Return one snapshot.

    Raises:
        NameInvalidError: that is no snapshot's name.
        NotFoundError: there is none of that name.
    """
    prototype_of(name)
    path = site.snapshots / name
    if not path.is_dir():
        near = get_close_matches(name, [other.name for other in site.snapshots.iterdir() if _owner(other.name)], n=1)
        raise NotFoundError(
            f"there is no snapshot {name}",
            hint=f"did you mean {near[0]}?" if near else "statelesskit snapshot list shows all",
        )
    return _load(path)


def _load(path: Path) -> Snapshot:
    try:
        data = json.loads((path / ABOUT).read_bytes())
        if data.pop("format") != FORMAT:
            raise FormatError(f"{path / ABOUT} is of a format this tool does not know", hint="use a newer statelesskit")
        known = {name: _of_type(data[name], kind) for name, kind in _KINDS.items()}
        snapshot = Snapshot(**known | {"taken_at": datetime.fromisoformat(known["taken_at"])})
        if snapshot.name != path.name:
            raise ValueError(f"it is about {snapshot.name}")
        return snapshot
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"{path / ABOUT} cannot be read: {type(error).__name__} {printable(error)}",
            hint="restore it from a backup of the site",
        ) from error


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} where a {kind.__name__} is expected")
    return value


def load_manifest(site: Site, snapshot: Snapshot) -> Manifest:
    """Read a snapshot's manifest and check every entry of it. Raises as :func:`manifest_text`."""
    return Manifest.parse(manifest_text(site, snapshot))


def manifest_text(site: Site, snapshot: Snapshot) -> bytes:
    """Read a snapshot's manifest as it stands, and check that it is the one the snapshot is named for.

    Raises:
        DamagedError: it is missing, cut off, or its digest is another.
    """
    path = site.snapshots / snapshot.name / MANIFEST
    try:
        decompressor = zstd.ZstdDecompressor()
        text = decompressor.decompress(path.read_bytes(), max_length=MANIFEST_MAX)
    except (OSError, zstd.ZstdError) as error:
        raise DamagedError(f"the manifest {path} cannot be read: {error}") from error
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    if digest != snapshot.digest or not decompressor.eof or decompressor.unused_data:
        raise DamagedError(f"the manifest {path} is damaged: its digest is {digest}, expected {snapshot.digest}")
    return text


def verify(site: Site, snapshot: Snapshot, progress: Progress = SILENT) -> Iterator[Finding]:
    """Read every byte a snapshot needs, and yield what is not as its manifest says.

    A finding without a path is about the snapshot, or about a pack, as a whole.
    """
    try:
        manifest = load_manifest(site, snapshot)
    except DamagedError as error:
        yield Finding(b"", error.message)
        return
    wanted: dict[bytes, list[tuple[bytes, int]]] = {}
    for entry in manifest.entries():
        if entry.type == "file":
            wanted.setdefault(bytes.fromhex(entry.sha256), []).append((entry.path, entry.size))
    files = sum(map(len, wanted.values()))
    total = sum(size for places in wanted.values() for _, size in places)
    if (len(manifest.lines), files, total) != (snapshot.entries, snapshot.files, snapshot.bytes):
        yield Finding(b"", f"{ABOUT} counts other entries, files or bytes than the manifest holds")
    store = Store(site.store)
    yield from (Finding(b"", fault) for fault in store.faults(set(wanted)))
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
        path = site.snapshots / name / ABOUT
        fs.write_json(path, json.loads(path.read_bytes()) | {"state": state})
    return before, replace(before, state=state)
