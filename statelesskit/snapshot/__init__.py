"""Snapshots on disk: immutable points in time of a prototype."""

from statelesskit.snapshot.manifest_file import changes_between, check_manifest, load_manifest, manifest_text, pieces
from statelesskit.snapshot.registry import STATES, Snapshot, check_state, list_snapshots, load, set_state

__all__ = [
    "STATES",
    "Snapshot",
    "changes_between",
    "check_manifest",
    "check_state",
    "list_snapshots",
    "load",
    "load_manifest",
    "manifest_text",
    "pieces",
    "set_state",
]
