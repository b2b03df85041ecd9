"""Which snapshots hold a file, a content or a package: asked of all of them, with little memory.

A manifest is streamed and searched as text; only lines that name what is sought are parsed. Snapshots of
one digest are searched once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from statelesskit.config import Site
from statelesskit.errors import UsageError
from statelesskit.inventory import inventory
from statelesskit.manifest import Entry, decode
from statelesskit.packages import Package
from statelesskit.progress import SILENT, Progress
from statelesskit.snapshot import Snapshot, list_snapshots
from statelesskit.snapshot.manifest_file import pieces


@dataclass(frozen=True, slots=True)
class Held:
    """One snapshot that holds what was sought: as a file, or as a package."""

    snapshot: Snapshot
    entry: Entry | None = None
    package: Package | None = None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"snapshot": self.snapshot.name, "state": self.snapshot.state}
        if self.entry is not None:
            fields = self.entry.fields()
            found |= {name: fields.get(name) for name in ("path", "type", "size", "sha256")}
        if self.package is not None:
            found |= asdict(self.package)
        return found


def which_hold(
    site: Site, *, path: bytes = b"", sha256: str = "", package: str = "", progress: Progress = SILENT
) -> Iterator[Held]:
    """Yield every place in every snapshot, in the snapshots' order, that fits exactly one of the questions.

    Args:
        path: a file, folder or whatever has this path.
        sha256: a content, by the digest of a regular file.
        package: ``NAME`` or ``NAME=VERSION``; a binary package, or the source that packages were built from.

    Raises:
        UsageError: not exactly one was asked.
        DamagedError: a snapshot cannot be read.
    """
    if bool(path) + bool(sha256) + bool(package) != 1:
        raise UsageError("ask for one thing: a path, a SHA-256 or a package")
    snapshots = list_snapshots(site)
    progress.stage("searching", total=len(snapshots), unit="snapshots")
    if package:
        yield from _packages(site, snapshots, package, progress)
        return
    mark, fits = _question(path, sha256)
    answers: dict[str, list[Entry]] = {}
    for snapshot in snapshots:
        if snapshot.digest not in answers:
            answers[snapshot.digest] = [entry for entry in _lines_with(site, snapshot, mark) if fits(entry)]
        yield from (Held(snapshot, entry=entry) for entry in answers[snapshot.digest])
        progress.advance()


def _question(path: bytes, sha256: str) -> tuple[bytes, Callable[[Entry], bool]]:
    """Return what stands in the lines that could fit, and what says whether one does."""
    if sha256:
        digest = sha256.lower().removeprefix("sha256:")
        return digest.encode("ascii", "replace"), lambda entry: entry.sha256 == digest
    place = path.strip(b"/")
    mark = json.dumps(place.decode("utf-8", "surrogateescape")).encode("ascii")
    return b'"path":' + mark, lambda entry: entry.path == place


def _packages(site: Site, snapshots: list[Snapshot], wanted: str, progress: Progress) -> Iterator[Held]:
    name, _, version = wanted.partition("=")
    for snapshot in snapshots:
        for package in inventory(site, snapshot).packages:
            binary = package.name == name and version in ("", package.version)
            if binary or (package.source == name and version in ("", package.source_version)):
                yield Held(snapshot, package=package)
        progress.advance()


def _lines_with(site: Site, snapshot: Snapshot, mark: bytes) -> list[Entry]:
    """Return the entries whose lines hold some bytes, after the whole manifest proved to be the right one."""
    found = [line for piece in pieces(site, snapshot) for line in _search(piece, mark)]
    return [decode(line) for line in found]


def _search(text: bytes, mark: bytes) -> Iterator[bytes]:
    """Yield the lines of a text that hold ``mark``; the text is of whole lines."""
    place = text.find(mark)
    while place >= 0:
        end = text.find(b"\n", place) + 1
        yield text[text.rfind(b"\n", 0, place) + 1 : end]
        place = text.find(mark, end)
