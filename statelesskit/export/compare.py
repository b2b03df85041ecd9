"""Hold a tree on disk against a manifest, field by field, in one walk."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from statelesskit.manifest import Entry, Manifest
from statelesskit.progress import SILENT, Progress
from statelesskit.tree import Finding, Found, describe, holes_of, in_folder, open_file, walk, xattrs_of


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One path at which a tree is not what the manifest says.

    Attributes:
        fields: the manifest's keys that differ; ``path`` when it is missing or was not expected.
    """

    path: bytes
    fields: tuple[str, ...]
    text: str


def compare(manifest: Manifest, top: Path, *, reread: bool, progress: Progress = SILENT) -> Iterator[Mismatch]:
    """Yield every difference between the tree at ``top`` and the manifest, in path order.

    Args:
        reread: read and hash every file again. Without it contents are taken on trust, which is right
            only for a tree whose files were hashed while they were written.
    """
    findings: list[Finding] = []
    expected = manifest.entries()
    found = _entries(top, reread, findings)
    progress.stage("comparing with the manifest", total=len(manifest.lines), unit="files")
    want, have = next(expected, None), next(found, None)
    while want or have:
        if have is None or (want is not None and want.path < have.path):
            assert want is not None
            yield Mismatch(want.path, ("path",), "it is missing")
            want = next(expected, None)
            continue
        if want is None or have.path < want.path:
            yield Mismatch(have.path, ("path",), "it is not in the manifest")
            have = next(found, None)
            continue
        if not reread and have.type == want.type == "file":
            have = replace(have, sha256=want.sha256)
        if have != want:
            yield _mismatch(want, have)
        progress.advance()
        want, have = next(expected, None), next(found, None)
    for finding in findings:
        yield Mismatch(finding.path, ("path",), finding.finding)


def _mismatch(want: Entry, have: Entry) -> Mismatch:
    expected, found = want.fields(), have.fields()
    names = tuple(sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)))
    text = "; ".join(f"{name} is {found.get(name)!r}, the manifest says {expected.get(name)!r}" for name in names)
    return Mismatch(want.path, names, text)


def _entries(top: Path, reread: bool, findings: list[Finding]) -> Iterator[Entry]:
    """Describe what is on disk as a manifest would; without ``reread`` a file is opened only to see its holes."""
    links: dict[tuple[int, int], bytes] = {}
    for found in walk(top, findings.append):
        info = found.info
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            first = links.setdefault((info.st_dev, info.st_ino), found.path)
            if first != found.path:
                yield Entry(found.path, "link", link_to=first)
                continue
        entry = describe(found, info, xattrs_of(in_folder(found.folder, found.name)))
        if entry.type == "file":
            entry = _opened(found, replace(entry, size=info.st_size), reread)
        yield entry


def _opened(found: Found, entry: Entry, reread: bool) -> Entry:
    fd = open_file(found)
    try:
        holes = holes_of(fd, entry.size)
        if not reread:
            return replace(entry, holes=holes)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", buffering=0, closefd=False) as file:
            return replace(entry, holes=holes, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    finally:
        os.close(fd)
