"""Take a snapshot of a prototype and give it its name."""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import NotFoundError
from statelesskit.manifest import HEADER
from statelesskit.progress import SILENT, Progress
from statelesskit.prototype import load as load_prototype
from statelesskit.prototype.prepare import Rules, identities, load_rules
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.publish import CollectedError, newest, publish, removal_waits
from statelesskit.snapshot.registry import Snapshot, list_snapshots
from statelesskit.store import Store
from statelesskit.take import Taken, take_tree
from statelesskit.tree import Finding
from statelesskit.workers import Workers

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TRIES = 3  # of a take when collections come between; the last one makes them wait
MEMORY = "take.memory"  # beside a prototype: derived, see statelesskit.memory


def take(site: Site, prototype: str, *, note: str = "", progress: Progress = SILENT) -> tuple[Snapshot, Taken]:
    """Take a snapshot of a prototype's tree as it stands now.

    The caller holds the prototype's lock. On any error, and after a crash at any moment, there is no
    snapshot, at most objects in the store that nothing names.

    Raises:
        NotFoundError: no such prototype.
        ConfigError: its rules for what is left out cannot be understood.
        NoSpaceError: the store's disk is full.
    """
    tree = load_prototype(site, prototype).tree
    if not tree.is_dir():
        raise NotFoundError(f"the tree of the prototype {prototype} is not at {tree}", hint="has it been moved?")
    for _ in range(TRIES - 1):
        with suppress(CollectedError):  # what it remembered, or just stored, is gone, so now it reads all
            return _take_once(site, prototype, tree, note, progress)
    with removal_waits(site, f"taking a snapshot of {prototype}"):
        return _take_once(site, prototype, tree, note, progress)


def _take_once(site: Site, prototype: str, tree: Path, note: str, progress: Progress) -> tuple[Snapshot, Taken]:
    store, memory, rules = Store(site.store), site.prototypes / prototype / MEMORY, load_rules(site, prototype)
    with fs.work_folder(site.snapshots / prototype) as partial:
        taken, digest = _write_manifest(
            partial / MANIFEST, tree, store, progress, memory, rules, _expected(site, prototype)
        )
        describe = newest(prototype, digest, taken, note)
        return publish(site, partial, prototype, store, taken.packs, describe), taken


def _expected(site: Site, prototype: str) -> tuple[int, int]:
    before = list_snapshots(site, prototype)
    return (before[-1].files, before[-1].bytes) if before else (0, 0)


def _write_manifest(
    path: Path, tree: Path, store: Store, progress: Progress, memory: Path, rules: Rules, expected: tuple[int, int]
) -> tuple[Taken, str]:
    fd = fs.create(path, 0o444)
    try:
        with _Pressing(fd) as pressing:
            pressing.emit(HEADER)
            taken = take_tree(tree, store, pressing.emit, progress, memory_file=memory, rules=rules, expected=expected)
        taken.findings += [
            Finding(one, "it is one machine's own; `prototype prepare --defaults` leaves it out")
            for one in pressing.identities
        ]
        fs.fsync(fd)
    finally:
        os.close(fd)
    return taken, "sha256:" + pressing.total.hexdigest()


class _Pressing:
    """Compresses, hashes and writes lines in a thread of its own, while the tree is walked on."""

    WAITING = 16  # pieces of text

    def __init__(self, fd: int) -> None:
        self.total = hashlib.sha256()
        self.identities: list[bytes] = []
        self._fd = fd
        self._texts: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(self.WAITING)
        self._worker = Workers(1, self._work)

    def emit(self, text: bytes) -> None:
        while not self._room.acquire(timeout=0.2):
            if self._worker.failure:
                raise self._worker.failure
        self._texts.put(text)

    def _work(self, _: int) -> None:
        compressor = zstd.ZstdCompressor(level=3)
        try:
            while (text := self._texts.get()) is not None:
                self.total.update(text)
                self.identities += identities(text)
                if packed := compressor.compress(text):
                    fs.write_all(self._fd, packed)
                self._room.release()
            fs.write_all(self._fd, compressor.flush())
        finally:
            self._room.release()

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._texts.put(None)
        self._worker.__exit__(kind, error, at)
