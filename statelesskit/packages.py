"""What is installed in a snapshot, read from the package database among its own objects."""

from __future__ import annotations

from typing import Any

from statelesskit.manifest import Manifest
from statelesskit.store import Store

DPKG_STATUS = b"var/lib/dpkg/status"


def installed(manifest: Manifest, store: Store) -> dict[str, str]:
    """Return the version of every installed Debian package, by ``name:architecture``; empty without dpkg.

    Source: deb-control(5) and dpkg's status file, whose paragraphs end in empty lines.
    """
    entry = manifest.find(DPKG_STATUS)
    if entry is None or entry.type != "file":
        return {}
    text = b"".join(store.read(bytes.fromhex(entry.sha256))).decode("utf-8", "replace")
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status", "").endswith(" installed"):
            found[f"{fields.get('Package', '')}:{fields.get('Architecture', '')}"] = fields.get("Version", "")
    return found


def package_changes(before: Manifest, after: Manifest, store: Store) -> list[dict[str, Any]]:
    """Return one row for each package that was added, removed or is of another version."""
    old, new = installed(before, store), installed(after, store)
    return [
        {
            "package": name,
            "change": "added" if name not in old else "removed" if name not in new else "changed",
            "before": old.get(name),
            "after": new.get(name),
        }
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
