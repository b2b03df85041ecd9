"""EROFS: what an image of it holds, how one is made, and how the kernel reads it again.

The format keeps every field of a manifest but holes and the last two seconds of 1969: mkfs.erofs only clamps times
where it fixes its own, and the largest number that clamp can be set to stands for the first of the two.
Names of 255 bytes, paths near PATH_MAX and attributes of 64 KiB are too long for mkfs.erofs 1.5, which fails on
the first two and writes an image that the kernel can't read of the third.

fsck.erofs 1.5 extracts no attributes, hard links or set-id bits: an image is proven by what the kernel reads of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from statelesskit.errors import CommandError, EnvironmentLacksError
from statelesskit.export.loss import NEVER, WAIVABLE, Loss
from statelesskit.manifest import Entry, Manifest
from statelesskit.run import conversing, run

KEPT_XATTRS = (b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default")
SECOND = 1_000_000_000
OPTIONS = ["-zlz4hc,9", "-C16384", "--quiet"]
EPOCH = 2**64 - 2  # seconds, read as -2 by all that asks; one more means that none was set
NAME_MAX = 254  # bytes
PATH_MAX = 3800  # bytes below the tree's top, whose own path counts for mkfs.erofs too: 4094 with it
XATTR_MAX = 2**16 - 1  # bytes of a value


def losses(manifest: Manifest) -> list[Loss]:
    """Return what an image of the snapshot would lose."""
    return [loss for entry in manifest.entries() for loss in _losses(entry)]


def _losses(entry: Entry) -> Iterator[Loss]:
    if len(entry.path.rpartition(b"/")[2]) > NAME_MAX:
        yield Loss(entry.path, f"its name is longer than {NAME_MAX} bytes", NEVER)
    if len(entry.path) > PATH_MAX:
        yield Loss(entry.path, f"its path is longer than {PATH_MAX} bytes", NEVER)
    for name, value in entry.xattrs:
        if not name.startswith(KEPT_XATTRS):
            yield Loss(entry.path, f"its {os.fsdecode(name)} is lost", WAIVABLE)
        elif len(value) > XATTR_MAX:
            yield Loss(entry.path, f"its {os.fsdecode(name)} is longer than {XATTR_MAX} bytes", NEVER)
    if _time(entry) != entry.mtime_ns:
        yield Loss(entry.path, "its time in the last two seconds of 1969 is lost")
    if entry.holes:
        yield Loss(entry.path, "its holes are filled")


def held(manifest: Manifest) -> Iterator[Entry]:
    """Yield the entries as they must come back out of an image."""
    for entry in manifest.entries():
        if entry.type == "link":
            yield entry
            continue
        kept = tuple(pair for pair in entry.xattrs if pair[0].startswith(KEPT_XATTRS))
        yield replace(entry, mtime_ns=_time(entry), xattrs=kept, holes=())


def _time(entry: Entry) -> int:
    return -2 * SECOND if entry.mtime_ns // SECOND in (-2, -1) else entry.mtime_ns


def make(tree: Path, image: Path, uuid: UUID) -> None:
    """Write the image of a tree; equal trees give equal bytes."""
    run(["mkfs.erofs", *OPTIONS, "-U", str(uuid), image, tree], env={"SOURCE_DATE_EPOCH": str(EPOCH)})


# The mount is seen by this shell alone, and goes with it: it ends when its input does, whatever ended us.
_MOUNT = 'mount -t erofs -o loop,ro,nodev,nosuid,noexec "$0" "$1" && echo $$ && exec cat'


@contextmanager
def read_again(image: Path, work: Path) -> Iterator[Path]:
    """Give what the image holds, as the kernel reads it.

    Raises:
        EnvironmentLacksError: nothing can be mounted here.
    """
    place = work / "mounted"
    place.mkdir()
    reading = False
    shell: list[str | Path] = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, image, place]
    try:
        with conversing(shell) as (_, said):
            process = said.readline().decode().strip()
            if not process:
                raise EOFError
            reading = True
            yield Path("/proc", process, "root", place.relative_to("/"))
    except CommandError as error:
        if reading:
            raise
        raise EnvironmentLacksError(
            f"the image can't be mounted here to read it again: {error.stderr.strip()}",
            hint="that takes root, a loop device and a kernel that knows erofs; or export squashfs",
        ) from error
