"""The store: the contents of regular files, each once, named by their SHA-256, kept in packs.

Below its folder: ``packs/HH…HH.pack``. Packs are immutable. A writer's unfinished pack has a name with
``.partial-`` and is locked; one that nobody locks is a dead writer's and is removed by the next. Two
packs may hold the same object: writers do not wait for each other. Beside them ``index`` says where each
object is; it is derived, see :mod:`statelesskit.index`. ``damaged`` names, one a line in hexadecimal, the
objects of which the last verification found no whole copy: they count as missing, so the next take that
meets their content keeps it again.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from statelesskit import fs
from statelesskit.digests import DigestSet
from statelesskit.errors import DamagedError, NoSpaceError
from statelesskit.index import Index, PackFile
from statelesskit.pack import SUFFIX, UNFINISHED, Pack, PackWriter

LARGE = 4 * 1024 * 1024  # bytes; from here on a file is streamed into its pack while it is hashed
PIECE = 1024 * 1024
FEW_OBJECTS, FEW_PACKS = 4096, 64  # that the index does not cover; more are worth writing it anew
_PACK = re.compile(r"[0-9a-f]{64}" + re.escape(SUFFIX), re.ASCII)
_HINT = "statelesskit snapshot verify says which snapshots need it"


class _View:
    """The packs that were on the disk at one moment, and where the objects are in them."""

    def __init__(self, files: frozenset[PackFile], indexes: list[Index], damaged: frozenset[bytes]) -> None:
        self.files = files
        self.indexes = indexes
        self.damaged = damaged
        # A pack that is gone must not be believed because an index names it.
        self.names = [[file[0] if file in files else "" for file in index.packs] for index in indexes]

    def places(self, digest: bytes) -> Iterator[tuple[str, int]]:
        """Yield the name of each pack that should hold the object, and its number there."""
        for index, names in zip(self.indexes, self.names, strict=True):
            for pack, number in index.places(digest):
                if names[pack]:
                    yield names[pack], number


class Store:
    """The objects of one site; reading needs no lock, writing happens in a :class:`Writer`."""

    def __init__(self, folder: Path) -> None:
        self.packs = folder / "packs"
        self.index_file = folder / "index"
        self.damaged_file = folder / "damaged"
        self._damaged: dict[Path, DamagedError] = {}
        self._view: _View | None = None
        self._opened: dict[str, Pack] = {}
        self._lock = threading.Lock()

    # --- what is there ------------------------------------------------------------------------

    @property
    def damaged(self) -> dict[Path, DamagedError]:
        """The packs whose tables can't be read.

        What they hold counts as missing, so the next take that meets it keeps it again.
        """
        self._looked()
        return self._damaged

    def pack_files(self) -> frozenset[tuple[str, int, int]]:
        """Return name, size and time of every pack, and of the list of what is damaged.

        A pack is never written again, so they tell if anything was added, lost, or found damaged.
        """
        found = [(file.name, info.st_size, info.st_mtime_ns) for file, info in self._files()]
        with suppress(OSError):
            info = self.damaged_file.stat()
            found.append((self.damaged_file.name, info.st_size, info.st_mtime_ns))
        return frozenset(found)

    def _files(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        with suppress(FileNotFoundError), os.scandir(self.packs) as files:
            for file in files:
                if _PACK.fullmatch(file.name):
                    with suppress(FileNotFoundError):
                        yield file, file.stat()

    def pack_names(self) -> frozenset[str]:
        """Return the names of the packs that are on the disk now."""
        return frozenset(file.name for file, _ in self._files())

    def seen_packs(self) -> frozenset[str]:
        """Return the names of the packs that the answers since the last look at the disk rest on."""
        return frozenset(name for name, _ in self._view.files) if self._view else frozenset()

    def forget(self) -> None:
        """Look at the disk again on the next use."""
        self._view = None

    def _looked(self) -> _View:
        if (view := self._view) is None:
            with self._lock:
                if (view := self._view) is None:
                    view = self._view = self._look()
        return view

    def _look(self) -> _View:
        files = {(file.name, info.st_size) for file, info in self._files()}
        try:
            index = Index.load(self.index_file)
            broken = False
        except DamagedError:
            index, broken = Index.of({}), self.index_file.exists()
        self._damaged, tail = {}, dict[PackFile, Pack]()
        for file in sorted(files.difference(index.packs)):
            try:
                tail[file] = Pack(self.packs / file[0])
            except DamagedError as error:
                if (self.packs / file[0]).exists():
                    self._damaged[self.packs / file[0]] = error
                files.discard(file)
        self._opened = {name: pack for name, pack in self._opened.items() if (self.packs / name).exists()}
        gone = [number for number, file in enumerate(index.packs) if file not in files]
        if (
            broken
            or len(tail) > FEW_PACKS
            or sum(map(len, tail.values())) > max(FEW_OBJECTS, index.rows // 4)
            or len(gone) > len(index.packs) // 4
        ):
            indexes = [self._write_index(Index.of(tail, index, gone))]
        else:
            indexes = [index, Index.of(tail)]
            self._opened |= {name: pack for (name, _), pack in tail.items()}
        return _View(frozenset(files), indexes, self.listed_damaged())

    def _write_index(self, index: Index) -> Index:
        """Put an index on the disk and use it from there; who may only read, or has no room, goes on without."""
        with suppress(OSError, NoSpaceError, DamagedError):
            index.write(self.index_file)
            return Index.load(self.index_file)
        return index

    def mend_index(self) -> str:
        """Hold the index against the packs' tables; where it says something else make it anew, and say so."""
        if not self.index_file.exists():
            self._looked()
            return ""
        files, opened = {(file.name, info.st_size) for file, info in self._files()}, dict[PackFile, Pack]()
        try:
            index = Index.load(self.index_file)
        except DamagedError as error:
            index, fault = Index.of({}), error.message
            covered = sorted(files)
        else:
            fault, covered = "", [file for file in index.packs if file in files]
        for file in covered:
            with suppress(DamagedError):
                opened[file] = Pack(self.packs / file[0])
        whole = Index.of(opened)
        gone = [number for number, file in enumerate(index.packs) if file not in opened]
        if not fault and Index.of({}, index, gone) != whole:
            fault = f"the index {self.index_file} is wrong"
        if fault or gone:
            self._write_index(whole)
        self.forget()
        self._looked()
        return f"{fault}; it was made anew from the packs" if fault else ""

    # --- objects ------------------------------------------------------------------------------

    def __contains__(self, digest: bytes) -> bool:
        view = self._looked()
        return digest not in view.damaged and next(view.places(digest), None) is not None

    def missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Return those objects that are in no pack, or known to be damaged. Asks the index only."""
        view, wanted = self._looked(), set(digests)
        if 8 * len(wanted) < sum(index.rows for index in view.indexes):
            return [digest for digest in wanted if digest not in self]
        left = wanted - view.damaged
        for index, names in zip(view.indexes, view.names, strict=True):
            for digest in index.digests({number for number, name in enumerate(names) if name}):
                left.discard(digest)
        return [*left, *(view.damaged & wanted)]

    def place(self, digest: bytes) -> tuple[Pack, int] | None:
        """Return where an object is: its pack, and its number there."""
        for name, number in self._copies(digest):
            with suppress(DamagedError):
                return self._pack(name), number
        return None

    def packs_with(self, digest: bytes) -> list[Path]:
        """Return the packs that should hold an object."""
        return [self.packs / name for name, _ in self._looked().places(digest)]

    def readable_packs(self) -> list[Pack]:
        """Return all packs, sorted by name, but those in :attr:`damaged`."""
        found = []
        for name, _ in sorted(self._looked().files):
            with suppress(DamagedError):
                found.append(self._pack(name))
        return found

    def _pack(self, name: str) -> Pack:
        if name not in self._opened:
            self._opened[name] = Pack(self.packs / name)
        return self._opened[name]

    def read(self, digest: bytes) -> Iterator[bytes]:
        """Yield an object's content in pieces; the last one only after the whole was verified.

        When a pack is gone (what it held was repacked) or an object in it is damaged, another copy is read
        where there is one; pieces that were handed out already must be the same there.

        Raises:
            DamagedError: the object is not here, or its bytes are not what its name says.
        """
        failure: DamagedError | None = None
        given, given_bytes = hashlib.sha256(), 0
        for name, number in self._copies(digest):
            total, held, skip = hashlib.sha256(), b"", given_bytes
            try:
                pack = self._pack(name)
                if number >= len(pack) or pack.digest(number) != digest:
                    raise DamagedError(f"the index {self.index_file} is wrong about {digest.hex()}", hint=_HINT)
                for piece in pack.read(number):
                    if skip:
                        total.update(piece[:skip])
                        piece, skip = piece[skip:], skip - len(piece[:skip])
                        if not skip and total.digest() != given.digest():
                            break
                    if held:
                        yield held
                        given, given_bytes = total.copy(), given_bytes + len(held)
                    total.update(piece)
                    held = piece
                if total.digest() == digest:
                    yield held
                    return
                raise DamagedError(
                    f"the object {digest.hex()} in {pack.path} is damaged: "
                    f"its content has the digest {total.hexdigest()}",
                    hint=_HINT,
                )
            except DamagedError as error:
                failure = failure or error
        raise failure or DamagedError(
            f"the object {digest.hex()} is not in the store {self.packs.parent}",
            hint=_HINT,
        )

    def _is_whole(self, digest: bytes, name: str, number: int) -> bool:
        total = hashlib.sha256()
        try:
            for piece in self._pack(name).read(number):
                total.update(piece)
        except (DamagedError, IndexError):
            return False
        return total.digest() == digest

    def copies(self, digest: bytes) -> Iterator[Iterator[bytes]]:
        """Yield the content of each copy of an object, in pieces, unverified: for who can take back what was wrong."""
        for name, number in self._copies(digest):
            with suppress(DamagedError):
                pack = self._pack(name)
                if number < len(pack) and pack.digest(number) == digest:
                    yield pack.read(number)

    def _copies(self, digest: bytes) -> Iterator[tuple[str, int]]:
        """Yield where the object should be; when that was not enough, look at the disk again, once."""
        view, tried = self._looked(), set[tuple[str, int]]()
        places = list(view.places(digest))
        if len(places) > 1:  # what was handed out of a damaged one could not be taken back
            places.sort(key=lambda place: not self._is_whole(digest, *place))
        for place in places:
            tried.add(place)
            yield place
        if {(file.name, info.st_size) for file, info in self._files()} != view.files:
            if self._view is view:
                self.forget()
            for place in self._looked().places(digest):
                if place not in tried:
                    yield place

    def in_stored_order(self, digests: set[bytes]) -> list[bytes]:
        """Return those objects in the order that reads every frame once; what is not here comes last."""
        view, left = self._looked(), set(digests)
        found: list[bytes] = []
        if 8 * len(left) < sum(index.rows for index in view.indexes):
            places = {digest: place for digest in left if (place := next(view.places(digest), None))}
            found = sorted(places, key=places.__getitem__)
        else:
            for name in (name for names in view.names for name in names if name):
                with suppress(DamagedError):
                    inside = [digest for digest in self._pack(name).digests() if digest in left]
                    found += dict.fromkeys(inside)
                    left.difference_update(inside)
        return found + sorted(digests.difference(found))

    # --- what is known to be damaged ----------------------------------------------------------

    def listed_damaged(self) -> frozenset[bytes]:
        """Return the objects of which the last verification found no whole copy."""
        with suppress(OSError, ValueError):
            return frozenset(map(bytes.fromhex, self.damaged_file.read_text("ascii").split()))
        return frozenset()

    def list_damaged(self, digests: Iterable[bytes]) -> None:
        """Note the objects of which no whole copy is here, in place of what was noted before."""
        listed = frozenset(digests)
        if listed != self.listed_damaged() or (not listed and self.damaged_file.exists()):
            if listed:
                fs.write_file(self.damaged_file, "".join(f"{one.hex()}\n" for one in sorted(listed)).encode())
            else:
                fs.unlink(self.damaged_file)
                fs.fsync_folder(self.damaged_file.parent)
            self.forget()


class Writer:
    """Adds objects to a store, one pack for each thread that writes.

    Used as a context manager: on an error the packs are taken away. After :meth:`finish` the objects
    are on the disk; nothing may name them before. An error before that leaves the store as it was.

    Attributes:
        new_bytes: for each thread, the lengths of the objects that were not here.
        relied_on: after :meth:`finish`, the names of the packs that hold the objects given, new and known.
    """

    relied_on: frozenset[str] = frozenset()

    def __init__(self, store: Store, threads: int) -> None:
        self._store = store
        self._claimed = DigestSet()
        fs.make_folders(store.packs)
        fs.fsync_folder(store.packs.parent)  # who made it may have died before
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
        if self._claim(digest):
            self._packs[thread].add(digest, content)
            self.new_bytes[thread] += len(content)
        return digest

    def add_stream(self, thread: int, pieces: Iterator[bytes]) -> tuple[bytes, int]:
        """Keep a large object while it is read, and take it back if it was known; return digest and size."""
        digest, size = self._packs[thread].add_stream(pieces)
        if self._claim(digest):
            self.new_bytes[thread] += size
        else:
            self._packs[thread].undo()
        return digest, size

    def _claim(self, digest: bytes) -> bool:
        """Say whether the asking thread is to store the object: it is new, and no other thread does."""
        return digest not in self._store and self._claimed.add(digest)

    @property
    def stored_bytes(self) -> int:
        """How many bytes the new packs take on the disk."""
        return sum(pack.stored_bytes for pack in self._packs)

    def finish(self) -> None:
        """Flush the packs and give them their names; none gets its name before all are on the disk."""
        for pack in self._packs:
            pack.seal()
        published = [path for pack in self._packs if (path := pack.publish())]
        self.relied_on = self._store.seen_packs() | {path.name for path in published}
        if published:
            fs.fsync_folder(self._store.packs)
            fs.fsync_folder(self._store.packs.parent)  # which may have been made by this
            self._store.forget()
        listed = self._store.listed_damaged()
        if healed := {digest for digest in listed if digest in self._claimed}:
            self._store.list_damaged(listed - healed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._abandon()

    def _abandon(self) -> None:
        for pack in self._packs:
            pack.abandon()
