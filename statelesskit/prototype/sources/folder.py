"""``dir:PATH``: a folder copied with all its metadata, or not at all."""

from __future__ import annotations

from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import NoSpaceError, RefusedError
from statelesskit.names import printable
from statelesskit.progress import Progress
from statelesskit.prototype.source import Source, existing_path, outside_site, require_root_tree, run_to_the_end
from statelesskit.run import run
from statelesskit.tree import Finding


def check(site: Site, argument: str) -> str:
    tree = existing_path(argument)
    outside_site(site, tree)
    require_root_tree(tree, printable(tree))
    # cp would either leave a mounted file system out or copy the likes of /proc; neither is the tree.
    if mounted := _mounts_below(tree):
        raise RefusedError(
            f"file systems are mounted inside {printable(tree)}: {', '.join(map(printable, mounted))}",
            hint="unmount them, or copy a tree that is not in use",
        )
    return str(tree)


def build(argument: str, tree: Path, progress: Progress) -> list[Finding]:
    progress.stage("measuring the source")
    needed = int(run(["du", "--summarize", "--block-size=1", "--", argument]).stdout.split()[0])
    free = fs.free_bytes(tree)
    if needed > free:
        raise NoSpaceError(
            f"{printable(argument)} takes {needed / 1e6:.0f} MB, and only {free / 1e6:.0f} MB are free where "
            "prototypes are kept",
            hint="free some space there; nothing was copied",
        )
    progress.stage("copying files")
    # Without naming xattr, cp says nothing when it cannot keep one.
    copy = ["cp", "--archive", "--preserve=xattr", "--one-file-system", "--reflink=auto", "--sparse=auto"]
    run_to_the_end([*copy, "--no-target-directory", "--", argument, tree], progress)
    return []


def _mounts_below(tree: Path) -> list[Path]:
    text = Path("/proc/self/mountinfo").read_bytes()
    # The kernel writes blanks and the like as octal escapes.
    points = [line.split()[4].decode("unicode_escape").encode("latin-1") for line in text.splitlines()]
    paths = [Path(point.decode("utf-8", "surrogateescape")) for point in points]
    return sorted({path for path in paths if path != tree and path.is_relative_to(tree)})


SOURCE = Source(scheme="dir", argument="PATH", meaning="copied, nothing lost", check=check, build=build)
