"""What a prototype holds that its last snapshot does not: found without storing, reading only what seems changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from statelesskit.contents import Contents
from statelesskit.errors import DamagedError
from statelesskit.manifest import LINE_MAX, TIME_MAX, TIME_MIN, Entry, Manifest
from statelesskit.progress import SILENT, Progress
from statelesskit.prototype.prepare import Rules
from statelesskit.store import PIECE, Store
from statelesskit.tree import (
    OPEN_FILE,
    Finding,
    Found,
    Links,
    describe,
    holes_of,
    in_folder,
    link_of,
    open_file,
    walk,
    xattrs_of,
)

EVERYTHING = Rules()
NO_CONTENT = hashlib.sha256().hexdigest()


@dataclass(slots=True)
class OnDisk:
    """Contents of files that the store may not have yet, by the places where they were seen."""

    store: Store
    top: Path
    places: dict[bytes, bytes] = field(default_factory=dict)

    def read(self, digest: bytes) -> Iterator[bytes]:
        """Yield a content from the store, or from the tree where it was when that was looked at.

        Raises:
            DamagedError: it is in neither, or has changed since.
        """
        if digest not in self.places:
            yield from self.store.read(digest)
            return
        path = self.places[digest]
        content, total = [], hashlib.sha256()
        try:
            with os.fdopen(_open_below(self.top, path), "rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    content.append(piece)
                    total.update(piece)
        except OSError as error:
            raise DamagedError(f"{os.fsdecode(path)!r} cannot be read any more: {error.strerror}") from error
        if total.digest() != digest:
            raise DamagedError(f"{os.fsdecode(path)!r} changed meanwhile", hint="run the same command again")
        yield from content


def look_at(
    top: Path,
    before: Contents,
    store: Store,
    *,
    reread: bool = False,
    rules: Rules = EVERYTHING,
    progress: Progress = SILENT,
) -> tuple[Contents, list[Finding]]:
    """Describe the tree at ``top`` as a snapshot of it would, against an earlier snapshot.

    Args:
        before: that snapshot. A file whose length and time are as in it is taken to have the same content.
        reread: read every file instead; only that finds a content that was changed and its time put back.
        rules: what a snapshot leaves out, or takes empty.
    """
    findings: list[Finding] = []
    objects = OnDisk(store, top)
    known = before.manifest.entries()
    progress.stage("looking at the tree", total=len(before.manifest.lines), unit="files")
    lines = []
    links = Links(dict)
    lost: set[bytes] = set()
    was = next(known, None)
    for found in walk(top, findings.append, leaves_out=rules.leaves_out):
        while was is not None and was.path < found.path:
            was = next(known, None)
        old = was if was is not None and was.path == found.path and not reread else None
        try:
            empty = stat.S_ISREG(found.info.st_mode) and rules.empties(found.path)
            entry = link_of(found.path, found.info, links, empty=empty) or _entry(found, old, objects, findings)
            if empty and entry.type == "file":
                entry = replace(entry, sha256=NO_CONTENT, size=0, holes=())
        except OSError as error:
            findings.append(Finding(found.path, f"it could not be read: {error.strerror}"))
            lost.add(found.path)
            continue
        if entry.type == "link" and entry.link_to in lost:
            findings.append(Finding(found.path, "it is a hard link to a file that could not be read"))
            continue
        line = entry.encode()
        if len(line) > LINE_MAX:
            findings.append(Finding(found.path, "it has too many holes, or too large attributes, to be looked at"))
            line = replace(entry, holes=(), xattrs=()).encode()
        lines.append(line)
        progress.advance()
    return Contents(Manifest(lines), objects), findings


def _entry(found: Found, old: Entry | None, objects: OnDisk, findings: list[Finding]) -> Entry:
    try:
        xattrs = xattrs_of(in_folder(found.folder, found.name))
    except OSError as error:
        findings.append(Finding(found.path, f"its extended attributes could not be read: {error.strerror}"))
        xattrs = ()
    entry = describe(found, found.info, xattrs)
    if not TIME_MIN <= entry.mtime_ns <= TIME_MAX:
        entry = replace(entry, mtime_ns=min(max(entry.mtime_ns, TIME_MIN), TIME_MAX))
    if entry.type != "file":
        return entry
    if old and (old.type, old.size, old.mtime_ns) == ("file", found.info.st_size, entry.mtime_ns):
        if (old.mode, old.uid, old.gid, old.xattrs) == (entry.mode, entry.uid, entry.gid, entry.xattrs):
            return old
        return replace(entry, sha256=old.sha256, size=old.size, holes=old.holes)
    with os.fdopen(open_file(found), "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        size = file.tell()
        holes = holes_of(file.fileno(), size)
    if digest not in objects.store:
        objects.places.setdefault(digest, found.path)
    return replace(entry, sha256=digest.hex(), size=size, holes=holes)


def _open_below(top: Path, path: bytes) -> int:
    """Open a file, following nothing below ``top``."""
    *folders, name = path.split(b"/")
    here = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
        return os.open(name, OPEN_FILE, dir_fd=here)
    finally:
        os.close(here)
