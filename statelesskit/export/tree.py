"""Write a snapshot out as a tree of files, and prove that it is what the manifest says.

A tree is built under a temporary name, each file hashed as it is written and all metadata walked again;
it gets its own name only when everything was right and is on the disk. What a killed export left beside
that name is removed by the next one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.errors import DamagedError, ExistsError, NoSpaceError, NotFoundError, PermissionNeededError
from statelesskit.export.compare import Mismatch, compare
from statelesskit.export.sharing import RACY_S, Sharing
from statelesskit.manifest import Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.store import Store
from statelesskit.workers import Workers
from statelesskit.write_tree import write_tree

RESERVE = 1.02  # folders, inodes and what a file's last block wastes
NEEDS_ROOT = "owners, devices and set-id bits can be restored by root only"


def export_tree(
    manifest: Manifest,
    store: Store,
    target: Path,
    *,
    reread: bool = False,
    sharing: Sharing | None = None,
    finish: Callable[[Path, dict[bytes, os.stat_result]], None] | None = None,
    progress: Progress = SILENT,
) -> list[Mismatch]:
    """Write the tree to ``target``, which must be free (or an empty folder).

    Args:
        reread: read every file back and hash it again.
        sharing: an earlier export, whose files are linked where they are the same.
        finish: called with the tree, when all is right but its name, and with what was seen of its files.

    Returns:
        Differences that do no harm: holes that the target's file system lays out in its own way.

    Raises:
        ExistsError: something is at ``target``.
        NoSpaceError: it would not fit, or did not.
        PermissionNeededError: owners or devices need root.
        DamagedError: an object is damaged, or the tree came out different from the manifest.
    """
    check_target(target)
    manifest.keep()
    if sharing is None:
        check_space(manifest, target)
    top = next(manifest.entries())
    infos: dict[bytes, os.stat_result] = {}
    try:
        with fs.new_folder(target, mode=top.mode) as partial:
            write_tree(manifest, store, partial, progress, sharing)
            with Workers(1, lambda _: fs.sync_filesystem(partial)):  # looking writes nothing more
                time.sleep(RACY_S)  # what is done to a file from now on moves its ctime
                untouched = sharing.untouched if sharing else lambda path, info: False
                harmless = check_tree(
                    manifest, partial, reread=reread, progress=progress, untouched=untouched, infos=infos
                )
                progress.stage("writing to disk")
            if sharing and (touched := sharing.touched(infos)):
                raise DamagedError(
                    f"{printable(os.fsdecode(touched[0]))} was written to in the tree it is shared with",
                    hint="an exported tree is for reading only: mount it so; then export again",
                )
            if finish:
                finish(partial, infos)
    except FileExistsError as error:
        raise ExistsError(f"{target} is already there", hint="name another place") from error
    except PermissionError as error:
        raise PermissionNeededError(f"{target}: {error.strerror}", hint=NEEDS_ROOT) from error
    return harmless


def check_target(target: Path) -> None:
    """Refuse a target that is taken (by more than an empty folder), or whose folder is not there.

    Raises:
        ExistsError, NotFoundError: as it says.
    """
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise ExistsError(f"{target} is already there", hint="name another place, or remove it first")
    if target.is_mount():
        raise ExistsError(f"something is mounted at {target}", hint="name a folder in it that is not there yet")
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no folder {target.parent}", hint="make it first")


def check_space(manifest: Manifest, target: Path, *, copies: int = 1) -> None:
    """Refuse what would not fit.

    Raises:
        NoSpaceError: with how much is needed and how much is free.
    """
    needed = int(sum(e.size - sum(length for _, length in e.holes) for e in manifest.entries()) * RESERVE * copies)
    free = fs.free_bytes(target.parent)
    if needed > free:
        raise NoSpaceError(
            f"{target} needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free there",
            hint="free some space, or export to another disk",
        )


def check_tree(manifest: Manifest, top: Path, *, reread: bool, progress: Progress, **looking: Any) -> list[Mismatch]:
    """Compare a tree with its manifest and return only differences in the layout of holes.

    Raises:
        DamagedError: any other difference; the message names the first few.
    """
    found = list(compare(manifest, top, reread=reread, progress=progress, **looking))
    harm = [mismatch for mismatch in found if mismatch.fields != ("holes",)]
    if harm:
        shown = "\n".join(f"  {printable(os.fsdecode(m.path))}: {printable(m.text)}" for m in harm[:5])
        raise DamagedError(
            f"the tree differs from the manifest at {len(harm)} paths:\n{shown}",
            hint="the file system may not be able to hold all of it: check that it keeps owners, xattrs and ACLs",
        )
    return found
