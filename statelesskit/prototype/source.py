"""What a source of prototypes is, and what all of them need."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from statelesskit.config import FOLDERS, Site
from statelesskit.errors import CommandError, NoSpaceError, NotFoundError, RefusedError, UsageError
from statelesskit.names import printable
from statelesskit.progress import Progress
from statelesskit.prototype import contained
from statelesskit.run import find_tool, run
from statelesskit.tree import Finding

DISK_FULL = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Source:
    """One way to make a prototype.

    Attributes:
        argument: what follows the colon, for messages and help.
        check: refuses what cannot work, changing nothing; returns the argument as it is recorded.
        build: fills the tree, which is not there yet, and says what could not be kept; None if the tree stays
            where it stands.
        version: tells what lies there now from what may lie there later, for a source that is read at once.
        prepared: whether its snapshots leave out, from the start, what is one machine's own. A tree that is
            given is taken as it is, unless somebody says otherwise.
    """

    scheme: str
    argument: str
    meaning: str
    check: Callable[[Site, str], str]
    build: Callable[[str, Path, Progress], list[Finding]] | None
    version: Callable[[str], str] = lambda argument: ""
    prepared: bool = False


def existing_path(argument: str) -> Path:
    """Return the absolute path behind a source's argument, with no symlink in it.

    Raises:
        UsageError: no path was given; NotFoundError if nothing is there.
    """
    if not argument or "\0" in argument:
        raise UsageError("the source names no path", hint="write it as dir:/srv/desktop")
    try:
        return Path(argument).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise NotFoundError(f"there is nothing to read at {printable(argument)}: {error}") from error


def outside_site(site: Site, tree: Path) -> None:
    """Raise RefusedError if a tree holds the site or lies in it: each would become part of itself."""
    for place in {path.resolve() for path in (site.root, *(site.root / name for name in FOLDERS))}:
        if tree.is_relative_to(place) or place.is_relative_to(tree):
            raise RefusedError(
                f"the tree {printable(tree)} and the site's folder {place} lie in one another",
                hint="choose a tree apart from the site",
            )


def require_root_tree(tree: Path, what: str) -> None:
    """Raise UsageError if a folder does not look like the root of a Linux system."""
    if not tree.is_dir():
        raise UsageError(f"{what} is no root tree: it is no folder")
    lacking = [] if _has_folder(tree, "etc") else ["etc/"]
    if not _has_folder(tree, "usr") and not _has_folder(tree, "bin"):
        lacking.append("usr/ or bin/")
    if lacking:
        found = sorted(printable(path.name) for path in tree.iterdir())
        shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        raise UsageError(
            f"{what} is no root tree: looked for {' and '.join(lacking)}, found {shown or 'nothing'}",
            hint="give the folder (or the archive) whose top is the system's /",
        )


def _has_folder(tree: Path, name: str) -> bool:
    return (tree / name).is_dir() and not (tree / name).is_symlink()


def run_to_the_end(argv: Sequence[str | Path], progress: Progress) -> None:
    """Run a program that fills a tree; it and all its mounts and children end when we do, even by SIGKILL.

    Raises:
        NoSpaceError: it said that the disk is full.
        CommandError: it failed.
    """
    words = [os.fspath(word) for word in argv]
    words[0] = find_tool(words[0])
    try:
        run(
            [sys.executable, "-I", contained.__file__, *words],
            env={contained.SETTINGS: json.dumps({"parent": os.getpid(), "faults": 2})},
            on_line=progress.say,
        )
    except CommandError as error:
        if any(said in error.stderr for said in DISK_FULL):
            raise NoSpaceError(
                f"no space left (or over quota) where the prototype is kept; {words[0]} said so",
                hint="free some space there and run the same command again; nothing half-made was left",
            ) from error
        raise CommandError(words, error.returncode, error.stderr) from None
