"""What a snapshot holds in words people use: packages, kernels, the OS release.

It is read from the snapshot's own objects when it is first asked for, and kept beside the manifest as
``inventory.json``. That file is derived: one that is missing, damaged, from another manifest or written
by another version of the reader is made again.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.contents import Contents
from statelesskit.errors import NoSpaceError, RefusedError
from statelesskit.packages import Package, read_installed
from statelesskit.release import Kernel, kernels, os_release
from statelesskit.snapshot import Snapshot, load_manifest
from statelesskit.store import Store
from statelesskit.tree import Finding

INVENTORY = "inventory.json"
VERSION = 1  # of what is read and how; raised when another result is to be expected


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is in one snapshot; ``findings`` say what could not be understood."""

    os_release: dict[str, str]
    kernels: tuple[Kernel, ...]
    packages: tuple[Package, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it in JSON's types; :meth:`from_json` takes them back."""
        return {
            "os_release": self.os_release,
            "kernels": [{"version": one.version, "path": _text(one.path)} for one in self.kernels],
            "packages": [asdict(package) for package in self.packages],
            "findings": [finding.as_json() for finding in self.findings],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Inventory:
        return cls(
            os_release=data["os_release"],
            kernels=tuple(Kernel(one["version"], _bytes(one["path"])) for one in data["kernels"]),
            packages=tuple(Package(**one) for one in data["packages"]),
            findings=tuple(Finding(_bytes(one["path"]), one["finding"]) for one in data["findings"]),
        )


def take_inventory(contents: Contents) -> Inventory:
    """Read what a tree holds.

    Raises:
        DamagedError: an object that this needs is missing from the store, or damaged there.
    """
    installed = read_installed(contents)
    findings = list(installed.findings)
    release: dict[str, str] = {}
    try:
        release = os_release(contents)
    except RefusedError as error:
        findings.append(Finding(b"etc/os-release", error.message))
    return Inventory(release, tuple(kernels(contents)), installed.packages, tuple(findings))


def inventory(site: Site, snapshot: Snapshot) -> Inventory:
    """Return a snapshot's inventory, as it was kept or read anew. Raises as :func:`take_inventory`."""
    path = site.snapshots / snapshot.name / INVENTORY
    if kept := _kept(path, snapshot):
        return kept
    found = take_inventory(Contents(load_manifest(site, snapshot), Store(site.store)))
    data = found.as_json()
    # Who may only read, or has no room, still gets the answer.
    with suppress(OSError, NoSpaceError):
        fs.write_file(path, fs.canonical_json({"inventory": data, "sha256": _checksum(snapshot, data)}) + b"\n")
    return found


def mend_inventory(site: Site, snapshot: Snapshot) -> str:
    """Remove an inventory that was kept and can't be used, so that it is made again; say so."""
    path = site.snapshots / snapshot.name / INVENTORY
    if not path.exists() or _kept(path, snapshot):
        return ""
    with suppress(FileNotFoundError):
        fs.unlink(path)
    return f"the inventory {path} is damaged, or of another version; it is made again when it is asked for"


def _kept(path: Path, snapshot: Snapshot) -> Inventory | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        kept = json.loads(path.read_bytes())
        if kept["sha256"] == _checksum(snapshot, kept["inventory"]):
            return Inventory.from_json(kept["inventory"])
    return None


def _checksum(snapshot: Snapshot, data: dict[str, Any]) -> str:
    """Bind an inventory to the manifest it was read from, and to how it was read."""
    return hashlib.sha256(fs.canonical_json([VERSION, snapshot.digest, data])).hexdigest()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
