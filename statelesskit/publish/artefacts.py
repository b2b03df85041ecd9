"""The published snapshots: for each a folder that is made whole, gets its name, and never changes.

Machines may boot from it for as long as the snapshot exists; when that was deleted, which nobody can while it is
needed, the next refresh removes the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.names import printable, prototype_of
from statelesskit.progress import Progress
from statelesskit.publish import scripts
from statelesskit.snapshot import Snapshot

ABI = 1
DESCRIPTION, SCRIPT, KERNEL, INITRD = "boot.json", "boot.ipxe", "vmlinuz", "initrd.img"


@dataclass(frozen=True, slots=True)
class Made:
    """What was put into a snapshot's folder: ``vmlinuz``, ``initrd.img`` and the image.

    Attributes:
        image: the image's file name.
        verity_root_hash, verity_offset: of the hash tree at the image's end; "" and 0 if it has none.
        arguments: of the boot ABI, but those that only a script knows.
    """

    kernel_release: str
    image: str
    kind: str
    verity_root_hash: str
    verity_offset: int
    arguments: list[str]


Maker = Callable[[Site, Snapshot, Path, Progress], Made]


def folder_of(site: Site, name: str) -> Path:
    """Return where a snapshot is published, or would be.

    Raises:
        NameInvalidError: it is no snapshot's name.
    """
    prototype_of(name)
    return site.publish / "snapshots" / name


def is_published(site: Site, name: str) -> bool:
    """Say whether machines can boot a snapshot from here."""
    return (folder_of(site, name) / SCRIPT).exists()


def published(site: Site) -> list[str]:
    """Return the names of the published snapshots."""
    return sorted(path.parent.name for path in (site.publish / "snapshots").glob(f"*/{SCRIPT}"))


def publish(site: Site, snapshot: Snapshot, make: Maker, progress: Progress) -> bool:
    """Publish a snapshot; false if it already was.

    Args:
        make: puts kernel, initrd and image into a folder.

    Raises:
        StatelessError: whatever making them raises; nothing of them is left.
    """
    target = folder_of(site, snapshot.name)
    if is_published(site, snapshot.name):
        return False
    fs.make_folders(target.parent)
    with fs.new_folder(target) as folder:
        made = make(site, snapshot, folder, progress)
        progress.stage("writing to disk")
        fs.write_json(folder / DESCRIPTION, _description(snapshot, made, folder))
        fs.write_file(folder / SCRIPT, scripts.of_snapshot(snapshot.name, made.image, made.arguments).encode("ascii"))
        fs.sync_filesystem(folder)
    return True


def withdraw(site: Site, name: str) -> None:
    """Remove a published snapshot."""
    fs.remove_tree(folder_of(site, name))


def description(site: Site, name: str) -> dict[str, Any]:
    """Return what ``boot.json`` says of a published snapshot.

    Raises:
        DamagedError: it can't be read.
    """
    path = folder_of(site, name) / DESCRIPTION
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        if found["snapshot"] != name or found["abi"] != ABI:
            raise ValueError(f"it is of snapshot {found['snapshot']}, boot ABI {found['abi']}")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} can't be used: {type(error).__name__} {printable(error)}",
            hint=f"remove {path.parent}, then statelesskit publish refresh {name}",
        ) from error


def damaged(site: Site, name: str, *, read: bool) -> list[str]:
    """Hold a published snapshot's files against what was written down of them; return what is wrong, in words.

    Args:
        read: every byte; else only whether they are there, and as long as they were.
    """
    try:
        said, folder = description(site, name), folder_of(site, name)
        files = [said["kernel"], said["initrd"], said["image"]]
        return [f"{one['file']} is not what was published" for one in files if not _same(folder, one, read=read)]
    except (DamagedError, OSError, KeyError, TypeError) as error:
        return [str(error)]


def _same(folder: Path, said: dict[str, Any], *, read: bool) -> bool:
    path = folder / said["file"]
    if not path.is_file() or path.stat().st_size != said["bytes"]:
        return False
    return not read or _told(path)["sha256"] == said["sha256"]


def _description(snapshot: Snapshot, made: Made, folder: Path) -> dict[str, Any]:
    return {
        "abi": ABI,
        "snapshot": snapshot.name,
        "digest": snapshot.digest,
        "kernel": {"file": KERNEL, "release": made.kernel_release, **_told(folder / KERNEL)},
        "initrd": {"file": INITRD, **_told(folder / INITRD)},
        "image": {
            "file": made.image,
            "kind": made.kind,
            "verity_root_hash": made.verity_root_hash,
            "verity_offset": made.verity_offset,
            **_told(folder / made.image),
        },
        "arguments": made.arguments,
    }


def _told(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
