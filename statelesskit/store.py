"""The store: the contents of regular files, each once, named by their SHA-256, kept in packs.

Below its folder: ``packs/HH…HH.pack``. Packs are immutable. A writer's unfinished pack has a name with
``.partial-`` and is locked; one that nobody locks is a dead writer's and is removed by the next. Two
packs may hold the same object: writers do not wait for each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from statelesskit import fs
from statelesskit.errors import DamagedError
from statelesskit.pack import SUFFIX, UNFINISHED, Pack, PackWriter

LARGE = 4 * 1024 * 1024  # bytes; from here on a file is streamed into its pack while it is hashed
PIECE = 1024 * 1024


class Store:
    """The objects of one site; reading needs no lock, writing happens in a :class:`Writer`."""

    def __init__(self, folder: Path) -> None:
        self.packs = folder / "packs"
        self._places: dict[bytes, tuple[Pack, int]] | None = None
        self.damaged: list[DamagedError] = []

    @property
    def places(self) -> dict[bytes, tuple[Pack, int]]:
        """Where each object is: its pack, and its number in it.

        A pack whose tables are damaged counts as missing and is named in :attr:`damaged`; so the next
        take stores again what it held.
        """
        if self._places is None:
            places: dict[bytes, tuple[Pack, int]] = {}
            self.damaged = []
            for path in sorted(self.packs.glob(f"[0-9a-f]*{SUFFIX}")):
                try:
                    pack = Pack(path)
                except DamagedError as error:
                    self.damaged.append(error)
                    continue
                places.update((digest, (pack, number)) for number, digest in enumerate(pack.digests))
            self._places = places  # whole, for threads that ask meanwhile
        return self._places

    def pack_files(self) -> frozenset[tuple[str, int, int]]:
        """Return name, size and time of every pack; a pack is never written again, so they tell if one was."""
        infos = [(path.name, path.stat()) for path in self.packs.glob(f"[0-9a-f]*{SUFFIX}")]
        return frozenset((name, info.st_size, info.st_mtime_ns) for name, info in infos)

    def forget(self) -> None:
        """Look at the disk again on the next use."""
        self._places = None

    def __contains__(self, digest: bytes) -> bool:
        return digest in self.places

    def read(self, digest: bytes) -> Iterator[bytes]:
        """Yield an object's content in pieces; the last one only after the whole was verified.

        Raises:
            DamagedError: the object is not here, or its bytes are not what its name says.
        """
        if digest not in self.places:
            raise DamagedError(
                f"the object {digest.hex()} is not in the store {self.packs.parent}",
                hint="statelesskit snapshot verify says which snapshots need it",
            )
        pack, number = self.places[digest]
        total, held = hashlib.sha256(), b""
        for piece in pack.read(number):
            total.update(piece)
            if held:
                yield held
            held = piece
        if total.digest() != digest:
            raise DamagedError(
                f"the object {digest.hex()} in {pack.path} is damaged: its content has the digest {total.hexdigest()}",
                hint="statelesskit snapshot verify says which snapshots need it",
            )
        yield held

    def faults(self, digests: set[bytes]) -> list[str]:
        """Read the packs that hold those objects as a whole; say which are damaged.

        Packs whose tables can't be read are named when an object is missing, which may have been in one.
        """
        found = []
        for pack in sorted({self.places[digest][0] for digest in digests & self.places.keys()}, key=lambda p: p.path):
            try:
                pack.verify()
            except DamagedError as error:
                found.append(error.message)
        if digests - self.places.keys():
            found += [error.message for error in self.damaged]
        return found

    def in_stored_order(self, digests: set[bytes]) -> list[bytes]:
        """Return those objects in the order that reads every frame once."""
        known = [digest for digest in digests if digest in self.places]
        known.sort(key=lambda digest: (self.places[digest][0].path, self.places[digest][1]))
        return known + sorted(digest for digest in digests if digest not in self.places)


class Writer:
    """Adds objects to a store, one pack for each thread that writes.

    Used as a context manager: on an error the packs are taken away. After :meth:`finish` the objects
    are on the disk; nothing may name them before. An error before that leaves the store as it was.
    """

    def __init__(self, store: Store, threads: int) -> None:
        self._store = store
        self._claimed: dict[bytes, int] = {}
        self._known = store.places
        store.packs.mkdir(parents=True, exist_ok=True)
        fs.fsync_folder(store.packs.parent)
        fs.remove_leftovers(store.packs / UNFINISHED)
        self._packs: list[PackWriter] = []
        self.new_bytes = [0] * threads
        with fs.disk_full_named(store.packs):
            try:
                for _ in range(threads):
                    self._packs.append(PackWriter(store.packs))
            except BaseException:
                self._abandon()
                raise

    def add(self, thread: int, content: bytes) -> bytes:
        """Keep a small object unless it is known; return its digest."""
        digest = hashlib.sha256(content).digest()
        if self._claim(digest, thread):
            self._packs[thread].add(digest, content)
            self.new_bytes[thread] += len(content)
        return digest

    def add_stream(self, thread: int, pieces: Iterator[bytes]) -> tuple[bytes, int]:
        """Keep a large object while it is read, and take it back if it was known; return digest and size."""
        digest, size = self._packs[thread].add_stream(pieces)
        if self._claim(digest, thread):
            self.new_bytes[thread] += size
        else:
            self._packs[thread].undo()
        return digest, size

    def _claim(self, digest: bytes, thread: int) -> bool:
        """Say whether this thread is to store the object; setdefault decides between two at once."""
        if digest in self._known or digest in self._claimed:
            return False
        return self._claimed.setdefault(digest, thread) == thread

    @property
    def stored_bytes(self) -> int:
        """How many bytes the new packs take on the disk."""
        return sum(pack.stored_bytes for pack in self._packs)

    def finish(self) -> None:
        """Flush the packs and give them their names; none gets its name before all are on the disk."""
        for pack in self._packs:
            pack.seal()
        for pack in self._packs:
            pack.publish()
        fs.fsync_folder(self._store.packs)
        self._store.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._abandon()

    def _abandon(self) -> None:
        for pack in self._packs:
            pack.abandon()
