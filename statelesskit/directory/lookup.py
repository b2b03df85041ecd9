"""Some clients with all that decides what they run, by two searches, however many clients and groups there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ldap3.utils.conv import escape_filter_chars

from statelesskit.directory.fleet import Directory
from statelesskit.directory.mapping import channel_from, client_from, group_from, snapshot_from
from statelesskit.directory.model import Channel, Client, Group, SnapshotEntry
from statelesskit.directory.resolution import Assignment, groups_by_client, resolve


@dataclass(frozen=True, slots=True)
class Found:
    """What :func:`statelesskit.directory.resolution.resolve` is asked with.

    Attributes:
        groups: those the clients are in, and those that have one of these as a member.
    """

    clients: dict[str, Client]
    channels: dict[str, Channel]
    groups: list[Group]
    snapshots: dict[str, SnapshotEntry]

    def assignments(self) -> list[tuple[Client, Assignment]]:
        """Return the clients with what they shall run, by name."""
        groups_of = groups_by_client(self.groups)
        return [
            (client, resolve(client, self.channels, groups_of(name), self.snapshots))
            for name, client in sorted(self.clients.items())
        ]


def look_up(directory: Directory, names: Collection[str]) -> Found:
    """Return those of some clients that are there, with what they depend on. Some hundred names fit into one filter."""
    layout = directory.layout
    found = Found({}, {}, [], {})
    if not names:
        return found
    dns = [layout.client(name) for name in names]
    called = "".join(f"(cn={escape_filter_chars(name)})" for name in names)
    rule = f"|(&(objectClass=skClient)(|{called}))(&(objectClass=groupOfNames)(|{_has(dns)}))"
    inner = []
    for entry in directory.ldap.search(layout.base, rule):
        if name := layout.client_at(entry.dn):
            found.clients[name] = client_from(entry, layout)
        elif layout.group_at(entry.dn):
            found.groups.append(group_from(entry, layout))
            inner.append(entry.dn)
    nesting = f"(&(objectClass=groupOfNames)(|{_has(inner)}))" if inner else ""
    for entry in directory.ldap.search(layout.base, f"|(objectClass=skChannel)(objectClass=skSnapshot){nesting}"):
        kinds = {kind.lower() for kind in entry.texts("objectClass")}
        if "skchannel" in kinds:
            channel = channel_from(entry, layout)
            found.channels[channel.name] = channel
        elif "sksnapshot" in kinds:
            snapshot = snapshot_from(entry, layout)
            found.snapshots[snapshot.name] = snapshot
        elif layout.group_at(entry.dn) and entry.dn not in inner:
            found.groups.append(group_from(entry, layout))
    found.groups.sort(key=lambda group: group.name)
    return found


def _has(dns: Collection[str]) -> str:
    return "".join(f"(member={escape_filter_chars(dn)})" for dn in dns)
