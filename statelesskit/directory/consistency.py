"""Is what the directory says sound in itself: pointers, groups, addresses, serials. Pure, over what was read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from statelesskit.directory.model import Channel, Client, Group, PrototypeEntry, Push, Report, SnapshotEntry
from statelesskit.directory.pushes import pushes
from statelesskit.directory.resolution import groups_by_client, resolve
from statelesskit.errors import NameInvalidError
from statelesskit.names import check_name, normalise_mac, printable

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory

SHOWN = 5  # of many, in one finding


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be; every text is safe on a terminal.

    Attributes:
        object: ``client c042``, ``channel desktop/stable``.
        hint: what mends it.
    """

    object: str
    finding: str
    hint: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """All the directory says, by name."""

    prototypes: dict[str, PrototypeEntry]
    snapshots: dict[str, SnapshotEntry]
    channels: dict[str, Channel]
    clients: dict[str, Client]
    groups: dict[str, Group]
    reports: Sequence[Report]
    pushes: Sequence[Push]


def read_fleet(directory: Directory) -> Fleet:
    """Read everything, by seven searches."""
    return Fleet(
        {one.name: one for one in directory.prototypes()},
        {one.name: one for one in directory.snapshots()},
        {one.name: one for one in directory.channels()},
        {one.name: one for one in directory.clients()},
        {one.name: one for one in directory.groups()},
        directory.reports(),
        pushes(directory),
    )


def find_faults(fleet: Fleet, deleted: frozenset[str]) -> Iterator[Finding]:
    """Yield what is not sound.

    Args:
        deleted: snapshots that were deleted in good order, as whose child or in whose history others may stand.
    """
    yield from _names(fleet)
    for channel in fleet.channels.values():
        yield from _channel(fleet, channel, deleted)
    yield from _history(fleet, deleted)
    for snapshot in fleet.snapshots.values():
        if snapshot.parent and snapshot.parent not in fleet.snapshots and snapshot.parent not in deleted:
            yield finding("snapshot", snapshot.name, f"was taken after {snapshot.parent}, which is not there")
    for group in fleet.groups.values():
        yield from _group(fleet, group)
    yield from _addresses(fleet.clients.values())
    groups = groups_by_client(list(fleet.groups.values()))
    for client in fleet.clients.values():
        yield from _client(fleet, client, groups(client.name))


def finding(kind: str, name: str, text: str, hint: str = "") -> Finding:
    """Make one, with names that are hostile text made harmless."""
    return Finding(f"{kind} {printable(name)}", " ".join(printable(word) for word in text.split(" ")), printable(hint))


def _names(fleet: Fleet) -> Iterator[Finding]:
    """Entries whose names no command of ours can name."""
    for kind, names in (("prototype", fleet.prototypes), ("client", fleet.clients), ("group", fleet.groups)):
        for name in names:
            try:
                check_name(name, kind)
            except NameInvalidError:
                yield finding(kind, name, "has a name that none of ours can be", "rename or delete it by ldapmodify")


def _channel(fleet: Fleet, channel: Channel, deleted: frozenset[str]) -> Iterator[Finding]:
    push = f"statelesskit push apply {channel.name} SNAPSHOT"
    if channel.prototype not in fleet.prototypes:
        yield finding("channel", channel.name, f"is one of {channel.prototype}, which is no prototype here")
    if channel.snapshot is None:
        yield finding("channel", channel.name, "points at no snapshot", push)
    elif channel.snapshot not in fleet.snapshots:
        yield finding("channel", channel.name, f"points at {channel.snapshot}, which is not there", push)
    elif fleet.snapshots[channel.snapshot].state == "revoked":
        yield finding("channel", channel.name, f"points at {channel.snapshot}, which is revoked", push)
    elif fleet.snapshots[channel.snapshot].prototype != channel.prototype:
        yield finding("channel", channel.name, f"points at {channel.snapshot} of another prototype", push)
    if channel.previous and channel.previous not in fleet.snapshots and channel.previous not in deleted:
        yield finding("channel", channel.name, f"pointed at {channel.previous} before, which is not there")


def _history(fleet: Fleet, deleted: frozenset[str]) -> Iterator[Finding]:
    by_channel: dict[str, dict[int, Push]] = defaultdict(dict)
    for push in fleet.pushes:
        by_channel[push.channel][push.serial] = push
        for name in {push.before, push.after} - {None}:
            if name not in fleet.snapshots and name not in deleted:
                where = f"{push.channel} serial {push.serial}"
                yield finding("push", where, f"tells of {name}, which is not there and was not deleted by us")
    for name, channel in fleet.channels.items():
        history = by_channel.pop(name, {})
        last = history.get(channel.serial)
        if last is None:
            hint = "the next push or `site start` writes it, if the channel says when it was moved"
            yield finding("channel", name, f"has no line in its history for serial {channel.serial}", hint)
        elif (last.after, last.record) != (channel.snapshot, channel.record):
            was = last.after or "nothing"
            yield finding(
                "channel", name,
                f"points at {channel.snapshot or 'nothing'} at serial {channel.serial}, where its history says {was}",
                "it was changed without a push: look who did, then push",
            )  # fmt: skip
        if later := [serial for serial in history if serial > channel.serial]:
            yield finding("channel", name, f"is at serial {channel.serial}, and was at {max(later)}: it went back")
        first = min(history, default=channel.serial)
        count = channel.serial - first - sum(first <= serial < channel.serial for serial in history)
        if count > 0:  # they are not all listed, as anybody may have written any number
            gaps = islice((serial for serial in range(first, channel.serial) if serial not in history), SHOWN)
            yield finding("channel", name, f"has no line in its history for serial {_list([*gaps], count)}")
    for name, history in by_channel.items():
        if history[max(history)].after is not None:
            yield finding("channel", name, "has a history, but is not there, and was not removed by us")


def _group(fleet: Fleet, group: Group) -> Iterator[Finding]:
    name = group.name
    for member in sorted(group.members - fleet.clients.keys()):
        hint = f"statelesskit group remove {name} {member}"
        yield finding("group", name, f"has the member {member}, which is no client", hint)
    for inner in sorted(group.nested):
        hint = f"statelesskit group remove {name} {inner}, and add its clients instead"
        yield finding("group", name, f"has the group {inner} as a member, but nested groups are not followed", hint)
    for stranger in sorted(group.strangers):
        yield finding("group", name, f"has the member {stranger}, which is neither client nor group")
    yield from _pointers(fleet, "group", group)


def _pointers(fleet: Fleet, kind: str, one: Client | Group) -> Iterator[Finding]:
    if one.channel and one.channel not in fleet.channels:
        hint = f"statelesskit {kind} change {one.name} --channel CHANNEL"
        yield finding(kind, one.name, f"follows {one.channel}, which is no channel here", hint)
    if one.pin and one.pin not in fleet.snapshots:
        hint = f"statelesskit client unpin {one.name}" if kind == "client" else f"statelesskit group change {one.name}"
        yield finding(kind, one.name, f"is pinned to {one.pin}, which is not there", hint)


def _addresses(clients: Iterable[Client]) -> Iterator[Finding]:
    owners: dict[str, list[str]] = defaultdict(list)
    for client in clients:
        for mac in client.macs:
            try:
                owners[normalise_mac(mac)].append(client.name)
            except NameInvalidError:
                hint = f"statelesskit client change {client.name} --mac MAC"
                yield finding("client", client.name, f"has the MAC address {mac}, which is none", hint)
    for mac, names in owners.items():
        if len({*names}) > 1:
            hint = "statelesskit client change NAME --clear mac, for all but one"
            yield finding("address", mac, f"belongs to {len(names)} clients: {_list(sorted(names), len(names))}", hint)


def _client(fleet: Fleet, client: Client, groups: Sequence[Group]) -> Iterator[Finding]:
    name = client.name
    yield from _pointers(fleet, "client", client)
    if client.reference and client.reference not in fleet.snapshots:
        hint = f"statelesskit client change {name} --reference SNAPSHOT"
        yield finding("client", name, f"is compared with {client.reference}, which is not there", hint)
    if client.mode == "thick":
        return
    told = resolve(client, fleet.channels, groups, fleet.snapshots)
    if told.snapshot is None:
        yield finding("client", name, f"has nothing to run: {told.because[-1]}", f"statelesskit client explain {name}")


def _list(first: Sequence[object], count: int) -> str:
    return ", ".join(map(str, first[:SHOWN])) + (f" and {count - SHOWN} more" if count > SHOWN else "")
