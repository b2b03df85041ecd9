"""Where a repair gets what is lost: another site, a bare store, or an exported tree. None of it is trusted."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from statelesskit.config import Site, load_site
from statelesskit.errors import DamagedError, NotFoundError
from statelesskit.manifest import HEADER
from statelesskit.progress import Progress
from statelesskit.snapshot.description import ABOUT, CHECKSUM, altered
from statelesskit.snapshot.manifest_file import manifest_text
from statelesskit.snapshot.registry import look_at_snapshots, snapshot_of
from statelesskit.store import PIECE, Store
from statelesskit.take import take_tree
from statelesskit.tree import OPEN_FILE, OPEN_FOLDER


class Source(Protocol):
    """What a repair asks of a place."""

    kind: str

    def read(self, digest: bytes) -> Iterator[bytes]:
        """Yield what should be an object's content; raises DamagedError when it can't be had."""

    def manifest(self, digest: str, store: Store, progress: Progress) -> bytes | None:
        """Return what should be the text of the manifest with this digest, if it can be had."""

    def about(self, name: str) -> dict[str, Any] | None:
        """Return what is said there about a snapshot of that name, if that can be believed."""

    def expect(self, places: Mapping[bytes, bytes]) -> None:
        """Learn under which path each object that will be asked for can be found in a tree."""


def open_source(place: Path) -> Source:
    """Say what is at a place.

    Raises:
        NotFoundError: there is nothing there that could help.
    """
    if (place / "site.toml").is_file():
        return _OfSite(load_site(place))
    if (place / "packs").is_dir():
        return _OfStore(Store(place))
    if place.is_dir() and any(place.iterdir()):
        return _OfTree(place)
    raise NotFoundError(
        f"there is nothing at {place} to repair from",
        hint="name another site's folder, a store's folder (with packs in it), or an exported tree",
    )


class _OfStore:
    kind = "a store"

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, digest: bytes) -> Iterator[bytes]:
        return self._store.read(digest)

    def manifest(self, digest: str, store: Store, progress: Progress) -> bytes | None:
        return None

    def about(self, name: str) -> dict[str, Any] | None:
        return None

    def expect(self, places: Mapping[bytes, bytes]) -> None:
        pass


class _OfSite(_OfStore):
    kind = "a site"

    def __init__(self, site: Site) -> None:
        super().__init__(Store(site.store))
        self._site = site

    def manifest(self, digest: str, store: Store, progress: Progress) -> bytes | None:
        for other in look_at_snapshots(self._site)[0]:
            with suppress(DamagedError):
                if other.digest == digest:
                    return manifest_text(self._site, other)
        return None

    def about(self, name: str) -> dict[str, Any] | None:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found: dict[str, Any] = json.loads((self._site.snapshots / name / ABOUT).read_bytes())
            if snapshot_of(found).name == name and CHECKSUM in found and not altered(found):
                return found
        return None


class _OfTree:
    kind = "a tree"

    def __init__(self, top: Path) -> None:
        self._top = top
        self._places: Mapping[bytes, bytes] = {}
        self._text = b""

    def about(self, name: str) -> dict[str, Any] | None:
        return None

    def expect(self, places: Mapping[bytes, bytes]) -> None:
        self._places = places

    def read(self, digest: bytes) -> Iterator[bytes]:
        try:
            with os.fdopen(_open_below(self._top, self._places[digest]), "rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    yield piece
        except (OSError, KeyError) as error:
            raise DamagedError(f"{digest.hex()} can't be had from {self._top}: {error}") from error

    def manifest(self, digest: str, store: Store, progress: Progress) -> bytes | None:
        """Describe the tree; what it holds and the store does not is kept there on the way."""
        if not self._text:
            lines = [HEADER]
            take_tree(self._top, store, lines.append, progress)
            self._text = b"".join(lines)
        return self._text


def _open_below(top: Path, path: bytes) -> int:
    """Open a regular file in a tree, one name at a time; no link is followed."""
    *folders, name = path.split(b"/")
    folder = os.open(top, OPEN_FOLDER)
    try:
        for one in folders:
            below = os.open(one, OPEN_FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        fd = os.open(name, OPEN_FILE, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{os.fsdecode(path)!r} is no regular file")
    return fd
