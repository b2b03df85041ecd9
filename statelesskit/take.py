"""Read a tree into the store, and write its manifest: one pass, bounded memory, every file opened once.

One thread walks and opens; ``THREADS`` threads read, hash and compress (all three release the GIL);
the walker writes the manifest's lines in order as soon as the files before them are done.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from statelesskit.manifest import Entry
from statelesskit.progress import SILENT, Progress
from statelesskit.store import LARGE, PIECE, Store, Writer
from statelesskit.tree import Finding, Found, describe, holes_of, in_folder, open_file, walk, xattrs_of

THREADS = 2
BATCH_FILES, BATCH_BYTES = 64, 2 * 1024 * 1024
RETRIES = 3  # how often a file that changes while it is read is read again


@dataclass(slots=True)
class _Job:
    """One open file to read; the reader closes it and sets the entry (None: it could not be read)."""

    found: Found
    fd: int
    entry: Entry | None = None


@dataclass(slots=True)
class _Batch:
    """A run of the walk: entries that are ready, and files still being read, in order."""

    items: list[Entry | _Job] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Taken:
    """What one pass over a tree gave."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


def take_tree(top: Path, store: Store, emit: Callable[[bytes], None], progress: Progress = SILENT) -> Taken:
    """Read the tree at ``top``; give the manifest's lines to ``emit`` in order.

    When this returns, every object the lines name is durably in the store. On any error the store
    holds nothing new, or at most objects that nothing names.

    Raises:
        NoSpaceError: the store's disk is full.
        OSError: the tree's top cannot be read; what goes wrong below it is a finding instead.
    """
    with Writer(store, THREADS) as writer:
        taken = _Pass(writer, emit, progress).take(top)
        progress.stage("writing to disk")
        writer.finish()
        taken.new_bytes, taken.stored_bytes = sum(writer.new_bytes), writer.stored_bytes
    return taken


class _Pass:
    def __init__(self, writer: Writer, emit: Callable[[bytes], None], progress: Progress) -> None:
        self._writer, self._emit, self._progress = writer, emit, progress
        self._taken = Taken()
        self._work: queue.Queue[_Batch | None] = queue.Queue(maxsize=2 * THREADS)
        self._failure: BaseException | None = None
        self._waiting: deque[_Batch] = deque()
        self._links: dict[tuple[int, int], bytes] = {}

    def take(self, top: Path) -> Taken:
        self._progress.stage("reading files", unit="files")
        readers = [threading.Thread(target=self._read_batches, args=(n,), daemon=True) for n in range(THREADS)]
        for reader in readers:
            reader.start()
        try:
            batch = _Batch()
            for found in walk(top, self._taken.findings.append):
                self._put(batch, found)
                if batch.files >= BATCH_FILES or batch.bytes >= BATCH_BYTES or len(batch.items) >= 16 * BATCH_FILES:
                    self._hand_over(batch)
                    batch = _Batch()
            self._hand_over(batch)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            for _ in readers:
                self._work.put(None)
            for reader in readers:
                reader.join()
            self._drain(everything=True)
        if self._failure:
            raise self._failure
        return self._taken

    def _put(self, batch: _Batch, found: Found) -> None:
        """Describe what the walk found, or open it to be read."""
        info = found.info
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            first = self._links.setdefault((info.st_dev, info.st_ino), found.path)
            if first != found.path:
                batch.items.append(Entry(found.path, "link", link_to=first))
                return
        try:
            if stat.S_ISREG(info.st_mode):
                batch.items.append(_Job(found, open_file(found)))
                batch.files += 1
                batch.bytes += info.st_size
            else:
                xattrs = xattrs_of(in_folder(found.folder, found.name))
                batch.items.append(describe(found, info, xattrs))
        except OSError as error:
            self._taken.findings.append(Finding(found.path, f"it could not be read: {error.strerror}"))

    def _hand_over(self, batch: _Batch) -> None:
        if self._failure:
            raise self._failure
        self._waiting.append(batch)
        self._work.put(batch)
        self._drain(everything=False)

    def _drain(self, *, everything: bool) -> None:
        """Emit the lines of all batches that are done, in order; on a failure only close the files."""
        while self._waiting and (everything or self._waiting[0].done.is_set()):
            batch = self._waiting.popleft()
            if not self._failure:
                batch.done.wait()
            for item in batch.items:
                entry = item.entry if isinstance(item, _Job) else item
                if isinstance(item, _Job) and item.fd >= 0:
                    os.close(item.fd)
                if entry is not None and not self._failure:
                    self._emit(entry.encode())
                    self._count(entry)
            self._progress.advance(batch.files)

    def _count(self, entry: Entry) -> None:
        self._taken.entries += 1
        if entry.type == "file":
            self._taken.files += 1
            self._taken.bytes += entry.size

    def _read_batches(self, thread: int) -> None:
        while (batch := self._work.get()) is not None:
            try:
                for item in batch.items:
                    if isinstance(item, _Job) and not self._failure:
                        item.entry = self._read(thread, item)
                        os.close(item.fd)
                        item.fd = -1
            except BaseException as error:  # handed to the walking thread, which raises it
                self._failure = self._failure or error
            finally:
                batch.done.set()

    def _read(self, thread: int, job: _Job) -> Entry | None:
        """Read one file, again if it changed meanwhile."""
        for _ in range(RETRIES):
            before = os.fstat(job.fd)
            if not stat.S_ISREG(before.st_mode):
                self._taken.findings.append(Finding(job.found.path, "it was replaced by something that is no file"))
                return None
            entry = replace(describe(job.found, before, xattrs_of(job.fd)), holes=holes_of(job.fd, before))
            try:
                entry = self._content(thread, job.fd, before.st_size, entry)
            except _SourceError as error:
                self._taken.findings.append(Finding(job.found.path, f"it could not be read: {error}"))
                return None
            after = os.fstat(job.fd)
            if _version(before) == _version(after) and entry.size == before.st_size:
                return entry
        self._taken.findings.append(Finding(job.found.path, f"it changed while it was read, {RETRIES} times"))
        return replace(entry, holes=())

    def _content(self, thread: int, fd: int, size: int, entry: Entry) -> Entry:
        if size < LARGE:
            # One byte more than expected tells a file that grew.
            content = _pread(fd, size + 1, 0)
            digest = self._writer.add(thread, content)
            return replace(entry, sha256=digest.hex(), size=len(content))
        digest, size = self._writer.add_stream(thread, _pieces(fd))
        return replace(entry, sha256=digest.hex(), size=size)


def _pieces(fd: int) -> Iterator[bytes]:
    offset = 0
    while piece := _pread(fd, PIECE, offset):
        offset += len(piece)
        yield piece


class _SourceError(Exception):
    """The tree could not be read, which is a finding; an error of the store ends the pass instead."""


def _pread(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        raise _SourceError(error.strerror) from error


def _version(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns
