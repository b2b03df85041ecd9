"""Write a snapshot as one image of a file system, and prove by reading it that it holds what the manifest says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

from statelesskit import fs
from statelesskit.errors import ExistsError, PermissionNeededError, RefusedError, UsageError
from statelesskit.export import erofs, squashfs
from statelesskit.export.loss import SAID, Loss, refuse
from statelesskit.export.tree import NEEDS_ROOT, check_space, check_target, check_tree
from statelesskit.export.verity import Verity, append_verity
from statelesskit.manifest import Entry, Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.store import Store
from statelesskit.write_tree import write_tree


class Format(Protocol):
    """What the module of each kind gives."""

    def losses(self, manifest: Manifest) -> list[Loss]: ...
    def held(self, manifest: Manifest) -> Iterator[Entry]: ...
    def make(self, tree: Path, image: Path, uuid: UUID) -> None: ...
    def read_again(self, image: Path, work: Path) -> AbstractContextManager[Path]: ...


KINDS: dict[str, Format] = {"erofs": erofs, "squashfs": squashfs}  # what is preferred comes first


@dataclass(frozen=True, slots=True)
class Image:
    """What was made.

    Attributes:
        sha256: of the whole file, in hexadecimal.
        verity_root_hash: in hexadecimal; "" without a hash tree.
        verity_offset: in bytes, where the hash tree begins.
        lost: what the image does not hold of the snapshot.
    """

    kind: str
    sha256: str
    bytes: int
    verity_root_hash: str
    verity_offset: int
    lost: tuple[Loss, ...]


def losses(manifest: Manifest, kind: str) -> list[Loss]:
    """Return what an image of that kind would lose of a snapshot, one for each path and thing.

    Raises:
        UsageError: there is no such kind.
    """
    return _format(kind).losses(manifest)


def best_kind(manifest: Manifest) -> str:
    """Return the first kind that loses nothing of a snapshot that matters: erofs before squashfs.

    Raises:
        RefusedError: there is none.
    """
    why = []
    for kind in KINDS:
        hurt = [loss for loss in losses(manifest, kind) if loss.weight != SAID]
        if not hurt:
            return kind
        why.append(f"{kind}: {printable(os.fsdecode(hurt[0].path))}: {hurt[0].finding}")
    raise RefusedError(
        "no kind of image holds all of this snapshot:\n" + "\n".join(f"  {line}" for line in why),
        hint="choose what may be lost and say --waive, or export a tree",
    )


def make_image(
    manifest: Manifest,
    store: Store,
    target: Path,
    kind: str,
    *,
    verity: bool = False,
    waive: bool = False,
    progress: Progress = SILENT,
) -> Image:
    """Write the image to ``target``, which must be free.

    The same manifest gives the same bytes by the same tools: at any time, in any folder of a file system of the
    same type. (The attributes of a file that has several stand in the order in which the file system lists them.)

    Args:
        kind: ``erofs`` or ``squashfs``.
        verity: append a dm-verity hash tree.
        waive: go on although access control lists are lost.

    Raises:
        RefusedError: something that matters would be lost.
        EnvironmentLacksError: an erofs can't be mounted here to read it again.
        ExistsError, NoSpaceError, PermissionNeededError, DamagedError: as for a tree; nothing is left.
    """
    check_target(target)
    if target.exists():
        raise ExistsError(f"{target} is a folder", hint="name the image's file")
    lost = losses(manifest, kind)
    refuse(lost, kind, waive=waive)
    check_space(manifest, target, copies=2)  # the tree, and an image that may turn out as large
    form = _format(kind)
    kept = Manifest.of(form.held(manifest))
    seed = manifest.digest.removeprefix("sha256:")
    uuid = UUID(seed[:32], version=4)
    try:
        with fs.work_folder(target) as work:
            tree, image = work / "tree", work / "image"
            tree.mkdir()
            write_tree(kept, store, tree, progress)
            progress.stage("making the image")
            form.make(tree, image, uuid)
            fs.remove_tree(tree)
            if verity:
                progress.stage("hashing its blocks")
            hashed = append_verity(image, seed, uuid) if verity else Verity("", 0)
            progress.stage("reading it again")
            with form.read_again(image, work) as found:
                check_tree(kept, found, reread=True, progress=progress)
            with image.open("rb") as written:
                sha256 = hashlib.file_digest(written, "sha256").hexdigest()
                fs.fsync(written.fileno())
            size = image.stat().st_size
            fs.rename_durably(image, target)
    except PermissionError as error:
        raise PermissionNeededError(f"{target}: {error.strerror}", hint=NEEDS_ROOT) from error
    return Image(kind, sha256, size, hashed.root_hash, hashed.offset, tuple(lost))


def _format(kind: str) -> Format:
    if kind not in KINDS:
        raise UsageError(f"there is no image of the kind {printable(kind)}", hint="choose " + " or ".join(KINDS))
    return KINDS[kind]
