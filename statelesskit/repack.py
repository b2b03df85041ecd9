"""Write packs anew: only what is needed of them, and compressed as well as it goes.

Nothing is removed here but by :func:`remove_packs`; whoever collects decides when, after what was carried
over is durably in other packs and no snapshot that came meanwhile needs more.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from statelesskit import fs
from statelesskit.digests import DigestSet
from statelesskit.errors import DamagedError
from statelesskit.pack import UNFINISHED, Pack, PackWriter
from statelesskit.progress import SILENT, Progress
from statelesskit.store import LARGE, Store
from statelesskit.workers import Workers

THREADS = 2
# Measured on a Debian root before and after an upgrade (755 MB, 272 MB as taken): 245 MB in 25 s of CPU time. Level 19
# in 1 MiB took 6 % less and seven times as long. Larger frames compress better, but reading one file reads its frame.
STRONG = 12
STRONG_FRAME = 2 * 1024 * 1024  # bytes
PART = 4 * STRONG_FRAME  # bytes one thread carries over at a time: neighbours stay together


@dataclass(slots=True)
class Rewritten:
    """What became of some packs.

    Attributes:
        packs: the new ones; they are durably in place.
        objects, content_bytes: what was carried over, and its length uncompressed.
        stored_bytes: what it takes in the new packs.
        damaged: objects that are needed and of which no whole copy was found; keep the packs they are in.
        unreadable: packs whose tables can't be read, so that nobody knows what is in them; keep those too.
    """

    packs: list[Path] = field(default_factory=list)
    objects: int = 0
    content_bytes: int = 0
    stored_bytes: int = 0
    damaged: list[bytes] = field(default_factory=list)
    unreadable: list[DamagedError] = field(default_factory=list)


def rewrite(
    store: Store,
    packs: Iterable[Path],
    needed: Container[bytes] | DigestSet,
    *,
    level: int = STRONG,
    frame_size: int = STRONG_FRAME,
    progress: Progress = SILENT,
) -> Rewritten:
    """Copy the needed objects of some packs to new packs, each verified on the way. Removes nothing.

    On any error, and after a crash, the store holds at most some objects twice.

    Raises:
        NoSpaceError: the store's disk is full.
    """
    rewritten, parts = Rewritten(), queue.SimpleQueue[tuple[Pack, list[int]]]()
    total = 0
    for pack, numbers in _parts(packs, needed, rewritten):
        total += sum(map(pack.size, numbers))
        parts.put((pack, numbers))
    progress.stage("writing packs anew", total=total, unit="bytes")
    with fs.disk_full_named(store.packs):
        fs.remove_leftovers(store.packs / UNFINISHED)
        writers: list[PackWriter] = []
        try:
            for _ in range(THREADS):
                writers.append(PackWriter(store.packs, level=level, frame_size=frame_size))  # noqa: PERF401
            _Carrying(store, parts, writers, rewritten, progress).run()
            for writer in writers:
                writer.seal()
            rewritten.packs = [path for writer in writers if (path := writer.publish())]
            fs.fsync_folder(store.packs)
        finally:
            for writer in writers:
                writer.abandon()
    for made in map(Pack, rewritten.packs):
        rewritten.objects += len(made)
        rewritten.content_bytes += sum(map(made.size, range(len(made))))
        rewritten.stored_bytes += made.path.stat().st_size
    store.forget()
    return rewritten


def remove_packs(store: Store, paths: Iterable[Path]) -> None:
    """Remove packs, durably. What was needed of them must be in others by now."""
    with fs.disk_full_named(store.packs):  # some file systems need room to forget something
        for path in (doomed := list(paths)):
            fs.unlink(path)
        if doomed:  # else the store may have no packs at all
            fs.fsync_folder(store.packs)
    store.forget()


def _parts(
    packs: Iterable[Path], needed: Container[bytes] | DigestSet, rewritten: Rewritten
) -> Iterator[tuple[Pack, list[int]]]:
    """Yield runs of objects to carry over, each object once, in stored order."""
    seen = DigestSet()
    for path in packs:
        try:
            pack = Pack(path)
        except DamagedError as error:
            rewritten.unreadable.append(error)
            continue
        numbers, size = list[int](), 0
        for number, digest in enumerate(pack.digests()):
            if digest in needed and seen.add(digest):
                numbers.append(number)
                size += pack.size(number)
                if size >= PART:
                    yield pack, numbers
                    numbers, size = [], 0
        if numbers:
            yield pack, numbers


class _Carrying:
    """Several threads take part after part."""

    def __init__(
        self,
        store: Store,
        parts: queue.SimpleQueue[tuple[Pack, list[int]]],
        writers: list[PackWriter],
        rewritten: Rewritten,
        progress: Progress,
    ) -> None:
        self._store, self._parts, self._writers = store, parts, writers
        self._rewritten, self._progress = rewritten, progress
        self._workers = Workers(len(writers), self._carry_parts)

    def run(self) -> None:
        with self._workers:
            self._workers.wait()

    def _carry_parts(self, thread: int) -> None:
        while not self._workers.failure:
            try:
                pack, numbers = self._parts.get_nowait()
            except queue.Empty:
                return
            for number in numbers:
                try:
                    self._carry(self._writers[thread], pack, number)
                except DamagedError:
                    self._rewritten.damaged.append(pack.digest(number))
                self._progress.advance(pack.size(number))

    def _carry(self, writer: PackWriter, pack: Pack, number: int) -> None:
        digest = pack.digest(number)
        if pack.size(number) >= LARGE:
            self._carry_large(writer, digest)
            return
        try:
            content = b"".join(pack.read(number))
        except DamagedError:
            content = b""
        if hashlib.sha256(content).digest() != digest:  # another pack may hold it whole
            content = b"".join(self._store.read(digest))
        writer.add(digest, content)

    def _carry_large(self, writer: PackWriter, digest: bytes) -> None:
        """Copy piece by piece; what turns out to be damaged at its end is taken back, and another copy tried."""
        for pieces in self._store.copies(digest):
            with suppress(DamagedError):
                found, _ = writer.add_stream(self._watched(pieces))
                if found == digest:
                    return
                writer.undo()
        raise DamagedError(f"no copy of the object {digest.hex()} is whole")

    def _watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._workers.failure:
                raise self._workers.failure
            yield piece
