"""The history of channels: one entry below ``ou=pushes`` for each serial a channel has had.

An entry repeats what the channel's own entry says of its last move, and is written right after that move.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import ldap3
from ldap3.utils.conv import escape_filter_chars

from statelesskit.directory.mapping import Entry, channel_from, push_attributes, push_from
from statelesskit.directory.model import Push
from statelesskit.errors import ExistsError

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory


def pushes(directory: Directory, channel: str | None = None) -> list[Push]:
    """Return the history of all channels, or of one that is or was there; the oldest first."""
    rule = "objectClass=skPush"
    if channel is not None:
        rule = f"skChannelDN={escape_filter_chars(directory.layout.channel(channel))}"
    entries = directory.ldap.search(directory.layout.folder("pushes"), rule, ldap3.LEVEL)
    return sorted((push_from(one, directory.layout) for one in entries), key=lambda one: (one.channel, one.serial))


def last_serial(directory: Directory, channel: str) -> int:
    """Return the highest serial the history has of a channel of that name, or 0."""
    return max((push.serial for push in pushes(directory, channel)), default=0)


def note_push(directory: Directory, channel: Entry) -> None:
    """Enter a channel's last move, unless it is entered, or the channel does not say when it was moved."""
    if channel.text("skMovedAt"):
        moved = channel_from(channel, directory.layout)
        with suppress(ExistsError):
            dn = directory.layout.push(moved.name, moved.serial)
            directory.ldap.add(dn, push_attributes(channel), "push", moved.name)


def complete_history(directory: Directory) -> list[str]:
    """Enter the last moves that lost their entry; return the channels that had lost one."""
    entered = {(push.channel, push.serial) for push in pushes(directory)}
    found = directory.ldap.search(directory.layout.folder("prototypes"), "objectClass=skChannel")
    missing = {channel_from(entry, directory.layout).name: entry for entry in found}
    for name, entry in list(missing.items()):
        if (name, entry.number("skSerial")) in entered or not entry.text("skMovedAt"):
            del missing[name]
        else:
            note_push(directory, entry)
    return sorted(missing)


def ways_back(history: list[Push], now: str | None) -> list[str]:
    """Return the snapshots a channel pointed at before, the last first, each once."""
    return list(dict.fromkeys(one.after for one in reversed(history) if one.after and one.after != now))
