"""The fleet as rows: each client, what it is told to run, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from statelesskit.directory import Assignment, Client, Directory, resolve


def fleet_rows(assigned: Iterable[tuple[Client, Assignment]]) -> list[dict[str, Any]]:
    """Return one row for each client, in the order of their names."""
    return [
        {
            "client": client.name,
            "mode": client.mode,
            "mac": " ".join(client.macs),
            "channel": client.channel,
            "snapshot": assignment.snapshot,
            "because": assignment.because[0] if assignment.because else "",
        }
        for client, assignment in sorted(assigned, key=lambda pair: pair[0].name)
    ]


def explain_client(directory: Directory, name: str) -> Assignment:
    """Return what one client is told to run, with the whole chain of reasons.

    Raises:
        NotFoundError: there is no such client.
    """
    client = directory.client(name)
    channels = {channel.name: channel for channel in directory.channels()}
    snapshots = {snapshot.name: snapshot for snapshot in directory.snapshots()}
    return resolve(client, channels, directory.groups(), snapshots)
