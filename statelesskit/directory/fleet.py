"""The fleet directory: prototypes, snapshots, channels, clients and groups, read and changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Self, TypeVar

import ldap3
from ldap3.utils.conv import escape_filter_chars

from statelesskit.config import Site
from statelesskit.directory.attributes import every_attribute
from statelesskit.directory.changing import change, changed_by_other, moved_by_other, read_back, unknown
from statelesskit.directory.groups import groups_of, remove_members
from statelesskit.directory.layout import FOLDERS, Layout
from statelesskit.directory.link import Link
from statelesskit.directory.listening import check_listening
from statelesskit.directory.mapping import (
    Attributes,
    Entry,
    channel_from,
    checked_state,
    client_attributes,
    client_from,
    group_from,
    prototype_attributes,
    prototype_from,
    report_from,
    snapshot_attributes,
    snapshot_from,
    text_values,
    time_values,
)
from statelesskit.directory.model import Channel, Client, Group, PrototypeEntry, Report, SnapshotEntry
from statelesskit.directory.operations import Changes, Operations
from statelesskit.directory.pushes import last_serial, note_push
from statelesskit.directory.replica import connect_for_reading, connect_to_provider
from statelesskit.directory.schema import VERSION
from statelesskit.errors import (
    ConflictError,
    ExistsError,
    FormatError,
    ParameterError,
    RefusedError,
    StatelessError,
)
from statelesskit.names import check_name, printable, prototype_of, split_channel
from statelesskit.progress import current

T = TypeVar("T", PrototypeEntry, SnapshotEntry, Channel, Client, Group)
NAMES_AT_ONCE = 500  # names in one filter
_CHANGED = (
    "skClientMode", "macAddress", "skChannelDN", "skSnapshotDN", "skReferenceSnapshotDN", "description",
)  # fmt: skip


def open_directory(site: Site, *, or_replica: bool = False, any_version: bool = False) -> Directory:
    """Connect to the site's directory; use it in a ``with`` block.

    Args:
        or_replica: while it is away, a replica may answer: for what is only shown, never for what decides.
        any_version: for who looks at the server itself, or changes the version.

    Raises:
        DirectoryUnavailableError: it does not answer.
        FormatError: it was written by a newer statelesskit, or must be migrated from an older one.
    """
    if site.server.is_private and not (or_replica and site.server.replicas):
        check_listening(site)
    connect = connect_for_reading if or_replica else connect_to_provider
    directory = Directory(Link(partial(connect, site), site.server.patience_s), site.base_dn)
    try:
        if not any_version:
            directory.check_version()
    except BaseException:
        directory.close()
        raise
    return directory


class Directory:
    """One connection to the fleet directory.

    Attributes:
        ldap: the operations all else is made of.
        layout: where things stand.
    """

    def __init__(self, link: Link, base_dn: str) -> None:
        self.ldap = Operations(link)
        self.layout = Layout(base_dn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self.ldap.close()

    # --- the tree itself ----------------------------------------------------------------------

    def bootstrap(self) -> None:
        """Make the entries that hold everything else, where they are missing."""
        wanted: dict[str, Attributes] = {
            self.layout.base: {"objectClass": ["skDirectory"], "skSchemaVersion": [str(VERSION)]}
        }
        wanted |= {self.layout.folder(name): {"objectClass": ["organizationalUnit"]} for name in FOLDERS}
        wanted[f"cn=attributes,{self.layout.base}"] = every_attribute(self.layout.base)
        for dn, attributes in wanted.items():
            with suppress(ExistsError):
                self.ldap.add(dn, attributes, "folder", dn)

    def check_version(self) -> None:
        """Refuse a directory of a newer schema, which this version could harm, and of an older one, which it could
        misread."""
        found = self.version()
        if found is not None and found != VERSION:
            raise FormatError(
                f"the directory has schema version {found}, this statelesskit knows {VERSION}",
                hint="use the statelesskit that started it, or a newer one"
                if found > VERSION
                else "statelesskit site migrate brings it up to date",
            )

    def version(self) -> int | None:
        """Return the version of the schema the entries follow, or None while there are none."""
        entry = self.ldap.read(self.layout.base, "skDirectory")
        return entry.number("skSchemaVersion") if entry else None

    # --- prototypes and snapshots -------------------------------------------------------------

    def prototypes(self) -> list[PrototypeEntry]:
        """Return all prototypes, by name."""
        return self._all("prototypes", "skPrototype", prototype_from)

    def add_prototype(self, prototype: PrototypeEntry) -> None:
        """Register a prototype.

        Raises:
            ExistsError: it is registered already.
        """
        dn = self.layout.prototype(prototype.name)
        self.ldap.add(dn, prototype_attributes(prototype), "prototype", prototype.name)

    def snapshots(self, prototype: str | None = None) -> list[SnapshotEntry]:
        """Return all snapshots, or those of one prototype, by name."""
        if prototype is None:
            return self._all("prototypes", "skSnapshot", snapshot_from, ldap3.SUBTREE)
        self._require_prototype(prototype)
        entries = self.ldap.search(self.layout.prototype(prototype), "objectClass=skSnapshot", ldap3.LEVEL)
        return _by_name(snapshot_from(entry, self.layout) for entry in entries)

    def snapshot(self, name: str) -> SnapshotEntry:
        """Return one snapshot.

        Raises:
            NotFoundError: the directory does not know it.
        """
        entry = self.ldap.read(self.layout.snapshot(name), "skSnapshot")
        if entry is None:
            raise unknown("snapshot", name, self.snapshots())
        return snapshot_from(entry, self.layout)

    def add_snapshot(self, snapshot: SnapshotEntry) -> None:
        """Register a snapshot of a registered prototype.

        Raises:
            ExistsError: it is registered already.
            NotFoundError: its prototype is not.
            ParameterError: its digest, state or note cannot be right.
        """
        attributes = snapshot_attributes(snapshot, self.layout)
        self._require_prototype(snapshot.prototype)
        self.ldap.add(self.layout.snapshot(snapshot.name), attributes, "snapshot", snapshot.name)

    def set_snapshot_state(self, name: str, old: str, new: str) -> None:
        """Change a snapshot's state from ``old`` to ``new``.

        Raises:
            ConflictError: its state is not ``old`` any more.
        """
        change: Changes = {
            "skSnapshotState": [
                (ldap3.MODIFY_DELETE, [checked_state(old)]),
                (ldap3.MODIFY_ADD, [checked_state(new)]),
            ]
        }
        if not self.ldap.modify(self.layout.snapshot(name), change):
            found = self.snapshot(name)
            raise ConflictError(
                f"snapshot {name} is {printable(found.state)}, not {old}; it was left as it is",
                hint=f"look at it again: statelesskit snapshot show {name}",
            )

    def pointing_at(self, name: str) -> tuple[list[Channel], list[Client], list[Group], list[Report]]:
        """Return all channels, and the clients, groups and reports that say a snapshot shall run, or runs.

        One search, by what is indexed: what clients hold without running it, or are compared with, is left out.
        """
        dn = escape_filter_chars(self.layout.snapshot(name))
        rule = f"|(objectClass=skChannel)(skSnapshotDN={dn})(skRunningSnapshotDN={dn})"
        found: dict[str, list[Entry]] = {}
        for entry in self.ldap.search(self.layout.base, rule):
            for kind in entry.texts("objectClass"):
                found.setdefault(kind.lower(), []).append(entry)
        return (
            [channel_from(one, self.layout) for one in found.get("skchannel", [])],
            [client_from(one, self.layout) for one in found.get("skclient", [])],
            [group_from(one, self.layout) for one in found.get("groupofnames", [])],
            [report_from(one, self.layout) for one in found.get("skclientstatus", [])],
        )

    def remove_snapshot(self, name: str) -> bool:
        """Remove a snapshot's entry; say whether there was one. Nothing is looked at that may point at it."""
        return self.ldap.delete(self.layout.snapshot(name))

    # --- channels -----------------------------------------------------------------------------

    def channels(self) -> list[Channel]:
        """Return all channels, by name."""
        return self._all("prototypes", "skChannel", channel_from, ldap3.SUBTREE)

    def channel(self, name: str) -> Channel:
        """Return one channel.

        Raises:
            NotFoundError: there is none of that name.
        """
        return channel_from(self._channel_entry(name), self.layout)

    def add_channel(
        self, name: str, snapshot: str | None, *, moved_by: str, moved_at: datetime, record: str
    ) -> Channel:
        """Make a channel; without a snapshot its followers do not boot.

        Its serial is 1, or the next after the last that a channel of that name had: a client that has
        seen one refuses a lower one.

        Raises:
            ExistsError: it is there already.
            NotFoundError: its prototype or the snapshot is not registered.
        """
        self._require_prototype(split_channel(name)[0])
        attributes: Attributes = {
            "objectClass": ["skChannel"],
            "skSerial": [str(last_serial(self, name) + 1)],
            "skSnapshotDN": [self._target(name, snapshot)] if snapshot else [],
            **_moved(moved_by, moved_at, record),
        }
        self.ldap.add(self.layout.channel(name), attributes, "channel", name)
        return self._noted(name, attributes)

    def move_channel(
        self, name: str, *, serial: int, to: str | None, moved_by: str, moved_at: datetime, record: str
    ) -> Channel:
        """Point a channel at another snapshot, or at none: one modify, guarded by the serial the caller has seen.

        The entry in the history is a second operation. Where that fails the push stands all the same, and
        :func:`statelesskit.directory.pushes.complete_history` makes up for it.

        Raises:
            ConflictError: somebody else moved it; the message says who, when, from what to what.
            NotFoundError: there is no such channel or snapshot.
        """
        target = [self._target(name, to)] if to else []
        old = self._channel_entry(name)
        was = old.texts("skSnapshotDN")
        change: Changes = {
            # What is deleted must be there with that value, or the server refuses the whole change.
            "skSerial": [(ldap3.MODIFY_DELETE, [str(serial)]), (ldap3.MODIFY_ADD, [str(serial + 1)])],
            "skSnapshotDN": [(ldap3.MODIFY_DELETE, [dn]) for dn in was] + [(ldap3.MODIFY_ADD, [dn]) for dn in target],
            "skPreviousSnapshotDN": [(ldap3.MODIFY_REPLACE, was)],
        }
        change |= {
            kind: [(ldap3.MODIFY_REPLACE, values)] for kind, values in _moved(moved_by, moved_at, record).items()
        }
        change = {kind: steps for kind, steps in change.items() if steps}  # from nothing to nothing
        if old.number("skSerial") != serial or not self.ldap.modify(self.layout.channel(name), change):
            raise moved_by_other(self.channel(name), serial)
        made: Attributes = {"skSerial": [str(serial + 1)], "skSnapshotDN": target, "skPreviousSnapshotDN": was}
        return self._noted(name, made | _moved(moved_by, moved_at, record))

    def remove_channel(self, name: str, *, serial: int, moved_by: str, moved_at: datetime, record: str) -> Channel:
        """Move a channel to nothing, and remove it; return what its history says last. Asks for no followers.

        Killed in between it leaves a channel that points at nothing.

        Raises: as :meth:`move_channel`.
        """
        last = self.move_channel(name, serial=serial, to=None, moved_by=moved_by, moved_at=moved_at, record=record)
        self.ldap.delete(self.layout.channel(name))
        return last

    def followers(self, name: str) -> tuple[list[Client], list[Group]]:
        """Return the clients and the groups whose own entries name a channel."""
        entries = self.ldap.search(self.layout.base, f"skChannelDN={escape_filter_chars(self.layout.channel(name))}")
        clients = [client_from(entry, self.layout) for entry in entries if self.layout.client_at(entry.dn)]
        groups = [group_from(entry, self.layout) for entry in entries if self.layout.group_at(entry.dn)]
        return _by_name(clients), _by_name(groups)

    # --- clients and groups -------------------------------------------------------------------

    def clients(self) -> list[Client]:
        """Return all clients, by name."""
        return _by_name(client_from(entry, self.layout) for entry in self.client_entries())

    def client_entries(self) -> list[Entry]:
        """Return the entries of all clients, in any order; the front's progress counts them."""
        progress = current()
        progress.stage("reading the clients", unit="clients")
        folder = self.layout.folder("clients")
        return self.ldap.search(folder, "objectClass=skClient", ldap3.LEVEL, read=progress.advance)

    def client(self, name: str) -> Client:
        """Return one client.

        Raises:
            NotFoundError: there is none of that name.
        """
        return client_from(self._client_entry(name), self.layout)

    def clients_named(self, names: Iterable[str]) -> list[Client]:
        """Return those of some clients that are there, by name."""
        rules = [f"(cn={escape_filter_chars(check_name(name, 'client'))})" for name in sorted({*names})]
        found: list[Entry] = []
        for first in range(0, len(rules), NAMES_AT_ONCE):
            rule = f"&(objectClass=skClient)(|{''.join(rules[first : first + NAMES_AT_ONCE])})"
            found += self.ldap.search(self.layout.folder("clients"), rule, ldap3.LEVEL)
        return _by_name(client_from(entry, self.layout) for entry in found)

    def add_client(self, client: Client) -> Client:
        """Add a client and return it as it is stored.

        Raises:
            ExistsError: a client has that name, or one of its MAC addresses.
            NotFoundError: there is no such channel, or no such snapshot to pin it to.
            ParameterError: its mode or note cannot be right.
        """
        dn, attributes = self.layout.client(client.name), client_attributes(client, self.layout)
        if client.channel:
            self.channel(client.channel)
        if client.pin:
            self.snapshot(client.pin)
        try:
            self.ldap.add(dn, attributes, "client", client.name)
        except RefusedError:
            if self.ldap.read(dn, "skClient"):
                raise ExistsError(f"there is already a client {client.name}") from None
            self._say_whose(attributes["macAddress"], dn)
            raise
        return read_back(self.client, client.name)

    def change_client(self, before: Client, after: Client) -> Client:
        """Make a client of the same name what ``after`` says, if it is still what ``before`` says.

        Raises:
            ConflictError: somebody else changed it; nothing was changed.
            ExistsError: another client has one of its MAC addresses.
            ParameterError: its mode or note cannot be right.
        """
        entry = self._client_entry(before.name)
        wanted = client_attributes(after, self.layout)
        try:
            changed = client_from(entry, self.layout) == before and change(self.ldap, entry, wanted, _CHANGED)
        except RefusedError:
            self._say_whose(wanted["macAddress"], entry.dn)
            raise
        if not changed:
            raise changed_by_other("client", before.name)
        return read_back(self.client, before.name)

    def remove_client(self, name: str) -> None:
        """Remove a client, what it reported, and its place in groups; killed in between, do it again.

        Raises:
            NotFoundError: there is none of that name.
        """
        entry = self._client_entry(name)
        for group in groups_of(self, name):
            remove_members(self, group.name, [name])
        for below in self.ldap.search(entry.dn, "objectClass=*", ldap3.LEVEL):
            self.ldap.delete(below.dn)
        if not self.ldap.delete(entry.dn):
            raise unknown("client", name, self.clients())

    def report_of(self, client: str) -> Report | None:
        """Return what one client last said of itself, if it ever did."""
        entries = self.ldap.search(self.layout.client(client), "objectClass=skClientStatus")
        return next((report_from(entry, self.layout) for entry in entries), None)

    def reports(self) -> list[Report]:
        """Return what clients last said of themselves."""
        entries = self.ldap.search(self.layout.folder("clients"), "objectClass=skClientStatus")
        return [report_from(entry, self.layout) for entry in entries]

    def groups(self) -> list[Group]:
        """Return all groups of clients, by name."""
        return self._all("groups", "groupOfNames", group_from)

    # --- how ----------------------------------------------------------------------------------

    def _require_prototype(self, name: str) -> None:
        if self.ldap.read(self.layout.prototype(name), "skPrototype") is None:
            raise unknown("prototype", name, self.prototypes())

    def _client_entry(self, name: str) -> Entry:
        entry = self.ldap.read(self.layout.client(name), "skClient")
        if entry is None:
            raise unknown("client", name, self.clients())
        return entry

    def _say_whose(self, macs: Iterable[str], but: str) -> None:
        """Raise ExistsError if another client has one of these: the server says that it is taken, not whose it is."""
        for mac in macs:
            for entry in self.ldap.search(self.layout.base, f"macAddress={escape_filter_chars(mac)}"):
                owner = client_from(entry, self.layout).name
                if entry.dn != but:
                    raise ExistsError(
                        f"the MAC address {mac} belongs to client {printable(owner)}",
                        hint=f"statelesskit client explain {printable(owner)}",
                    ) from None

    def _noted(self, name: str, made: Attributes) -> Channel:
        """Enter into a channel's history what was just made of it, and return that; others may have gone on since."""
        entry = Entry(self.layout.channel(name), {kind: [one.encode() for one in made[kind]] for kind in made})
        with suppress(StatelessError):  # the push was made; the next contact writes what is missing
            note_push(self, entry)
        return channel_from(entry, self.layout)

    def _channel_entry(self, name: str) -> Entry:
        entry = self.ldap.read(self.layout.channel(name), "skChannel")
        if entry is None:
            raise unknown("channel", name, self.channels())
        return entry

    def _target(self, channel: str, snapshot: str) -> str:
        """Return the DN a channel may be pointed at."""
        if prototype_of(snapshot) != split_channel(channel)[0]:
            raise ParameterError(f"channel {channel} cannot point at {snapshot}, a snapshot of another prototype")
        return self.layout.snapshot(self.snapshot(snapshot).name)

    def _all(self, folder: str, kind: str, make: Callable[[Entry, Layout], T], scope: str = ldap3.LEVEL) -> list[T]:
        entries = self.ldap.search(self.layout.folder(folder), f"objectClass={kind}", scope)
        return _by_name(make(entry, self.layout) for entry in entries)


def _by_name(found: Iterable[T]) -> list[T]:
    return sorted(found, key=lambda one: one.name)


def _moved(moved_by: str, moved_at: datetime, record: str) -> Attributes:
    return {
        "skMovedBy": text_values(moved_by, "the name of who moves it"),
        "skMovedAt": time_values(moved_at),
        "skRecord": text_values(record, "the record's name"),
    }
