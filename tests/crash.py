"""Every state a crash can leave of what one operation did to a disk, rebuilt.

The method is that of ALICE (Pillai and others, "All File Systems Are Not Created Equal", OSDI 2014) and of
CrashMonkey (Mohan and others, "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI
2018): the operation's writes, names and flushes are recorded in order; for every prefix of that log a disk is
built anew, of what must be there (what was flushed) and of some choice of the rest, as file systems make it:

- *killed*: all that was done. What kill -9 leaves.
- *flushed*: only what was flushed; a file's content by its own flush, its name by its folder's.
- *names*: all names, but only contents that were flushed: a rename that overtook the data.
- *half*, *zeros*, *garbage*: all names; of contents not flushed the first half, or the right length of zeros or
  of anything.
- *gone*: what was flushed, and all removals: one that overtook the name of what it made needless.
- *some*: a random choice of what was not flushed, any order.

Recorded are the primitives of fs.py; Python's audit events tell what got to the watched folder by another way.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from statelesskit import fs

State = dict[str, Any]  # name -> State of a folder, or (content, mtime in ns) of a file
MODELS = ("killed", "flushed", "names", "half", "zeros", "garbage", "gone", "some", "some other")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}


@dataclass(frozen=True, slots=True)
class Event:
    """One step; what it is done to is a number, as names move."""

    kind: str  # link, unlink, move: of names. write, cut: of a content. flush.
    node: int
    folder: int = -1  # whose names change
    name: str = ""
    target_folder: int = -1
    target: str = ""
    offset: int = 0
    data: bytes = b""
    mtime_ns: int = 0

    @property
    def of_names(self) -> bool:
        return self.kind in ("link", "unlink", "move")


@dataclass(slots=True)
class _Disk:
    """Files and folders by number; the top is number 0."""

    folders: dict[int, dict[str, int]] = field(default_factory=dict)
    files: dict[int, bytearray] = field(default_factory=dict)
    mtimes: dict[int, int] = field(default_factory=dict)

    def copy(self) -> _Disk:
        folders = {number: dict(names) for number, names in self.folders.items()}
        return _Disk(folders, {number: bytearray(data) for number, data in self.files.items()}, dict(self.mtimes))

    def apply(self, event: Event) -> None:
        """Do one step, whatever became of the others."""
        if event.kind == "link":
            self.folders[event.folder][event.name] = event.node
        elif event.kind == "unlink":
            if self.folders[event.folder].get(event.name) == event.node and not self.folders.get(event.node):
                del self.folders[event.folder][event.name]
        elif event.kind == "move":
            if self.folders[event.folder].get(event.name) == event.node:
                del self.folders[event.folder][event.name]
            self.folders[event.target_folder][event.target] = event.node
        elif event.kind == "write":
            content = self.files[event.node]
            content.extend(bytes(max(0, event.offset - len(content))))
            content[event.offset : event.offset + len(event.data)] = event.data
            self.mtimes[event.node] = event.mtime_ns
        elif event.kind == "cut":
            del self.files[event.node][event.offset :]

    def state(self, number: int = 0) -> State:
        return {
            name: self.state(child)
            if child in self.folders
            else (bytes(self.files[child]), self.mtimes.get(child, 1_000_000_000))
            for name, child in sorted(self.folders[number].items())
        }


class Recording:
    """What happened below one folder between its making and :attr:`events`' last."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.events: list[Event] = []
        self.beside: list[str] = []  # changes that did not go through fs.py's primitives
        self._start = _Disk()
        self._next = itertools.count()
        self._numbers: dict[int, int] = {}  # by inode, which may come again
        self._lock = threading.RLock()
        self.inside = threading.local()
        self._scan(top)

    def _scan(self, folder: Path) -> int:
        number = self._new(folder.stat().st_ino)
        names = self._start.folders[number] = {}
        for path in folder.iterdir():
            if path.is_dir():
                names[path.name] = self._scan(path)
            else:
                names[path.name] = child = self._new(path.stat().st_ino)
                self._start.files[child] = bytearray(path.read_bytes())
                self._start.mtimes[child] = path.stat().st_mtime_ns
        return number

    def _new(self, inode: int) -> int:
        self._numbers[inode] = number = next(self._next)
        return number

    # --- recording ----------------------------------------------------------------------------

    def _at(self, name: Path | str, dir_fd: int | None = None) -> tuple[int, str]:
        """Return the number of the folder a name is in, -1 for one elsewhere, and the name there."""
        if dir_fd is not None:
            return self._numbers.get(os.fstat(dir_fd).st_ino, -1), str(name)
        return self._numbers.get(Path(name).parent.stat().st_ino, -1), Path(name).name

    def _node(self, name: Path | str, dir_fd: int | None = None) -> int:
        return self._numbers.get(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino, -1)

    def add(self, event: Event) -> None:
        if event.node >= 0:
            self.events.append(event)

    def create(self, real: Callable[..., int], path: Path, mode: int) -> int:
        folder, name = self._at(path)
        new = not path.exists()
        fd = real(path, mode)
        if folder >= 0 and new:
            self._start.files[node := self._new(os.fstat(fd).st_ino)] = bytearray()
            self.add(Event("link", node, folder, name))
        return fd

    def make_folder(self, real: Callable[..., None], path: Path, mode: int) -> None:
        folder, name = self._at(path)
        real(path, mode)
        if folder >= 0:
            self._start.folders[node := self._new(path.stat().st_ino)] = {}
            self.add(Event("link", node, folder, name))

    def write_all(self, real: Callable[..., None], fd: int, data: bytes | bytearray | memoryview) -> None:
        appends = fs.fcntl.fcntl(fd, fs.fcntl.F_GETFL) & os.O_APPEND
        offset = os.fstat(fd).st_size if appends else os.lseek(fd, 0, os.SEEK_CUR)
        real(fd, data)
        info, content = os.fstat(fd), bytes(data)
        node, middle = self._numbers.get(info.st_ino, -1), (len(content) + 1) // 2
        for start, part in ((0, content[:middle]), (middle, content[middle:])):  # one may die in the middle
            if part:
                self.add(Event("write", node, offset=offset + start, data=part, mtime_ns=info.st_mtime_ns))

    def truncate(self, real: Callable[..., None], fd: int, size: int) -> None:
        real(fd, size)
        self.add(Event("cut", self._numbers.get(os.fstat(fd).st_ino, -1), offset=size))

    def fsync(self, real: Callable[..., None], fd: int) -> None:
        real(fd)
        self.add(Event("flush", self._numbers.get(os.fstat(fd).st_ino, -1)))

    def rename(self, real: Callable[..., None], source: Path, target: Path) -> None:
        node, (folder, name), (target_folder, new) = self._node(source), self._at(source), self._at(target)
        real(source, target)
        self.add(Event("move", node, folder, name, target_folder, new))

    def unlink(self, real: Callable[..., None], name: Path | str, *, dir_fd: int | None = None) -> None:
        (folder, last), node = self._at(name, dir_fd), self._node(name, dir_fd)
        real(name, dir_fd=dir_fd)
        self.add(Event("unlink", node, folder, last))

    @contextmanager
    def primitive(self) -> Iterator[None]:
        with self._lock:
            self.inside.now = True
            try:
                yield
            finally:
                self.inside.now = False

    # --- rebuilding ---------------------------------------------------------------------------

    def states(self) -> Iterator[tuple[str, bool, State]]:
        """Yield every state a crash can leave, each once: what it is, if all had been done, and the state."""
        seen = set()
        for done in range(len(self.events) + 1):
            for model in MODELS:
                state = self._state(done, model)
                digest = hashlib.sha256(repr((state, done == len(self.events))).encode()).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield f"{model} after {done} of {len(self.events)} steps", done == len(self.events), state

    def _state(self, done: int, model: str) -> State:
        events, flushed = self.events[:done], self._flushed(done)
        chance = random.Random(f"{done} {model}")
        disk = self._start.copy()
        if model in ("half", "zeros", "garbage"):
            whole = self._start.copy()
            for event in events:
                whole.apply(event)
        for number, event in enumerate(events):
            if (
                number in flushed
                or model == "killed"
                or (event.of_names and model not in ("flushed", "gone", "some", "some other"))
                or (event.kind == "unlink" and model == "gone")
                or (model.startswith("some") and chance.random() < 0.5)
            ):
                disk.apply(event)
        if model in ("half", "zeros", "garbage"):
            for node in {event.node for number, event in enumerate(events) if number not in flushed} & set(disk.files):
                kept, left = disk.files[node], whole.files[node][len(disk.files[node]) :]
                kept += {
                    "half": left[: len(left) // 2],
                    "zeros": bytes(len(left)),
                    "garbage": chance.randbytes(len(left)),
                }[model]
                disk.mtimes[node] = whole.mtimes.get(node, 0)
        return disk.state()

    def _flushed(self, done: int) -> set[int]:
        """Return which of the first steps are on the disk for sure."""
        found, waiting = set(), dict[int, list[int]]()
        for number, event in enumerate(self.events[:done]):
            if event.kind == "flush":
                found.update(waiting.pop(event.node, []))
            else:
                holder = event.target_folder if event.kind == "move" else event.folder if event.of_names else event.node
                waiting.setdefault(holder, []).append(number)
        return found

    def lay(self, state: State) -> None:
        """Make the watched folder as a state says."""
        for path in list(self.top.iterdir()):
            fs.remove_tree(path)
        _lay(self.top, state)


def _lay(folder: Path, state: State) -> None:
    for name, what in state.items():
        if isinstance(what, dict):
            (folder / name).mkdir()
            _lay(folder / name, what)
        else:
            (folder / name).write_bytes(what[0])
            os.utime(folder / name, ns=(what[1], what[1]))


_recording: Recording | None = None


def _listen(event: str, args: tuple[Any, ...]) -> None:
    """Note what changes the watched folder without a primitive of fs.py."""
    found = _recording
    if found is None or getattr(found.inside, "now", False):
        return
    if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
        changing = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    else:
        changing = event in CHANGES
    if changing and not isinstance(args[0], int):
        path = os.fsdecode(args[0])
        if path.startswith(f"{found.top}/") and "/locks" not in path:
            found.beside.append(f"{event} {path}")


sys.addaudithook(_listen)


@contextmanager
def recorded(top: Path) -> Iterator[Recording]:
    """Record all that is done below ``top`` through fs.py while the block runs."""
    global _recording
    recording = Recording(top)

    def through(real: Callable[..., Any], note: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            with recording.primitive():
                return note(real, *args, **named)

        return call

    notes = {
        "create": recording.create,
        "open_log": recording.create,
        "make_folder": recording.make_folder,
        "write_all": recording.write_all,
        "truncate": recording.truncate,
        "fsync": recording.fsync,
        "rename": recording.rename,
        "unlink": recording.unlink,
        "remove_folder": recording.unlink,
    }
    real = {name: getattr(fs, name) for name in notes}
    for name, note in notes.items():
        setattr(fs, name, through(real[name], note))
    _recording = recording
    try:
        yield recording
    finally:
        _recording = None
        for name, before in real.items():
            setattr(fs, name, before)
