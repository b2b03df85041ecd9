"""Squashfs 4: what an image of it holds, how one is made, and how it is unpacked again.

It keeps times in whole seconds from 1970 on, no holes, and of extended attributes only ``user.``, ``trusted.``
and ``security.`` (mksquashfs drops the others and ends with status 0); mksquashfs 4.5 makes the hard links of a
symlink symlinks of their own. Lost access control lists change who may read a file, so they must be waived.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from statelesskit import fs
from statelesskit.export.loss import SAID, WAIVABLE, Loss
from statelesskit.manifest import Entry, Manifest
from statelesskit.run import run

KEPT_XATTRS = (b"user.", b"trusted.", b"security.")
# Its own time is the only thing in an image that is not the tree's; the rest is reproducible by default since 4.4.
OPTIONS = ["-comp", "zstd", "-Xcompression-level", "3", "-mkfs-time", "0", "-no-progress"]
SECOND = 1_000_000_000
TIME_MAX = 2**32 - 1  # seconds; squashfs stores them in 32 bits


def losses(manifest: Manifest) -> list[Loss]:
    """Return what an image of the snapshot would lose, but that times are cut to whole seconds."""
    found = []
    for path, entry in _with_symlinks_apart(manifest):
        if path != entry.path:
            found.append(Loss(path, "it is no longer a hard link"))
        else:
            found += _losses(entry)
    return found


def _with_symlinks_apart(manifest: Manifest) -> Iterator[tuple[bytes, Entry]]:
    """Yield every path with its entry; a hard link of a symlink with that symlink's."""
    symlinks: dict[bytes, Entry] = {}
    for entry in manifest.entries():
        if entry.type == "symlink":
            symlinks[entry.path] = entry
        yield entry.path, symlinks.get(entry.link_to, entry) if entry.type == "link" else entry


def _losses(entry: Entry) -> Iterable[Loss]:
    for name, _ in entry.xattrs:
        if not name.startswith(KEPT_XATTRS):
            weight = WAIVABLE if name.startswith(b"system.") else SAID
            yield Loss(entry.path, f"its {os.fsdecode(name)} is lost", weight)
    if not 0 <= entry.mtime_ns <= TIME_MAX * SECOND:
        yield Loss(entry.path, "its time is before 1970 or after 2106 and is lost")
    if entry.holes:
        yield Loss(entry.path, "its holes are filled")


def held(manifest: Manifest) -> Iterator[Entry]:
    """Yield the entries as they must come back out of an image."""
    for path, entry in _with_symlinks_apart(manifest):
        if entry.type == "link":
            yield entry
            continue
        yield replace(
            entry,
            path=path,
            mtime_ns=min(max(entry.mtime_ns // SECOND, 0), TIME_MAX) * SECOND,
            xattrs=tuple(pair for pair in entry.xattrs if pair[0].startswith(KEPT_XATTRS)),
            holes=(),
        )


def make(tree: Path, image: Path, uuid: UUID) -> None:
    """Write the image of a tree; equal trees give equal bytes. A squashfs has no UUID."""
    run(["mksquashfs", tree, image, *OPTIONS])


@contextmanager
def read_again(image: Path, work: Path) -> Iterator[Path]:
    """Give what the image holds, unpacked by unsquashfs into a folder of ``work``."""
    tree = work / "unpacked"
    run(["unsquashfs", "-no-progress", "-dest", tree, image])
    yield tree
    fs.remove_tree(tree)
