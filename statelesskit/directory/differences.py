"""Two states of the fleet compared: what changed, by object and field, in our words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from statelesskit.directory.changelog import Change
from statelesskit.directory.layout import Layout, split_dn
from statelesskit.directory.mapping import Entry
from statelesskit.directory.past import Held, State

# What the server keeps about an entry, and what an entry is made of: no fact of the fleet.
BOOKKEEPING = frozenset(
    {
        "objectClass", "structuralObjectClass", "entryUUID", "entryCSN", "creatorsName", "createTimestamp",
        "modifiersName", "modifyTimestamp",
    }
)  # fmt: skip
SECRET = frozenset({"userPassword"})
WORDS = {
    "skSnapshotDN": "snapshot", "skPreviousSnapshotDN": "previous", "skSerial": "serial", "skMovedBy": "moved by",
    "skMovedAt": "moved at", "skRecord": "record", "skChannelDN": "channel", "skClientMode": "mode",
    "macAddress": "mac", "description": "note", "skPriority": "priority", "skSnapshotState": "state",
    "skManifestDigest": "digest", "skCreated": "created", "skParentSnapshotDN": "parent", "skSize": "size",
    "skFileCount": "files", "member": "members", "skRunningSnapshotDN": "running", "skCachedSnapshotDN": "cached",
    "skLastSeen": "seen", "skSchemaVersion": "schema version", "skReferenceSnapshotDN": "reference",
    "skOverlayBytes": "overlay", "skOverlayLimit": "overlay limit", "skLevel": "level", "skKey": "key",
    "skEnrolment": "enrolment", "skLastResult": "result",
}  # fmt: skip
KINDS = {  # by object class
    "skclient": "client",
    "sksnapshot": "snapshot",
    "skchannel": "channel",
    "skprototype": "prototype",
    "groupofnames": "group",
    "skclientstatus": "report of client",
    "skpush": "push",
}
ADDED, REMOVED, CHANGED = "added", "removed", "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not the same in two states.

    Attributes:
        kind: channel, client, …, or ``entry`` for what is none of them; then its name is its DN.
        fields: what it says of each field before and after, several values with commas; "" for none.
        by, record: who changed it last, and that change's record, as far as is known; claims, not proofs.
    """

    kind: str
    name: str
    change: str
    fields: dict[str, tuple[str, str]]
    by: str = ""
    record: str = ""


def compare(before: State, after: State, layout: Layout, made: Iterable[Change] = ()) -> list[Difference]:
    """Return the objects that differ, by kind and name.

    Args:
        made: the changes between the two, if they are known: they tell whose record each is.
    """
    records = {change.uuid: change.claim.record for change in made if change.claim}
    old, new = _by_name(before, layout), _by_name(after, layout)
    return [
        Difference(kind, name, change, fields, *_who(old.get((kind, name)), new.get((kind, name)), records))
        for kind, name in sorted(old.keys() | new.keys())
        for change, fields in _fields(kind, old.get((kind, name)), new.get((kind, name)), layout)
    ]


def object_at(entry: Entry, layout: Layout) -> tuple[str, str]:
    """Return kind and name of what an entry is."""
    dn, classes = entry.dn, {name.lower() for name in entry.texts("objectClass")}
    name = named_at(dn, layout)
    word = next((word for kind, word in KINDS.items() if kind in classes), "entry")
    return (word, name.removeprefix(f"{word} ")) if name.startswith(f"{word} ") else ("entry", dn)


def named_at(dn: str, layout: Layout) -> str:
    """Return what stands at a DN in words, as far as the DN tells."""
    rdns = split_dn(dn)
    places: dict[str, str | None] = {
        "client": layout.client_at(dn),
        "snapshot": layout.snapshot_at(dn),
        "channel": layout.channel_at(dn),
        "prototype": layout.prototype_at(dn),
        "group": layout.group_at(dn),
        "report of client": layout.client_at(",".join(rdns[1:])),
        "push": rdns[0].partition("=")[2] if rdns and layout.stands_in(dn, "pushes") else None,
    }
    return next((f"{word} {name}" for word, name in places.items() if name), dn)


def _by_name(state: State, layout: Layout) -> dict[tuple[str, str], tuple[str, Held]]:
    return {object_at(one.as_entry(), layout): (uuid, one) for uuid, one in state.entries.items()}


def _fields(
    kind: str, old: tuple[str, Held] | None, new: tuple[str, Held] | None, layout: Layout
) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    was, now = (_shown(kind, one[1], layout) if one else {} for one in (old, new))
    fields = {
        name: (was.get(name, ""), now.get(name, ""))
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    }
    if fields or not (old and new):
        yield ADDED if not old else REMOVED if not new else CHANGED, fields


def _shown(kind: str, one: Held, layout: Layout) -> dict[str, str]:
    naming = {part.partition("=")[0].lower() for part in split_dn(one.dn)[0].split("+")}
    shown = {}
    for name, values in one.values.items():
        if name not in BOOKKEEPING and name.lower() not in naming and values:
            word = "pin" if name == "skSnapshotDN" and kind in ("client", "group") else WORDS.get(name, name)
            shown[word] = ", ".join(sorted(_text(name, value, layout) for value in values))
    return shown


def _text(name: str, value: bytes, layout: Layout) -> str:
    from hashlib import sha256

    if name in SECRET:
        return f"secret {sha256(value).hexdigest()[:8]}"
    text = value.decode("utf-8", "replace")
    if name.endswith("DN") or name == "member":
        snapshot, channel, client = layout.snapshot_at(text), layout.channel_at(text), layout.client_at(text)
        return snapshot or channel or client or layout.prototype_at(text) or text
    return text


def _who(old: tuple[str, Held] | None, new: tuple[str, Held] | None, records: dict[str, str]) -> tuple[str, str]:
    """Return who made an object what it is, and by which record."""
    if new is None:
        return "", records.get(old[0], "") if old else ""
    entry = new[1].as_entry()
    return entry.text("skMovedBy"), records.get(new[0]) or entry.text("skRecord")
