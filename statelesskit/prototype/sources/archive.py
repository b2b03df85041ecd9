"""``tar:PATH``: an archive unpacked with GNU tar, which finds the compression by itself.

One that `export tar` wrote is read by ourselves, as GNU tar does not get all out of it that we put in.
"""

from __future__ import annotations

from pathlib import Path

from statelesskit.archive.source import ArchiveSource, is_ours
from statelesskit.config import Site
from statelesskit.errors import UsageError
from statelesskit.names import printable
from statelesskit.progress import Progress
from statelesskit.prototype.source import Source, existing_path, run_to_the_end
from statelesskit.prototype.unpacking import unpack
from statelesskit.tree import Finding


def check(site: Site, argument: str) -> str:
    path = existing_path(argument)
    if not path.is_file():
        raise UsageError(f"{printable(path)} is no file, so it is no archive")
    return str(path)


def version(argument: str) -> str:
    return ArchiveSource("tar", Path(argument)).look()[1]


def build(argument: str, tree: Path, progress: Progress) -> list[Finding]:
    if is_ours(Path(argument)):
        return unpack(ArchiveSource("tar", Path(argument)), tree, progress)
    progress.stage("unpacking the archive")
    tree.mkdir()
    tree.chmod(0o755)  # whatever our umask; an archive that holds "./" says otherwise
    # Nothing leaves the tree: GNU tar drops a leading "/", fails on "..", and makes a symlink that leads
    # out of the folder only when every other member is written.
    run_to_the_end(
        [
            "tar",
            "--extract",
            f"--file={argument}",
            "--force-local",
            f"--directory={tree}",
            "--numeric-owner",
            "--same-owner",
            "--same-permissions",
            "--acls",
            "--selinux",
            "--xattrs",
            "--xattrs-include=*",
            "--delay-directory-restore",
        ],
        progress,
    )
    return []


SOURCE = Source(scheme="tar", argument="PATH", meaning="unpacked", check=check, build=build, version=version)
