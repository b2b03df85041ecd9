"""Values of the model as LDAP entries and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ldap3.protocol.formatters.formatters import format_time

from statelesskit.directory.layout import Layout
from statelesskit.directory.model import (
    LAST_PRIORITY,
    MODES,
    STATES,
    Channel,
    Client,
    Group,
    PrototypeEntry,
    Push,
    Report,
    SnapshotEntry,
)
from statelesskit.errors import ParameterError
from statelesskit.names import normalise_mac, printable, prototype_of

TEXT_LIMIT = 4096  # characters of a note or a name somebody gives themselves
Attributes = dict[str, list[str]]
_DIGEST = re.compile("sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the server sent it."""

    dn: str
    values: Mapping[str, Sequence[bytes]]

    def text(self, name: str) -> str:
        """Return the first value, or "" if there is none."""
        return next(iter(self.texts(name)), "")

    def texts(self, name: str) -> list[str]:
        return [value.decode("utf-8", "replace") for value in self.values.get(name, ())]

    def number(self, name: str, default: int = 0) -> int:
        text = self.text(name)
        return int(text) if text else default

    def time(self, name: str) -> datetime | None:
        found = format_time(self.text(name))
        return found.astimezone(UTC) if isinstance(found, datetime) else None


# --- to LDAP ----------------------------------------------------------------------------------


def text_values(text: str | None, what: str) -> list[str]:
    """Return free text as the values of one attribute: none if it is empty.

    Raises:
        ParameterError: it is too long, or holds what no UTF-8 can.
    """
    if not text:
        return []
    if len(text) > TEXT_LIMIT:
        raise ParameterError(f"{what} has {len(text)} characters, at most {TEXT_LIMIT} are kept")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ParameterError(f"{what} {printable(text)!r} holds half a character") from None
    return [text]


def time_values(at: datetime) -> list[str]:
    """Return a point in time as LDAP writes it, to the second."""
    if at.tzinfo is None:
        raise ValueError(f"the time {at} has no time zone")
    return [f"{at.astimezone(UTC):%Y%m%d%H%M%SZ}"]


def checked_state(state: str) -> str:
    """Return a snapshot's state, or raise ParameterError."""
    return _one_of(state, STATES, "state of a snapshot")


def prototype_attributes(prototype: PrototypeEntry) -> Attributes:
    return {"objectClass": ["skPrototype"], "description": text_values(prototype.note, "the note")}


def snapshot_attributes(snapshot: SnapshotEntry, layout: Layout) -> Attributes:
    if prototype_of(snapshot.name) != snapshot.prototype:
        raise ParameterError(
            f"snapshot {printable(snapshot.name)} is not one of prototype {printable(snapshot.prototype)}"
        )
    if not _DIGEST.fullmatch(snapshot.digest):
        raise ParameterError(f"{printable(snapshot.digest)!r} is no digest of a manifest (sha256:…)")
    return {
        "objectClass": ["skSnapshot"],
        "skPrototypeDN": [layout.prototype(snapshot.prototype)],
        "skManifestDigest": [snapshot.digest],
        "skSnapshotState": [checked_state(snapshot.state)],
        "skCreated": time_values(snapshot.created_at),
        "skParentSnapshotDN": [layout.snapshot(snapshot.parent)] if snapshot.parent else [],
        "skSize": [str(snapshot.size_bytes)],
        "skFileCount": [str(snapshot.files)],
        "description": text_values(snapshot.note, "the note"),
    }


def client_attributes(client: Client, layout: Layout) -> Attributes:
    return {
        # device is the structural class; ipHost is left out because it demands a fixed address.
        "objectClass": ["device", "ieee802Device", "skClient"],
        "skClientMode": [_one_of(client.mode, MODES, "mode of a client")],
        "macAddress": list(dict.fromkeys(normalise_mac(mac) for mac in client.macs)),
        "skChannelDN": [layout.channel(client.channel)] if client.channel else [],
        "skSnapshotDN": [layout.snapshot(client.pin)] if client.pin else [],
        "skReferenceSnapshotDN": [layout.snapshot(client.reference)] if client.reference else [],
        "description": text_values(client.note, "the note"),
    }


def group_attributes(group: Group, layout: Layout) -> Attributes:
    return {
        "objectClass": ["groupOfNames", "skAssignment"],
        # groupOfNames demands a member; the top entry is nobody, and stays so that the last client can go.
        "member": [layout.base, *(layout.client(name) for name in sorted(group.members))],
        "skChannelDN": [layout.channel(group.channel)] if group.channel else [],
        "skSnapshotDN": [layout.snapshot(group.pin)] if group.pin else [],
        "skPriority": [str(group.priority)],
        "description": text_values(group.note, "the note"),
    }


def push_attributes(channel: Entry) -> Attributes:
    """Return the history's entry of a channel's last move, made of what the channel's own entry says of it."""
    told = ("skSerial", "skSnapshotDN", "skPreviousSnapshotDN", "skMovedBy", "skRecord")
    return {
        "objectClass": ["skPush"],
        "skChannelDN": [channel.dn],
        "skCreated": channel.texts("skMovedAt"),
        **{name: channel.texts(name) for name in told},
    }


def _one_of(value: str, known: Sequence[str], what: str) -> str:
    if value not in known:
        raise ParameterError(f"{printable(value)!r} is no {what}", hint="it is one of " + ", ".join(known))
    return value


# --- from LDAP --------------------------------------------------------------------------------


def prototype_from(entry: Entry, layout: Layout) -> PrototypeEntry:
    return PrototypeEntry(layout.prototype_at(entry.dn) or entry.dn, entry.text("description"))


def snapshot_from(entry: Entry, layout: Layout) -> SnapshotEntry:
    name = layout.snapshot_at(entry.dn) or entry.dn
    return SnapshotEntry(
        name=name,
        prototype=(layout.channel_at(entry.dn) or "").partition("/")[0],
        digest=entry.text("skManifestDigest").lower(),
        state=entry.text("skSnapshotState").lower(),
        created_at=entry.time("skCreated") or datetime.fromtimestamp(0, UTC),
        parent=_snapshot_named(entry, "skParentSnapshotDN", layout),
        size_bytes=entry.number("skSize"),
        files=entry.number("skFileCount"),
        note=entry.text("description"),
    )


def channel_from(entry: Entry, layout: Layout) -> Channel:
    name = layout.channel_at(entry.dn) or entry.dn
    return Channel(
        name=name,
        prototype=name.partition("/")[0],
        snapshot=_snapshot_named(entry, "skSnapshotDN", layout),
        previous=_snapshot_named(entry, "skPreviousSnapshotDN", layout),
        serial=entry.number("skSerial"),
        moved_by=entry.text("skMovedBy"),
        moved_at=entry.time("skMovedAt"),
        record=entry.text("skRecord") or None,
    )


def client_from(entry: Entry, layout: Layout) -> Client:
    return Client(
        name=layout.client_at(entry.dn) or entry.dn,
        mode=entry.text("skClientMode").lower(),
        macs=tuple(sorted(mac.lower() for mac in entry.texts("macAddress"))),
        channel=_channel_named(entry, layout),
        pin=_snapshot_named(entry, "skSnapshotDN", layout),
        note=entry.text("description"),
        reference=_snapshot_named(entry, "skReferenceSnapshotDN", layout),
    )


def group_from(entry: Entry, layout: Layout) -> Group:
    clients, nested, strangers = set(), set(), set()
    for dn in entry.texts("member"):
        if client := layout.client_at(dn):
            clients.add(client)
        elif group := layout.group_at(dn):
            nested.add(group)
        elif not layout.is_base(dn):  # which only fills the place of a member
            strangers.add(dn)
    return Group(
        name=layout.group_at(entry.dn) or entry.dn,
        members=frozenset(clients),
        channel=_channel_named(entry, layout),
        pin=_snapshot_named(entry, "skSnapshotDN", layout),
        priority=entry.number("skPriority", LAST_PRIORITY),
        note=entry.text("description"),
        nested=frozenset(nested),
        strangers=frozenset(strangers),
    )


def push_from(entry: Entry, layout: Layout) -> Push:
    return Push(
        channel=_channel_named(entry, layout) or entry.dn,
        serial=entry.number("skSerial"),
        before=_snapshot_named(entry, "skPreviousSnapshotDN", layout),
        after=_snapshot_named(entry, "skSnapshotDN", layout),
        moved_by=entry.text("skMovedBy"),
        moved_at=entry.time("skCreated"),
        record=entry.text("skRecord") or None,
    )


def report_from(entry: Entry, layout: Layout) -> Report:
    return Report(
        client=layout.client_at(entry.dn.partition(",")[2]) or entry.dn,
        running=_snapshot_named(entry, "skRunningSnapshotDN", layout),
        cached=tuple(layout.snapshot_at(dn) or dn for dn in entry.texts("skCachedSnapshotDN")),
        seen_at=entry.time("skLastSeen"),
        digest=entry.text("skManifestDigest").lower(),
        result=entry.text("skLastResult"),
        level=entry.text("skLevel").lower(),
        overlay_bytes=_optional_number(entry, "skOverlayBytes"),
        overlay_limit_bytes=_optional_number(entry, "skOverlayLimit"),
    )


def _optional_number(entry: Entry, attribute: str) -> int | None:
    return entry.number(attribute) if entry.text(attribute) else None


def _snapshot_named(entry: Entry, attribute: str, layout: Layout) -> str | None:
    dn = entry.text(attribute)
    return (layout.snapshot_at(dn) or dn) if dn else None


def _channel_named(entry: Entry, layout: Layout) -> str | None:
    dn = entry.text("skChannelDN")
    return (layout.channel_at(dn) or dn) if dn else None
