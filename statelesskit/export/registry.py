"""The trees that were exported and are still there: each keeps its snapshot, and may share files with the next.

Of each there is ``exports/registered/ID.json``, and beside it ``ID.seen``, which is derived: for each regular
file the fingerprint it had when it was proven equal to its line of the manifest, see :mod:`.sharing`.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.names import printable

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Export:
    """One exported tree.

    Attributes:
        sequence: its place in the order of the site's exports; the clock is never asked.
        inode: of the tree's top, which tells it from others at the same path, unless they were given it again;
            so a snapshot may be kept for longer than it is needed, never for less.
    """

    sequence: int
    path: Path
    snapshot: str
    prototype: str
    digest: str
    inode: int

    @property
    def there(self) -> bool:
        """Whether the tree is still at its path."""
        try:
            return os.lstat(self.path).st_ino == self.inode
        except OSError:
            return False


def registered(site: Site) -> list[Export]:
    """Return the exported trees that are still there, in the order they were made.

    Raises:
        DamagedError: what is known of one cannot be read, so nobody knows which snapshot it needs.
    """
    return [export for export in _all(site) if export.there]


def vanished(site: Site) -> list[Export]:
    """Return the exported trees that are not at their paths; the disk of one may only be unmounted."""
    return [export for export in _all(site) if not export.there]


def forget_vanished(site: Site) -> None:
    """Remove what is noted of trees that are gone, once their snapshots are gone too, so that it serves nobody."""
    for export in vanished(site):
        if not (site.snapshots / export.snapshot).exists():
            place = _place(site, export.path)
            fs.remove_tree(place.with_suffix(".seen"))
            fs.remove_tree(place)


def register(site: Site, path: Path, top: Path, snapshot: str, prototype: str, digest: str, seen: bytes) -> None:
    """Note a tree that is about to get its name; until it has it, :func:`registered` leaves it out.

    Args:
        path: where it will be.
        top: where it is now.
        seen: what :mod:`.sharing` knows of its files; "" if nothing.
    """
    known = _all(site)
    sequence = max((export.sequence for export in known), default=0) + 1
    export = Export(sequence, path, snapshot, prototype, digest, os.lstat(top).st_ino)
    place = _place(site, path)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    fs.remove_tree(place.with_suffix(".seen"))  # of another tree that was there before
    fs.write_json(place, {"format": FORMAT} | asdict(export) | {"path": os.fspath(path)})
    if seen:
        fs.write_file(place.with_suffix(".seen"), hashlib.sha256(seen).digest() + seen, mode=0o600)


def seen_of(site: Site, path: Path) -> bytes:
    """Return what was noted of the files of the tree at a path; nothing if that is not there, or damaged."""
    try:
        data = _place(site, path).with_suffix(".seen").read_bytes()
    except OSError:
        return b""
    return data[32:] if hashlib.sha256(memoryview(data)[32:]).digest() == data[:32] else b""


def _place(site: Site, path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return site.exports / "registered" / f"{name}.json"


def _all(site: Site) -> list[Export]:
    found = [_load(path) for path in sorted((site.exports / "registered").glob("[0-9a-f]*.json"))]
    return sorted(found, key=lambda export: export.sequence)


def _load(path: Path) -> Export:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data.pop("format") != FORMAT:
            raise ValueError("its format is not known here")
        return Export(**data | {"path": Path(data["path"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"{path} cannot be read: {type(error).__name__} {printable(error)}",
            hint="it is about an exported tree: remove it if that is no longer used, or export the tree anew",
        ) from error
