"""Read a tree into the store, and write its manifest: one pass, bounded memory, every file opened once.

One thread walks, opens, and reads what is small; ``THREADS`` threads read what is large, hash and compress, for
which they need no GIL. The walker writes the manifest's lines in order as soon as the files before them are done.
"""

from __future__ import annotations

import gc
import os
import queue
import stat
import sys
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from statelesskit.manifest import LINE_MAX, TIME_MAX, TIME_MIN, Entry
from statelesskit.memory import Memory, Recorder, Stretch, split
from statelesskit.progress import SILENT, Progress
from statelesskit.prototype.prepare import Rules
from statelesskit.store import LARGE, PIECE, Store, Writer
from statelesskit.tree import (
    Finding,
    Found,
    Holes,
    Links,
    Xattrs,
    describe,
    holes_of,
    in_folder,
    link_of,
    open_file,
    open_folder,
    protection_of,
    walk,
    xattrs_of,
)
from statelesskit.workers import Workers

THREADS = 2
EVERYTHING = Rules()
BATCH_FILES, BATCH_ITEMS, BATCH_BYTES = 64, 1024, 2 * 1024 * 1024
WAITING = 32  # batches given to the readers and not done; one of large files must not stop the walk for long
AHEAD = 32 * BATCH_ITEMS  # names met and not yet written: while one large file is read, the walk must not run away
WRITTEN = 256 * 1024  # bytes of lines that are given away at once
SMALL = 128 * 1024  # bytes; handing an open file over, and its many short calls, cost more than reading it here
ZEROS = bytes(PIECE)
TRIES = 3  # how often a file that changes while it is read is read
TICK_NS = 20_000_000  # the kernel's clock for files steps by up to 10 ms; two changes in one step look like one
# Where a file system has told of holes in what was just written, that was soon over (cp lost data on OpenZFS 2.2.0).
REST_NS = 60_000_000_000


_Reading = Callable[[int, Holes], tuple[str, int]]


class _File(NamedTuple):
    """What reading a file told."""

    xattrs: Xattrs
    sha256: str
    size: int
    holes: Holes


@dataclass(slots=True)
class _Item:
    """One name met: described already, remembered (``line``), or an open file to read.

    Who reads the file closes it, and sets ``file`` (None: it could not be read) and ``info`` as it was before.
    ``content`` is what the walker read, which a reader still has to keep.
    """

    found: Found
    info: os.stat_result
    fd: int = -1
    entry: Entry | None = None
    line: bytes = b""
    empty: bool = False  # take it as a file of no content
    content: bytes | None = None
    file: _File | None = None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(slots=True)
class _Batch:
    """A run of the walk: entries that are ready, and files still being read, in order."""

    items: list[_Item | Stretch] = field(default_factory=list)
    files: int = 0
    bytes: int = 0  # of content, or of remembered lines
    done: bool = False

    @property
    def full(self) -> bool:
        return self.files >= BATCH_FILES or self.bytes >= BATCH_BYTES or len(self.items) >= BATCH_ITEMS


@dataclass(slots=True)
class Taken:
    """What one pass over a tree gave.

    Attributes:
        packs: the names of the packs that hold all its objects, or did when they were looked up.
    """

    entries: int = 0
    files: int = 0
    bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    packs: frozenset[str] = frozenset()


def take_tree(
    top: Path,
    store: Store,
    emit: Callable[[bytes], None],
    progress: Progress = SILENT,
    *,
    memory_file: Path | None = None,
    rules: Rules = EVERYTHING,
    expected: tuple[int, int] = (0, 0),
) -> Taken:
    """Read the tree at ``top``; give the manifest's lines to ``emit`` in order, one or many at a time.

    When this returns, every object the lines name is durably in the store. On any error the store
    holds nothing new, or at most objects that nothing names.

    Args:
        memory_file: where the last take of this tree left what it saw, and this one leaves it.
        rules: what is left out, or taken empty.
        expected: about how many files there are, and of how many bytes, for the progress; 0 is unknown.

    Raises:
        NoSpaceError: the store's disk is full.
        OSError: the tree's top cannot be read; what goes wrong below it is a finding instead.
    """
    tree = f"{top} {os.stat(top).st_dev} {os.stat(top).st_ino} ".encode(errors="surrogateescape") + rules.as_bytes()
    before = store.pack_names()
    with ExitStack() as stack:
        memory = Memory.load(memory_file, tree, store.pack_files()) if memory_file else Memory()
        stack.enter_context(memory)
        recorder = stack.enter_context(Recorder(memory_file, tree, memory, time.time_ns()))
        writer = stack.enter_context(Writer(store, THREADS))
        stack.enter_context(_undisturbed())
        taken = _Pass(writer, emit, progress, memory, recorder, rules).take(top, expected)
        if os.geteuid() != 0:
            taken.findings.append(Finding(b"", "it was not read by root, who alone sees trusted attributes"))
        progress.stage("writing to disk")
        writer.finish()
        taken.new_bytes, taken.stored_bytes = sum(writer.new_bytes), writer.stored_bytes
        taken.packs = before | writer.relied_on  # what is remembered rests on those of before
        packs = store.pack_files()
        if taken.packs <= {name for name, _, _ in packs}:  # else what it rests on was just collected
            recorder.save(packs)
    return taken


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Python's cycle collector away from hundreds of thousands of small objects that hold no cycles.

    And let a thread go on until it gives the GIL away itself, which all do often.
    """
    interval = sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(0.02)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.enable()


class _Pass:
    def __init__(
        self,
        writer: Writer,
        emit: Callable[[bytes], None],
        progress: Progress,
        memory: Memory,
        recorder: Recorder,
        rules: Rules,
    ) -> None:
        self._writer, self._emit, self._progress = writer, emit, progress
        self._memory, self._recorder, self._rules = memory, recorder, rules
        self._taken = Taken()
        self._work: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()  # a batch is done; it wakes who waits for that
        self._handed_over, self._done = 0, [0] * THREADS
        self._readers = Workers(THREADS, self._read_batches)
        self._waiting: deque[_Batch] = deque()
        self._links = Links(dict)
        self._lost: set[bytes] = set()
        self._ahead = 0  # names met and not yet written
        self._lines: list[bytes] = []
        self._lines_bytes = 0
        self._known_bytes, self._read_bytes = 0, [0] * THREADS
        self._told = (0, 0)

    def take(self, top: Path, expected: tuple[int, int]) -> Taken:
        files, size = expected
        self._progress.stage("reading files", total=files, unit="files", total_bytes=size, about=True)
        batch = _Batch()
        try:
            with self._readers:
                try:
                    leaves_out = self._rules.leaves_out if self._rules.leave_out else None
                    for found in walk(top, self._report, self._memory, leaves_out=leaves_out):
                        if isinstance(found, Stretch):
                            batch.items.append(found)
                            batch.bytes += len(found.lines)
                        else:
                            self._put(batch, found)
                        if batch.full:
                            self._hand_over(batch)
                            batch = _Batch()
                    self._hand_over(batch)
                    self._drain(leave=0)
                    self._give()
                finally:
                    for _ in range(THREADS):
                        self._work.put(None)
        finally:  # on a failure files are still open
            for left in (*self._waiting, batch):
                for item in left.items:
                    if isinstance(item, _Item):
                        item.close()
        return self._taken

    def _put(self, batch: _Batch, found: Found) -> None:
        """Describe what the walk found, remember it, or open it to be read."""
        if line := self._memory.line(*split(found.path), found.info):
            batch.items.append(_Item(found, found.info, line=line))
            return
        try:
            if stat.S_ISREG(found.info.st_mode):
                self._put_file(batch, found)
            elif not self._put_link(batch, found, found.info):
                xattrs = self._xattrs(found, in_folder(found.folder, found.name))
                if stat.S_ISDIR(found.info.st_mode):
                    self._check_protection_of_folder(found)
                batch.items.append(_Item(found, found.info, entry=describe(found, found.info, xattrs)))
        except OSError as error:
            self._lose(found.path, f"it could not be read: {error.strerror}")

    def _put_file(self, batch: _Batch, found: Found) -> None:
        fd = open_file(found)
        try:
            info = os.fstat(fd)  # of what was opened: by now the name may be another file's
            if not stat.S_ISREG(info.st_mode):
                self._lose(found.path, "it was replaced by something that is no file")
            elif not self._put_link(batch, found, info, empty := self._rules.empties(found.path)):
                item = _Item(found, info, fd, empty=empty)
                if info.st_size < SMALL:
                    if empty or not self._read_quickly(item):
                        item.file = self._read(item, partial(self._hold, item))
                    item.close()
                batch.items.append(item)
                batch.files += 1
                batch.bytes += info.st_size
                return
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)

    def _put_link(self, batch: _Batch, found: Found, info: os.stat_result, empty: bool = False) -> bool:
        """Take what has another name that came before as a hard link to that."""
        entry = link_of(found.path, info, self._links, empty=empty)
        if entry:
            batch.items.append(_Item(found, info, entry=entry))
        return entry is not None

    def _check_protection_of_folder(self, found: Found) -> None:
        with suppress(OSError):  # the walk will say that it cannot be entered
            fd = open_folder(found)
            try:
                self._find_protection(found.path, protection_of(fd))
            finally:
                os.close(fd)

    def _find_protection(self, path: bytes, protection: str) -> None:
        if protection:
            self._find(path, f"it is {protection} (chattr), which is not kept")

    def _xattrs(self, found: Found, place: int | str) -> tuple[tuple[bytes, bytes], ...]:
        try:
            return xattrs_of(place)
        except OSError as error:
            self._find(found.path, f"its extended attributes could not be read: {error.strerror}")
            return ()

    def _find(self, path: bytes, finding: str) -> None:
        self._report(Finding(path, finding))

    def _report(self, finding: Finding) -> None:
        self._taken.findings.append(finding)
        self._recorder.doubt(finding.path)

    def _lose(self, path: bytes, finding: str) -> None:
        """Note a finding for what will have no line."""
        self._lost.add(path)
        self._find(path, finding)

    def _hand_over(self, batch: _Batch) -> None:
        while self._handed_over - sum(self._done) >= WAITING:
            self._await_news()
        self._handed_over += 1
        self._waiting.append(batch)
        self._ahead += len(batch.items)
        self._work.put(batch)
        self._drain(leave=AHEAD)

    def _await_news(self) -> None:
        with suppress(queue.Empty):
            self._news.get(timeout=0.2)
        self._tell()
        if self._readers.failure:
            raise self._readers.failure

    def _drain(self, *, leave: int) -> None:
        """Write the lines of the batches that are done, in order; wait until at most ``leave`` names are left."""
        while self._waiting:
            batch = self._waiting[0]
            while self._ahead > leave and not batch.done:
                self._await_news()
            if not batch.done:
                return
            self._waiting.popleft()
            self._ahead -= len(batch.items)
            for item in batch.items:
                if isinstance(item, Stretch):
                    self._write_stretch(item)
                elif item.line:
                    size = item.info.st_size if stat.S_ISREG(item.info.st_mode) else None
                    self._known_bytes += size or 0
                    self._write_line(item, item.line, size)
                elif item.entry:
                    self._write(item, item.entry)
                elif item.file:
                    xattrs, sha256, size, holes = item.file
                    entry = describe(item.found, item.info, xattrs, sha256=sha256, size=size, holes=holes)
                    self._write(item, entry)
            self._tell()

    def _tell(self) -> None:
        files, size = self._taken.files, self._known_bytes + sum(self._read_bytes)
        self._progress.advance(files - self._told[0], size - self._told[1])
        self._told = files, size

    def _write_stretch(self, stretch: Stretch) -> None:
        self._put_line(stretch.lines)
        self._recorder.keep(stretch)
        self._taken.entries += stretch.entries
        self._taken.files += stretch.files
        self._taken.bytes += stretch.content_bytes
        self._known_bytes += stretch.content_bytes

    def _put_line(self, line: bytes) -> None:
        self._lines.append(line)
        self._lines_bytes += len(line)
        if self._lines_bytes >= WRITTEN:
            self._give()

    def _give(self) -> None:
        self._emit(b"".join(self._lines))
        self._lines, self._lines_bytes = [], 0

    def _write(self, item: _Item, entry: Entry) -> None:
        if entry.type == "link" and entry.link_to in self._lost:
            self._lose(entry.path, "it is a hard link to a file that could not be read")
            return
        self._write_line(item, self._fitting(entry).encode(), entry.size if entry.type == "file" else None)

    def _write_line(self, item: _Item, line: bytes, size: int | None) -> None:
        self._put_line(line)
        self._recorder.add(item.found.path, item.info, line)
        self._taken.entries += 1
        if size is not None:
            self._taken.files += 1
            self._taken.bytes += size

    def _fitting(self, entry: Entry) -> Entry:
        """Leave out, with a finding, what a manifest can't hold."""
        if not TIME_MIN <= entry.mtime_ns <= TIME_MAX:
            self._find(entry.path, "its time is outside the years 1677 to 2262; the nearest of them is kept")
            entry = replace(entry, mtime_ns=min(max(entry.mtime_ns, TIME_MIN), TIME_MAX))
        if entry.holes and len(entry.encode()) > LINE_MAX:
            self._find(entry.path, f"it has {len(entry.holes)} holes, too many to keep; they are filled")
            entry = replace(entry, holes=())
        if entry.xattrs and len(entry.encode()) > LINE_MAX:
            self._find(entry.path, "its extended attributes are too large to keep; they are left out")
            entry = replace(entry, xattrs=())
        return entry

    def _read_batches(self, thread: int) -> None:
        while batch := self._work.get():
            for item in batch.items:
                if isinstance(item, _Item) and not self._readers.failure:
                    self._finish(thread, item)
            batch.done = True
            self._done[thread] += 1
            self._news.put(None)

    def _finish(self, thread: int, item: _Item) -> None:
        """Read what is still open, keep what was read."""
        if item.fd >= 0:
            item.file = self._read(item, partial(self._keep, thread, item))
            item.close()
        elif item.content is not None and item.file:
            self._read_bytes[thread] += len(item.content)
            digest = self._writer.add(thread, item.content)
            item.file, item.content = item.file._replace(sha256=digest.hex()), None

    def _read_quickly(self, item: _Item) -> bool:
        """Do what :meth:`_read` does for a small file that gives no trouble, in as few calls as can be."""
        fd, info = item.fd, item.info
        if not _settled(info):
            return False
        try:
            xattrs, holes = xattrs_of(fd), holes_of(fd, info.st_size)
            if protection_of(fd):
                return False
            content = os.pread(fd, info.st_size + 1, 0)
            after = os.fstat(fd)
        except OSError:
            return False
        if len(content) != info.st_size or _version(after) != _version(info):
            return False
        item.content, item.file = content, _File(xattrs, "", info.st_size, holes)
        return True

    def _read(self, job: _Item, keep: _Reading) -> _File | None:
        """Read one file, again if it changed meanwhile.

        Args:
            keep: takes at most so many bytes, those in large holes without reading them; returns their digest, if
                that is known by then, and their number.
        """
        path = job.found.path
        try:
            for again in range(TRIES):
                if again:
                    time.sleep(TICK_NS / 1e9)
                file, whole = self._read_once(job, keep)
                if whole:
                    return file
        except _SourceError as error:
            self._lose(path, f"it could not be read: {error}")
            return None
        self._find(path, f"it changed while it was read, {TRIES} times")
        return file._replace(holes=())

    def _read_once(self, job: _Item, keep: _Reading) -> tuple[_File, bool]:
        """Read one file; say also whether it surely did not change meanwhile."""
        with _SOURCE:
            before = job.info = os.fstat(job.fd)
            settled = _settled(before)
            xattrs = self._xattrs(job.found, job.fd)
            holes = holes_of(job.fd, before.st_size)
            protection = protection_of(job.fd)
        self._find_protection(job.found.path, protection)
        if job.empty:
            self._recorder.doubt(job.found.path)  # its length is not that of what was taken
            return _File(xattrs, keep(0, ())[0], 0, ()), True
        at_rest = time.time_ns() - before.st_ctime_ns > REST_NS
        # One byte more than expected tells a file that grew; more is not worth having.
        sha256, size = keep(before.st_size + 1, holes if at_rest else ())
        with _SOURCE:
            after = os.fstat(job.fd)
        whole = settled and _version(before) == _version(after) and size == before.st_size
        return _File(xattrs, sha256, size, holes), whole

    def _hold(self, job: _Item, limit: int, _: Holes) -> tuple[str, int]:
        """Read a small file; a reader will keep it."""
        job.content = _pread(job.fd, min(limit, LARGE), 0)
        return "", len(job.content)

    def _keep(self, thread: int, job: _Item, limit: int, holes: Holes) -> tuple[str, int]:
        """Read a file into the store."""
        if limit <= LARGE:
            content = _pread(job.fd, limit, 0)
            self._read_bytes[thread] += len(content)
            return self._writer.add(thread, content).hex(), len(content)
        digest, size = self._writer.add_stream(thread, self._pieces(thread, job.fd, limit, holes))
        return digest.hex(), size

    def _pieces(self, thread: int, fd: int, limit: int, holes: Holes) -> Iterator[bytes]:
        offset = 0
        while offset < limit:
            size = min(PIECE, limit - offset)
            # To fill its cache with a hole's zeros takes the kernel twice as long as all that we do with them.
            piece = ZEROS[:size] if _in_hole(holes, offset, size) else _pread(fd, size, offset)
            if self._readers.failure:
                raise self._readers.failure
            if not piece:
                return
            offset += len(piece)
            self._read_bytes[thread] += len(piece)
            yield piece


class _SourceError(Exception):
    """The tree could not be read, which is a finding; an error of the store ends the pass instead."""


class _Source:
    """A block that reads the tree; a class, as one that is made of a generator costs more than what is in it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, OSError):
            raise _SourceError(error.strerror) from error


_SOURCE = _Source()


def _in_hole(holes: Holes, offset: int, size: int) -> bool:
    number = bisect_right(holes, offset, key=itemgetter(0)) - 1
    return number >= 0 and offset + size <= sum(holes[number])


def _pread(fd: int, size: int, offset: int) -> bytes:
    with _SOURCE:
        return os.pread(fd, size, offset)


def _settled(info: os.stat_result) -> bool:
    """Say whether another change would now give it another time; to be asked before it is read."""
    return not 0 <= time.time_ns() - info.st_ctime_ns < TICK_NS


def _version(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns
