"""Write out the tree that an archive or an image holds, with nothing lost of what a manifest can say.

It is read as an import reads it, its contents into a store beside the tree. Only when all of it is read, and every
entry checked, is the tree written: what is damaged or hostile is refused before there is a tree at all.
"""

from __future__ import annotations

from pathlib import Path

from statelesskit import fs
from statelesskit.archive.gather import Gathering, kept_in
from statelesskit.archive.source import ArchiveSource
from statelesskit.progress import Progress
from statelesskit.store import Store, Writer
from statelesskit.tree import Finding
from statelesskit.write_tree import write_tree


def unpack(source: ArchiveSource, tree: Path, progress: Progress) -> list[Finding]:
    """Make the folder ``tree``; return what could not be kept as it was.

    Raises:
        FormatError, RefusedError: the archive is damaged or hostile.
        DamagedError: it does not hold what it says it holds.
        NoSpaceError: the disk is full.
    """
    contents = tree.with_name("contents")
    with fs.disk_full_named(tree):
        with Writer(Store(contents), 1) as writer:
            gathering = Gathering(kept_in(writer), progress)
            source.gather(gathering, progress)
            progress.stage("checking the manifest")
            manifest = gathering.manifest()
            writer.finish()
        tree.mkdir()
        write_tree(manifest, Store(contents), tree, progress)
        fs.remove_tree(contents)
    return gathering.findings
