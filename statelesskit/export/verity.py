"""Append a dm-verity hash tree to an image: the kernel then checks each block when it is read.

Format 1 of the kernel's Documentation/admin-guide/device-mapper/verity.rst, with its superblock, SHA-256 and
blocks of 4096 bytes. Salt and UUID come from the snapshot's digest, so equal images have equal trees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from statelesskit.errors import CommandError, DamagedError
from statelesskit.run import run

BLOCK = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Verity:
    """Where the hash tree is: ``root_hash`` in hexadecimal, ``offset`` in bytes, where its superblock begins."""

    root_hash: str
    offset: int


def append_verity(image: Path, salt: str, uuid: UUID) -> Verity:
    """Fill the image up to whole blocks, append the tree, and have it verified."""
    offset = -(-image.stat().st_size // BLOCK) * BLOCK
    os.truncate(image, offset)
    sizes = [f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}", f"--data-blocks={offset // BLOCK}"]
    options = ["--hash=sha256", f"--hash-offset={offset}", f"--salt={salt}", f"--uuid={uuid}", *sizes]
    said = run(["veritysetup", "format", *options, image, image]).stdout
    verity = Verity(said.rpartition("Root hash:")[2].strip(), offset)
    verify(image, verity)
    return verity


def verify(image: Path, verity: Verity) -> None:
    """Hold every block of an image against its hash tree, and that against the root hash.

    Raises:
        DamagedError: a byte of either differs.
    """
    try:
        run(["veritysetup", "verify", f"--hash-offset={verity.offset}", image, image, verity.root_hash])
    except CommandError as error:
        raise DamagedError(
            f"{image} is not what the verity root hash {verity.root_hash} says: {error.stderr.strip()}",
            hint="export it again",
        ) from error
