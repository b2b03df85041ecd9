"""What is said about a snapshot, ``snapshot.json`` in its folder: written, changed, and held against its checksum.

The field ``checksum`` is ``sha256:`` and the SHA-256 over all other fields, those of newer versions too, as JSON
in ASCII with sorted keys and no spaces. The field ``manifest_file`` is that of the manifest as it lies there,
compressed: some bits of a zstd frame change nothing in what it holds, which is what the field ``digest`` tells.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.names import printable

ABOUT = "snapshot.json"
MANIFEST = "manifest.jsonl.zst"
CHECKSUM, MANIFEST_FILE = "checksum", "manifest_file"


def write(folder: Path, about: dict[str, Any]) -> None:
    """Say this about the snapshot in that folder, durably; its manifest is there already."""
    put(folder, about | {MANIFEST_FILE: manifest_file(folder)})


def put(folder: Path, about: dict[str, Any]) -> None:
    """Say just this, with its checksum, durably."""
    fs.write_json(folder / ABOUT, about | {CHECKSUM: checksum(about)})


def change(folder: Path, **fields: Any) -> None:
    """Change some fields, durably. What was altered before still shows: its checksum stays wrong.

    The caller holds the lock on the list of snapshots.
    """
    before = json.loads((folder / ABOUT).read_bytes())
    after = before | fields
    if before.get(CHECKSUM) in (None, checksum(before)):
        after[CHECKSUM] = checksum(after)
    fs.write_json(folder / ABOUT, after)


def heal_manifest_file(folder: Path) -> None:
    """Take the manifest as it lies there, which the caller has read and found whole, for the one that was written."""
    if json.loads((folder / ABOUT).read_bytes()).get(MANIFEST_FILE) != (found := manifest_file(folder)):
        change(folder, **{MANIFEST_FILE: found})


def altered(about: dict[str, Any]) -> bool:
    """Say whether the fields are not those that were written; without a checksum nobody knows."""
    return CHECKSUM in about and about[CHECKSUM] != checksum(about)


def faults(folder: Path) -> list[str]:
    """Say what is wrong with a description, and with the manifest as a file."""
    path = folder / ABOUT
    try:
        about = json.loads(path.read_bytes())
        found = []
        if CHECKSUM not in about:
            found.append(f"{path} has no {CHECKSUM}, so a change of it would not be seen")
        elif altered(about):
            found.append(f"{path} was altered: its fields do not have the {CHECKSUM} it names")
        if about.get(MANIFEST_FILE, "") not in ("", manifest_file(folder)):
            found.append(f"{folder / MANIFEST} is not the file that was written")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        found = [f"{path} or the manifest beside it cannot be read: {type(error).__name__} {printable(error)}"]
    return found


def checksum(about: dict[str, Any]) -> str:
    """Return the checksum over all fields but that one."""
    others = {name: value for name, value in about.items() if name != CHECKSUM}
    return _sha256(fs.canonical_json(others))


def manifest_file(folder: Path) -> str:
    """Return the digest of the manifest as it lies there."""
    return _sha256((folder / MANIFEST).read_bytes())


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
