"""Export a snapshot as a tree that the site knows of, sharing files with an earlier one."""

from __future__ import annotations

import os
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from statelesskit.config import Site
from statelesskit.errors import RefusedError
from statelesskit.export.compare import Mismatch
from statelesskit.export.registry import register, registered, seen_of
from statelesskit.export.sharing import Sharing, marks
from statelesskit.export.tree import check_target, export_tree
from statelesskit.progress import SILENT, Progress
from statelesskit.snapshot import Snapshot, load_manifest
from statelesskit.store import Store


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export gave: ``shared`` files were linked, the rest was written."""

    entries: int
    shared: int
    harmless: list[Mismatch]


def export_snapshot(
    site: Site,
    snapshot: Snapshot,
    target: Path,
    *,
    share_with: Path | None = None,
    reread: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write a snapshot to ``target``, and note that it is there, which keeps the snapshot.

    Args:
        target: absolute. Below the site's ``exports`` folder it shares files with the last export of the same
            prototype that is there too.
        share_with: another exported tree, to share files with that.

    Raises:
        RefusedError: that is on another file system.
        ExistsError, NotFoundError, NoSpaceError, PermissionNeededError, DamagedError: as any export of a tree.
    """
    check_target(target)
    target = target.parent.resolve() / target.name
    source = share_with.resolve() if share_with else _neighbour(site, snapshot, target)
    if source and source.stat().st_dev != target.parent.stat().st_dev:
        raise RefusedError(
            f"{source} is on another file system than {target}, so they can't share files",
            hint="export to the same file system, or leave --share-with out",
        )
    manifest = load_manifest(site, snapshot)

    def finish(partial: Path, infos: dict[bytes, os.stat_result]) -> None:
        seen = marks(manifest, infos)
        register(site, target, partial, snapshot.name, snapshot.prototype, snapshot.digest, seen)

    with closing(Sharing(source, seen_of(site, source))) if source else nullcontext() as sharing:
        harmless = export_tree(
            manifest, Store(site.store), target, reread=reread, sharing=sharing, finish=finish, progress=progress
        )
        return Exported(len(manifest.lines), sharing.files if sharing else 0, harmless)


def _neighbour(site: Site, snapshot: Snapshot, target: Path) -> Path | None:
    """Return the last export of the same prototype in the site's folder, if that is where the new one goes."""
    folder = site.exports.resolve()
    if not target.is_relative_to(folder):
        return None
    near = [one.path for one in registered(site) if one.prototype == snapshot.prototype]
    here = target.parent.stat().st_dev
    fitting = (path for path in reversed(near) if path.is_relative_to(folder) and path.stat().st_dev == here)
    return next(fitting, None)
