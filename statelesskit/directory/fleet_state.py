"""The fleet at one moment, whole and at rest: made of entries, wherever they were read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from statelesskit.directory.layout import Layout
from statelesskit.directory.mapping import (
    Entry,
    channel_from,
    client_from,
    group_from,
    prototype_from,
    snapshot_from,
)
from statelesskit.directory.model import Channel, Client, Group, PrototypeEntry, SnapshotEntry
from statelesskit.directory.resolution import Assignment, resolve


@dataclass(slots=True)
class FleetState:
    """What the directory said at one moment, by name."""

    prototypes: dict[str, PrototypeEntry] = field(default_factory=dict)
    snapshots: dict[str, SnapshotEntry] = field(default_factory=dict)
    channels: dict[str, Channel] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)

    def assignment(self, client: Client) -> Assignment:
        """Return what a client was told to run, by the rules that hold today."""
        return resolve(client, self.channels, list(self.groups.values()), self.snapshots)


def fleet_of(entries: Iterable[Entry], layout: Layout) -> FleetState:
    """Return the fleet that entries are; those that are nothing of ours are left out."""
    fleet = FleetState()
    for entry in entries:
        classes = {name.lower() for name in entry.texts("objectClass")}
        if "skclient" in classes and layout.stands_in(entry.dn, "clients"):
            client = client_from(entry, layout)
            fleet.clients[client.name] = client
        elif "skchannel" in classes and layout.stands_in(entry.dn, "prototypes", depth=2):
            channel = channel_from(entry, layout)
            fleet.channels[channel.name] = channel
        elif "sksnapshot" in classes and layout.stands_in(entry.dn, "prototypes", depth=2):
            snapshot = snapshot_from(entry, layout)
            fleet.snapshots[snapshot.name] = snapshot
        elif "skprototype" in classes and layout.stands_in(entry.dn, "prototypes"):
            prototype = prototype_from(entry, layout)
            fleet.prototypes[prototype.name] = prototype
        elif "groupofnames" in classes and layout.stands_in(entry.dn, "groups"):
            group = group_from(entry, layout)
            fleet.groups[group.name] = group
    return fleet
