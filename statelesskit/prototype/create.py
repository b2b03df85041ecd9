"""Make a prototype: check what can be checked, build beside its place, and let it appear when it is whole."""

from __future__ import annotations

import errno
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import ExistsError, PermissionNeededError, RefusedError
from statelesskit.lock import user_name
from statelesskit.names import check_name, printable
from statelesskit.progress import SILENT, Progress
from statelesskit.prototype import prepare, sources
from statelesskit.prototype.registry import FILE, Prototype, load
from statelesskit.prototype.source import require_root_tree
from statelesskit.tree import Finding


def check_source(site: Site, source: str) -> str:
    """Say whether a prototype could be made of this, changing nothing; return it with its path made absolute.

    Raises:
        UsageError: there is no such source, or it holds no root tree.
        StatelessError: the machine lacks something the source needs, or it must not be used.
    """
    kind, argument = sources.parse(source)
    if kind.build and os.geteuid() != 0:
        raise PermissionNeededError(
            f"a prototype from {kind.scheme}: is made by root alone: nobody else can keep owners and device nodes",
            hint="run it with sudo, or adopt a tree where it stands: --from at:PATH",
        )
    return f"{kind.scheme}:{kind.check(site, argument)}"


def version_of(source: str) -> str:
    """Return what tells a checked source from what may be in its place later; "" if nothing does."""
    kind, argument = sources.parse(source)
    return kind.version(argument)


def create(
    site: Site,
    name: str,
    source: str,
    *,
    note: str = "",
    findings: list[Finding] | None = None,
    progress: Progress = SILENT,
) -> Prototype:
    """Make a prototype of ``source``; durable, and all there, when this returns.

    On any error or Ctrl-C nothing is left; what a killed process left is removed by the next call for
    that name. The caller holds the prototype's lock.

    Args:
        findings: is given what of the source could not be kept as it was.

    Raises:
        UsageError: name or source cannot be right, or the source holds no root tree.
        NoSpaceError: it does not fit.
    """
    target = site.prototypes / check_name(name, "prototype")
    if os.path.lexists(target):
        raise ExistsError(f"there is already a prototype {name}", hint="take another name, or retire that one")
    source = check_source(site, source)
    kind, argument = sources.parse(source)
    _remove_leftovers(target)
    with fs.new_folder(target) as folder:
        tree = folder / "tree"
        if kind.build:
            found = kind.build(argument, tree, progress)
            if findings is not None:
                findings += found
            require_root_tree(tree, printable(source))
        made = Prototype(
            name=name,
            tree=tree if kind.build else Path(argument),
            source=source,
            created_at=datetime.now(UTC).replace(microsecond=0),
            created_by=user_name(),
            note=note,
        )
        fs.write_json(folder / FILE, made.as_json())
        if kind.prepared:
            fs.write_file(folder / prepare.FILE, prepare.as_toml(prepare.DEFAULTS))
        if kind.build:
            progress.stage("writing to disk")
            fs.sync_filesystem(folder)
    return load(site, name)


def _remove_leftovers(target: Path) -> None:
    # Anchored at both ends: "desktop.partial-x" is a good name, and its partial folder is not ours.
    leftover = re.compile(re.escape(f".{target.name}{fs.PARTIAL}") + "[0-9a-f]{8}")
    for path in target.parent.iterdir():
        if leftover.fullmatch(path.name):
            try:
                fs.remove_tree(path)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise RefusedError(
                    f"{path} was left by an interrupted creation, and a file system is mounted in it",
                    hint=f"unmount what `findmnt -R {path}` shows, then try again",
                ) from error
