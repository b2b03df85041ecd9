"""Which snapshot a client shall run, and why; pure, so that a plan, a form and a test all ask the same.

First hit: the client's pin, its channel, then its groups by priority. What is unclear gives nothing:
a client that does not boot is repaired in a minute, one that boots the wrong thing is found much later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from statelesskit.directory.model import Channel, Client, Group, SnapshotEntry
from statelesskit.names import printable

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a client is wanted to run.

    Attributes:
        snapshot: its name; None means: do not boot from us.
        digest: of its manifest.
        because: the chain of reasons, one sentence each.
    """

    snapshot: str | None
    digest: str | None
    because: tuple[str, ...]


def resolve(
    client: Client,
    channels: Mapping[str, Channel],
    groups: Sequence[Group],
    snapshots: Mapping[str, SnapshotEntry],
) -> Assignment:
    """Return what a client shall run. Never raises: a fleet is a table, and one bad row is a row.

    Args:
        groups: at least those the client is a member of, and those that have one of these as a member.
    """
    if client.mode == "thick":
        because = [f"{printable(client.name)} is thick: it has its own installation, nothing is assigned to it"]
        if client.reference:
            because.append(f"it is compared with its reference {printable(client.reference)}")
        return _nothing(because)
    deciding, reason = decided_by(client, groups)
    because = [reason]
    if len(deciding) != 1:
        return _nothing(because)
    source = deciding[0]
    wanted = source.pin
    if not wanted:
        channel = channels.get(source.channel or "")
        if channel is None:
            return _nothing([*because, f"there is no channel {printable(source.channel)} in the directory"])
        wanted = channel.snapshot
        because.append(_points(channel))
        if not wanted:
            return _nothing(because)
    return _given_out(wanted, snapshots, because)


def decided_by(client: Client, groups: Sequence[Group]) -> tuple[Sequence[Client | Group], str]:
    """Return whose pin or channel counts for a client that is not thick, and why: its own, or a group's.

    Several are groups in a tie. None is nobody, or unclear, as a group is nested in another.
    """
    who = printable(client.name)
    if client.pin or client.channel:
        return [client], f"{who} {_says(client)} (client entry)"
    ours = [group for group in groups if client.name in group.members]
    telling = [group for group in ours if group.pin or group.channel]
    first = min((group.priority for group in telling), default=None)
    equals = sorted((group for group in telling if group.priority == first), key=lambda group: group.name)
    said = {_pointer(group) for group in equals}
    for outer, inner in _nestings(client, ours, groups):
        if first is None or (outer.priority <= first and {_pointer(outer)} != said):
            nested = f"{who} is in group {printable(inner.name)}, which is itself a member of group"
            return (
                [],
                f"{nested} {printable(outer.name)}; nested groups are not followed, so it is unclear what was meant",
            )
    if first is None:
        return [], f"{who} has no pin and no channel, and is in no group with one: it does not boot from us"
    if len(said) > 1:
        claims = "; ".join(f"{printable(group.name)} {_says(group)}" for group in equals)
        return equals, f"{who} is in groups of equal priority {first} that disagree: {claims}"
    group = equals[0]
    return [group], f"{who} is in group {printable(group.name)}, which {_says(group)} (priority {first})"


def _nestings(client: Client, ours: Sequence[Group], groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Return the groups that a client is in only by way of one of its own, with that one, if they tell something."""
    return [
        (outer, inner)
        for outer in groups
        if outer.nested and (outer.pin or outer.channel) and client.name not in outer.members
        for inner in ours
        if inner.name in outer.nested
    ]


def assignments(directory: Directory) -> list[tuple[Client, Assignment]]:
    """Return every client with what it shall run, by four searches however many clients there are."""
    channels = {channel.name: channel for channel in directory.channels()}
    snapshots = {snapshot.name: snapshot for snapshot in directory.snapshots()}
    groups_of = groups_by_client(directory.groups())
    return [(client, resolve(client, channels, groups_of(client.name), snapshots)) for client in directory.clients()]


def groups_by_client(groups: Iterable[Group]) -> Callable[[str], list[Group]]:
    """Return what gives those of the groups that :func:`resolve` needs for a client; it does not look at the rest."""
    nesting: list[Group] = []
    of_each: defaultdict[str, list[Group]] = defaultdict(list)
    for group in groups:
        if group.nested:
            nesting.append(group)
            continue
        for name in group.members:
            of_each[name].append(group)
    return lambda name: [*of_each.get(name, ()), *nesting]


def _nothing(because: Sequence[str]) -> Assignment:
    return Assignment(None, None, tuple(because))


def _pointer(source: Client | Group) -> tuple[str | None, str | None]:
    return (source.pin, None) if source.pin else (None, source.channel)


def _says(source: Client | Group) -> str:
    if source.pin:
        return f"is pinned to {printable(source.pin)}"
    return f"follows channel {printable(source.channel)}"


def _points(channel: Channel) -> str:
    facts = [f"serial {channel.serial}"]
    if channel.moved_by and channel.moved_at:
        facts.append(f"moved by {printable(channel.moved_by)} at {channel.moved_at:%Y-%m-%dT%H:%M:%SZ}")
    facts.append(f"record {printable(channel.record)}" if channel.record else "no record")
    target = printable(channel.snapshot) if channel.snapshot else "no snapshot yet"
    return f"channel {printable(channel.name)} points at {target} ({', '.join(facts)})"


def _given_out(wanted: str, snapshots: Mapping[str, SnapshotEntry], because: list[str]) -> Assignment:
    snapshot = snapshots.get(wanted)
    if snapshot is None:
        return _nothing([*because, f"there is no snapshot {printable(wanted)} in the directory"])
    if snapshot.state == "revoked":
        return _nothing([*because, f"snapshot {printable(wanted)} is revoked, so it is not given out"])
    return Assignment(snapshot.name, snapshot.digest, tuple(because))
