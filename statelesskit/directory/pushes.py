"""The history of channels: one entry below ``ou=pushes`` for each serial a channel has had.

An entry repeats what the channel's own entry says of its last move, and is written right after that move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import ldap3
from ldap3.utils.conv import escape_filter_chars

from statelesskit.directory.mapping import Entry, channel_from, push_attributes, push_from
from statelesskit.directory.model import Push
from statelesskit.errors import ExistsError, NameInvalidError

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory

LINES_AT_ONCE = 500  # names in one filter


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
    """Enter a channel's last move, unless it is entered, or its entry does not say when that was.

    Raises:
        NameInvalidError: it has a name that none of ours can be.
    """
    if channel.text("skMovedAt"):
        moved = channel_from(channel, directory.layout)
        with suppress(ExistsError):
            dn = directory.layout.push(moved.name, moved.serial)
            directory.ldap.add(dn, push_attributes(channel), "push", moved.name)


def complete_history(directory: Directory) -> list[str]:
    """Enter the last moves that lost their line; return the channels that had lost one."""
    entries = directory.ldap.search(directory.layout.folder("prototypes"), "objectClass=skChannel")
    wanted = {_line_of(directory, entry): entry for entry in entries if entry.text("skMovedAt")}
    found: set[str] = set()
    for some in batched([*wanted], LINES_AT_ONCE):
        rule = "|" + "".join(f"(cn={escape_filter_chars(name)})" for name in some)
        entered = directory.ldap.search(directory.layout.folder("pushes"), rule, ldap3.LEVEL)
        found |= {name.casefold() for entry in entered for name in entry.texts("cn")}
    completed = []
    for name, entry in wanted.items():
        if name not in found:
            with suppress(NameInvalidError):  # another tool's, which a check names
                note_push(directory, entry)
                completed.append(name.rpartition("/")[0])
    return sorted(completed)


def _line_of(directory: Directory, channel: Entry) -> str:
    found = channel_from(channel, directory.layout)
    return f"{found.name}/{found.serial}".casefold()


def batched(items: list[str], size: int) -> Iterator[list[str]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def ways_back(history: list[Push], now: str | None) -> list[str]:
    """Return the snapshots a channel pointed at before, the last first, each once."""
    return list(dict.fromkeys(one.after for one in reversed(history) if one.after and one.after != now))
