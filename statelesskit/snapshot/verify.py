"""Read every byte of snapshots and packs, and say what is not as the manifests say.

Each pack is read once, however many snapshots share it, and of each manifest only the lines that the one
before it did not have are looked at. What is found marks a snapshot partial, see :mod:`.whole`.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from pathlib import Path

from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.manifest import decode
from statelesskit.pack import Pack
from statelesskit.progress import SILENT, Progress
from statelesskit.snapshot import deleted, description
from statelesskit.snapshot.description import ABOUT
from statelesskit.snapshot.manifest_file import load_manifest, objects_of
from statelesskit.snapshot.registry import Snapshot
from statelesskit.snapshot.whole import check_whole, mark
from statelesskit.store import Store
from statelesskit.tree import Finding
from statelesskit.workers import Workers

__all__ = ["check_whole", "verify", "verify_all"]

THREADS = 2


def verify(site: Site, snapshot: Snapshot, progress: Progress = SILENT) -> Iterator[Finding]:
    """Read every byte of the packs a snapshot needs, and yield what is not as its manifest says.

    A finding without a path is about the snapshot, a pack or the index, as a whole.
    """
    return (finding for _, finding in verify_all(site, [snapshot], progress))


def verify_all(
    site: Site,
    snapshots: Iterable[Snapshot],
    progress: Progress = SILENT,
    *,
    everything: bool = False,
    faulty: dict[Path, set[bytes]] | None = None,
) -> Iterator[tuple[str, Finding]]:
    """Verify some snapshots in one pass; yield each finding with the name of its snapshot.

    A finding about a pack or the index stands before those of the snapshots, with "" for a name. All
    marks are set when this is exhausted, and the store knows which objects are damaged.

    Args:
        everything: read also what none of these snapshots needs: all packs, and the list of what was deleted.
        faulty: is given the packs that something is wrong with, and for each the objects damaged in it.
    """
    snapshots = list(snapshots)
    store = Store(site.store)
    if fault := store.mend_index():
        yield "", Finding(b"", fault)
    yield from (("", Finding(b"", error.message)) for error in store.damaged.values())
    packs = _packs(site, store, [] if everything else snapshots)
    reading = _Reading(packs, progress)
    reading.run()
    yield from (("", Finding(b"", error.message)) for error, _ in reading.faulty.values())
    if everything:
        yield from (("", Finding(b"", fault)) for fault in deleted.faults(site))
    if faulty is not None:
        faulty |= {path: damaged for path, (_, damaged) in reading.faulty.items()}
    damaged = reading.without_whole_copy(store)
    store.list_damaged(damaged | {one for one in store.listed_damaged() if not reading.read(store, one)})
    progress.stage("holding manifests against the store", total=len(snapshots), unit="snapshots")
    lines = _Lines(store, damaged)
    for snapshot in snapshots:
        try:
            found = lines.findings(snapshot, load_manifest(site, snapshot).lines)
        except DamagedError as error:
            found = [Finding(b"", error.message)]
        if not (site.snapshots / snapshot.name).is_dir():
            continue  # somebody deleted it meanwhile
        mark(site, snapshot.name, found)
        found += [Finding(b"", fault) for fault in description.faults(site.snapshots / snapshot.name)]
        yield from ((snapshot.name, finding) for finding in found)
        progress.advance()


def _packs(site: Site, store: Store, snapshots: list[Snapshot]) -> list[Pack]:
    """Return the packs that hold something these need; all, if there are none."""
    needed: set[bytes] = set()
    for snapshot in snapshots:
        try:
            needed |= objects_of(site, snapshot)
        except DamagedError:  # which is found again when its turn comes
            continue
    packs = store.readable_packs()
    return [pack for pack in packs if not snapshots or any(digest in needed for digest in pack.digests())]


class _Reading:
    """Several threads read pack after pack."""

    def __init__(self, packs: list[Pack], progress: Progress) -> None:
        self.faulty: dict[Path, tuple[DamagedError, set[bytes]]] = {}  # with the objects damaged in them
        self._paths = {pack.path for pack in packs}
        self._progress = progress
        self._work: queue.SimpleQueue[Pack] = queue.SimpleQueue()
        for pack in packs:
            self._work.put(pack)
        self._total = sum(pack.packed_bytes for pack in packs)
        self._workers = Workers(THREADS, self._read_packs)

    def run(self) -> None:
        self._progress.stage("reading packs", total=self._total, unit="bytes")
        with self._workers:
            self._workers.wait()

    def _read_packs(self, thread: int) -> None:
        while not self._workers.failure:
            try:
                pack = self._work.get_nowait()
            except queue.Empty:
                return
            fault, damaged = pack.faults(self._advance)
            if fault and pack.path.exists():  # else it was collected meanwhile
                self.faulty[pack.path] = fault, set(map(pack.digest, damaged))

    def _advance(self, size: int) -> None:
        if self._workers.failure:
            raise self._workers.failure
        self._progress.advance(size)

    def read(self, store: Store, digest: bytes) -> bool:
        """Say whether a pack that holds the object was read."""
        return any(path in self._paths for path in store.packs_with(digest))

    def without_whole_copy(self, store: Store) -> set[bytes]:
        """Return the objects that are damaged in every pack they are in."""

        def whole(digest: bytes, path: Path) -> bool:
            return path not in self.faulty or digest not in self.faulty[path][1]

        damaged = set().union(*(found for _, found in self.faulty.values()))
        return {one for one in damaged if not any(whole(one, path) for path in store.packs_with(one))}


class _Lines:
    """What is wrong with each line of a manifest, and what it adds up to, from one snapshot to the next."""

    def __init__(self, store: Store, damaged: set[bytes]) -> None:
        self._store, self._damaged = store, damaged
        self._begin()

    def _begin(self) -> None:
        self._lines: set[bytes] = set()
        self._wrong: dict[bytes, Finding] = {}
        self._files = self._bytes = 0

    def findings(self, snapshot: Snapshot, lines: list[bytes]) -> list[Finding]:
        """Go over to a snapshot's lines, and return what is wrong with it. Raises FormatError."""
        now = set(lines)
        try:
            for line in self._lines - now:
                self._wrong.pop(line, None)
                self._count(line, -1)
            for line in now - self._lines:
                self._count(line, 1)
        except DamagedError:  # it is no manifest, and the next is held against nothing
            self._begin()
            raise
        self._lines = now
        found = sorted(self._wrong.values(), key=lambda finding: finding.path)
        if (len(lines), self._files, self._bytes) != (snapshot.entries, snapshot.files, snapshot.bytes):
            found.insert(0, Finding(b"", f"{ABOUT} counts other entries, files or bytes than the manifest holds"))
        return found

    def _count(self, line: bytes, sign: int) -> None:
        if b'"sha256":' not in line:
            return
        entry = decode(line)
        if entry.type != "file":
            return
        self._files += sign
        self._bytes += sign * entry.size
        if sign > 0 and (fault := self._fault(bytes.fromhex(entry.sha256), entry.size)):
            self._wrong[line] = Finding(entry.path, fault)

    def _fault(self, digest: bytes, size: int) -> str:
        place = self._store.place(digest)
        if place is None:
            return f"the object {digest.hex()} is not in the store {self._store.packs.parent}"
        pack, number = place
        if digest in self._damaged:
            return f"the object {digest.hex()} in {pack.path} is damaged"
        if pack.size(number) != size:
            return f"it is {pack.size(number)} bytes long, the manifest says {size}"
        return ""
