"""Make what a snapshot boots from, out of the snapshot alone: its image, its own kernel, an initrd with our hook."""

from __future__ import annotations

from pathlib import Path

from statelesskit import fs
from statelesskit.boot.arguments import kernel_arguments
from statelesskit.boot.initrd import build_boot_files
from statelesskit.config import Site
from statelesskit.export.images import best_kind, make_image
from statelesskit.export.tree import export_tree
from statelesskit.progress import Progress
from statelesskit.publish.artefacts import INITRD, KERNEL, Made
from statelesskit.snapshot import Snapshot, load_manifest
from statelesskit.store import Store


def make(site: Site, snapshot: Snapshot, folder: Path, progress: Progress) -> Made:
    """Put kernel, initrd and image of a snapshot into a folder.

    Raises:
        RefusedError: no image can hold all of it, or it has no kernel of its own; the message says which.
    """
    manifest, store = load_manifest(site, snapshot), Store(site.store)
    kind = best_kind(manifest)
    image = make_image(manifest, store, folder / f"root.{kind}", kind, verity=True, waive=False, progress=progress)
    with fs.work_folder(site.exports / f"boot-{snapshot.name}") as work:  # where no local user reaches set-id files
        export_tree(manifest, store, work / "tree", progress=progress)
        files = build_boot_files(work / "tree", folder, progress)
    for built, name in ((files.kernel, KERNEL), (files.initrd, INITRD)):
        if built != folder / name:
            fs.rename(built, folder / name)
        (folder / name).chmod(0o644)
    arguments = kernel_arguments(
        snapshot.name,
        snapshot.digest,
        image_sha256=f"sha256:{image.sha256}",
        verity_root_hash=image.verity_root_hash,
        verity_offset=image.verity_offset,
    )
    return Made(files.kernel_release, f"root.{kind}", kind, image.verity_root_hash, image.verity_offset, arguments)
