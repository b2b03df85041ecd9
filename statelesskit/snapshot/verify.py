"""Read every byte of a snapshot, and say what is not as its manifest says."""

from __future__ import annotations

from collections.abc import Iterator

from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.progress import SILENT, Progress
from statelesskit.snapshot.manifest_file import load_manifest
from statelesskit.snapshot.registry import ABOUT, Snapshot
from statelesskit.store import Store
from statelesskit.tree import Finding


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
