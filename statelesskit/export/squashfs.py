"""Write a snapshot as one squashfs image, and prove by unpacking it that it is what the manifest says.

What the format can't hold is said before: squashfs 4 keeps times in whole seconds from 1970 on, no holes,
and of extended attributes only ``user.``, ``trusted.`` and ``security.`` (mksquashfs drops the others and
ends with status 0); mksquashfs 4.5 makes the hard links of a symlink symlinks of their own. Lost access
control lists change who may read a file, so they must be waived.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from statelesskit import fs
from statelesskit.errors import ExistsError, PermissionNeededError, RefusedError
from statelesskit.export.tree import NEEDS_ROOT, check_space, check_target, check_tree
from statelesskit.manifest import Entry, Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.run import run
from statelesskit.store import Store
from statelesskit.tree import Finding
from statelesskit.write_tree import write_tree

KEPT_XATTRS = (b"user.", b"trusted.", b"security.")
SECOND = 1_000_000_000
TIME_MAX = 2**32 - 1  # seconds; squashfs stores them in 32 bits


def losses(manifest: Manifest) -> list[Finding]:
    """Return what a squashfs image of the snapshot would lose, one finding for each path and kind."""
    return [
        Finding(path, text)
        for path, entry in _with_symlinks_apart(manifest)
        for text in (["it is no longer a hard link"] if path != entry.path else _losses(entry))
    ]


def _with_symlinks_apart(manifest: Manifest) -> Iterator[tuple[bytes, Entry]]:
    """Yield every path with its entry; a hard link of a symlink with that symlink's."""
    symlinks: dict[bytes, Entry] = {}
    for entry in manifest.entries():
        if entry.type == "symlink":
            symlinks[entry.path] = entry
        yield entry.path, symlinks.get(entry.link_to, entry) if entry.type == "link" else entry


def _losses(entry: Entry) -> Iterable[str]:
    for name, _ in entry.xattrs:
        if not name.startswith(KEPT_XATTRS):
            yield f"its {os.fsdecode(name)} is lost"
    if not 0 <= entry.mtime_ns <= TIME_MAX * SECOND:
        yield "its time is before 1970 or after 2106 and is lost"
    if entry.holes:
        yield "its holes are filled"


def export_squashfs(
    manifest: Manifest, store: Store, target: Path, *, waive: bool = False, progress: Progress = SILENT
) -> list[Finding]:
    """Write the image to ``target``, which must be free.

    Returns:
        What was lost, as :func:`losses`; that times are cut to whole seconds is not listed.

    Raises:
        RefusedError: extended attributes would be lost and that was not waived.
        ExistsError, NoSpaceError, PermissionNeededError, DamagedError: as for a tree.
    """
    check_target(target)
    if target.exists():
        raise ExistsError(f"{target} is a folder", hint="name the image's file")
    lost = losses(manifest)
    hurt = [finding for finding in lost if finding.finding.startswith("its system.")]
    if hurt and not waive:
        raise RefusedError(
            f"squashfs can't hold all of this snapshot: {printable(os.fsdecode(hurt[0].path))}: {hurt[0].finding}"
            + (f", and {len(hurt) - 1} more" if len(hurt) > 1 else ""),
            hint="export a tree, or say --waive if access control lists do not matter here",
        )
    check_space(manifest, target, copies=2)  # the tree, and an image that may turn out as large
    kept = Manifest.of(_as_squashfs(replace(entry, path=path)) for path, entry in _with_symlinks_apart(manifest))
    try:
        with fs.work_folder(target) as work:
            tree, image = work / "tree", work / "image"
            tree.mkdir()
            write_tree(kept, store, tree, progress)
            progress.stage("making the image")
            run(["mksquashfs", tree, image, "-comp", "zstd", "-Xcompression-level", "3", "-no-progress"])
            fs.remove_tree(tree)
            progress.stage("unpacking it again")
            run(["unsquashfs", "-no-progress", "-dest", tree, image])
            check_tree(kept, tree, reread=True, progress=progress)
            with image.open("rb") as written:
                fs.fsync(written.fileno())
            fs.rename_durably(image, target)
    except PermissionError as error:
        raise PermissionNeededError(f"{target}: {error.strerror}", hint=NEEDS_ROOT) from error
    return lost


def _as_squashfs(entry: Entry) -> Entry:
    """Return the entry as it must come back out of an image."""
    if entry.type == "link":
        return entry
    return replace(
        entry,
        mtime_ns=min(max(entry.mtime_ns // SECOND, 0), TIME_MAX) * SECOND,
        xattrs=tuple(pair for pair in entry.xattrs if pair[0].startswith(KEPT_XATTRS)),
        holes=(),
    )
