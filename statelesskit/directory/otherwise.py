"""What would have to change for a client to get another answer: each way with its command and what comes of it. Pure.

Every sentence about another answer is an answer of :func:`statelesskit.directory.resolution.resolve` itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from statelesskit.directory.model import Channel, Client, Group, SnapshotEntry
from statelesskit.directory.resolution import decided_by, resolve
from statelesskit.names import printable

OFFERED = 5  # channels that are offered by name


def otherwise(
    client: Client,
    channels: Mapping[str, Channel],
    groups: Sequence[Group],
    snapshots: Mapping[str, SnapshotEntry],
) -> tuple[str, ...]:
    """Return the ways to another answer than :func:`resolve` gives, the nearest first."""
    return tuple(_Ways(client, channels, groups, snapshots).all())


@dataclass(frozen=True, slots=True)
class _Ways:
    client: Client
    channels: Mapping[str, Channel]
    groups: Sequence[Group]
    snapshots: Mapping[str, SnapshotEntry]

    def all(self) -> Iterator[str]:
        if self.client.mode == "thick":
            booted = replace(self.client, mode="caching", reference=None)
            how = self._change("--mode caching" + (" --clear reference" if self.client.reference else ""))
            yield f"a thick client is told nothing; as a caching one ({how}) {self._would(booted)}"
            yield f"to compare it with another snapshot: {self._change('--reference SNAPSHOT')}"
            return
        if self.client.pin:
            unpinned = replace(self.client, pin=None)
            yield f"without its pin ({_command('client unpin', self.client.name)}) {self._would(unpinned)}"
            yield f"to hold it at another snapshot: {_command('client pin', self.client.name)} SNAPSHOT"
            return
        deciding = [one for one in decided_by(self.client, self.groups)[0] if isinstance(one, Group)]
        if self.client.channel:
            yield from self._by_channel(self.client.channel)
            without = replace(self.client, channel=None)
            yield f"without a channel of its own ({self._change('--clear channel')}) {self._would(without)}"
        elif len(deciding) > 1:
            for group in deciding:
                first = replace(group, priority=group.priority - 1)
                how = f"{_command('group change', group.name)} --priority {first.priority}"
                then = self._would(groups=self._with(first))
                yield f"the tie ends when {printable(group.name)} comes first ({how}): {then}"
        else:
            for one in deciding:
                yield from self._by_group(one)
            yield from self._by_nesting(bool(deciding))
        yield from self._by_another_channel()
        yield f"to hold it at one snapshot, whatever else is said: {_command('client pin', self.client.name)} SNAPSHOT"

    def _by_channel(self, name: str) -> Iterator[str]:
        channel = self.channels.get(name)
        good = [
            one for one in self.snapshots.values() if one.prototype == name.partition("/")[0] and one.state != "revoked"
        ]
        newest = printable(max(good, key=lambda one: (one.created_at, one.name)).name) if good else "SNAPSHOT"
        if channel is None:
            yield f"to make the channel it follows: {_command('channel create', name)} {newest}"
        elif channel.snapshot in {one.name for one in good}:
            yield f"for all who follow {printable(name)}: {_command('push apply', name)} SNAPSHOT"
        else:
            yield f"to give all who follow {printable(name)} something to run: {_command('push apply', name)} {newest}"

    def _by_group(self, group: Group) -> Iterator[str]:
        if group.channel and not group.pin:
            yield from self._by_channel(group.channel)
        out = replace(group, members=group.members - {self.client.name})
        how = _command("group remove", group.name, self.client.name)
        yield f"out of group {printable(group.name)} ({how}) {self._would(groups=self._with(out))}"

    def _by_nesting(self, decided: bool) -> Iterator[str]:
        ours = [group.name for group in self.groups if self.client.name in group.members]
        for outer in [] if decided else self.groups:
            for inner in sorted(outer.nested & {*ours}):
                alone = replace(outer, nested=outer.nested - {inner})
                how = _command("group remove", outer.name, inner)
                yield (
                    f"with group {printable(inner)} no longer in group {printable(outer.name)} ({how}) "
                    f"{self._would(groups=self._with(alone))}; then add the clients that were meant to it"
                )

    def _by_another_channel(self) -> Iterator[str]:
        others = [name for name in sorted(self.channels) if name != self.client.channel]
        for name in others[:OFFERED]:
            how = self._change(f"--channel {shlex.quote(printable(name))}")
            yield f"to follow {printable(name)}: {how}; {self._would(replace(self.client, channel=name))}"
        if len(others) > OFFERED:
            yield f"there are {len(others) - OFFERED} more channels it could follow: statelesskit channel list"

    def _change(self, options: str) -> str:
        return f"{_command('client change', self.client.name)} {options}"

    def _with(self, changed: Group) -> list[Group]:
        return [changed if group.name == changed.name else group for group in self.groups]

    def _would(self, client: Client | None = None, groups: Sequence[Group] | None = None) -> str:
        told = resolve(client or self.client, self.channels, self.groups if groups is None else groups, self.snapshots)
        return (
            f"it would run {printable(told.snapshot)}" if told.snapshot else f"it would run nothing: {told.because[-1]}"
        )


def _command(words: str, *names: str) -> str:
    return " ".join(["statelesskit", words, *(shlex.quote(printable(name)) for name in names)])
