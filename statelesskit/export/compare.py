"""Hold a tree on disk against a manifest, field by field, in one walk."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from statelesskit.manifest import Entry, Manifest
from statelesskit.progress import SILENT, Progress
from statelesskit.tree import Finding, Found, Links, describe, holes_of, in_folder, link_of, open_file, walk, xattrs_of


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One path at which a tree is not what the manifest says.

    Attributes:
        fields: the manifest's keys that differ; ``path`` when it is missing or was not expected.
    """

    path: bytes
    fields: tuple[str, ...]
    text: str


def compare(
    manifest: Manifest,
    top: Path,
    *,
    reread: bool,
    progress: Progress = SILENT,
    untouched: Callable[[bytes, os.stat_result], bool] = lambda path, info: False,
    infos: dict[bytes, os.stat_result] | None = None,
) -> Iterator[Mismatch]:
    """Yield every difference between the tree at ``top`` and the manifest, in path order.

    Args:
        reread: read and hash every file again. Without it contents are taken on trust, which is right
            only for a tree whose files were hashed while they were written, and holes by the blocks they spare.
        untouched: says of a file whether nothing was done to it since it was found to be right.
        infos: is given what was seen of each regular file, by the first of its paths.
    """
    findings: list[Finding] = []
    links = Links(dict)
    expected = manifest.entries()
    progress.stage("comparing with the manifest", total=len(manifest.lines), unit="files")
    want = next(expected, None)
    for found in walk(top, findings.append):
        while want is not None and want.path < found.path:
            yield Mismatch(want.path, ("path",), "it is missing")
            want = next(expected, None)
        if want is None or found.path < want.path:
            yield Mismatch(found.path, ("path",), "it is not in the manifest")
            continue
        if linked := link_of(found.path, found.info, links):
            have = linked
        elif not reread and _is_plainly(found, want, untouched):
            have = want
        else:
            have = described(found, want, reread=reread)
        if infos is not None and have.type == "file":
            infos[found.path] = found.info
        if have is not want and have != want:
            yield _mismatch(want, have)
        progress.advance()
        want = next(expected, None)
    while want is not None:
        yield Mismatch(want.path, ("path",), "it is missing")
        want = next(expected, None)
    for finding in findings:
        yield Mismatch(finding.path, ("path",), finding.finding)


def _is_plainly(found: Found, want: Entry, untouched: Callable[[bytes, os.stat_result], bool]) -> bool:
    """Say whether it is what the manifest says, as far as can be seen without opening it; False if in doubt."""
    info = found.info
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        # Where fewer blocks are taken than it is long, there are holes; they are looked for when it is open.
        fits = want.type == "file" and want.size == info.st_size <= info.st_blocks * 512 and not want.holes
    else:
        fits = kind == stat.S_IFDIR and want.type == "dir"
    return (
        fits
        and want.mode == stat.S_IMODE(info.st_mode)
        and want.uid == info.st_uid
        and want.gid == info.st_gid
        and want.mtime_ns == info.st_mtime_ns
        and (untouched(found.path, info) or want.xattrs == xattrs_of(in_folder(found.folder, found.name)))
    )


def described(found: Found, want: Entry, *, reread: bool) -> Entry:
    """Describe what is on disk as a manifest would; without ``reread`` with the content that is wanted."""
    entry = describe(found, found.info, xattrs_of(in_folder(found.folder, found.name)))
    if entry.type != "file":
        return entry
    entry = replace(entry, size=found.info.st_size, sha256=want.sha256)
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


def _mismatch(want: Entry, have: Entry) -> Mismatch:
    expected, found = want.fields(), have.fields()
    names = tuple(sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)))
    text = "; ".join(f"{name} is {found.get(name)!r}, the manifest says {expected.get(name)!r}" for name in names)
    return Mismatch(want.path, names, text)
