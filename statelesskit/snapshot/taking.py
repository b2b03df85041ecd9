"""Take a snapshot of a prototype and give it its name."""

from __future__ import annotations

import hashlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import NotFoundError
from statelesskit.lock import held, user_name
from statelesskit.manifest import HEADER
from statelesskit.names import snapshot_name
from statelesskit.progress import SILENT, Progress
from statelesskit.prototype import load as load_prototype
from statelesskit.snapshot import description
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.registry import FORMAT, Snapshot, list_snapshots
from statelesskit.store import Store
from statelesskit.take import Taken, take_tree

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MEMORY = "take.memory"  # beside a prototype: derived, see statelesskit.memory


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
            description.write(partial, {"format": FORMAT} | snapshot.as_json())
            fs.rename_durably(partial, site.snapshots / snapshot.name)
    return snapshot, taken


def _write_manifest(path: Path, tree: Path, store: Store, progress: Progress, memory: Path) -> tuple[Taken, str]:
    total = hashlib.sha256()
    compressor = zstd.ZstdCompressor(level=3)
    fd = fs.create(path, 0o444)
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
