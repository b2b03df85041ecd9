"""Changes of clients that can be planned, kept as JSON, made in bulk, and taken back.

Each says what was there and what is to be there. So the plan of a run that was broken off, which stands in its
record, is all that is needed to go on with it or to undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from statelesskit.directory import Directory, ber
from statelesskit.directory.layout import comparable
from statelesskit.directory.mapping import Attributes, Entry
from statelesskit.errors import ConflictError
from statelesskit.names import printable

MEMBERS = 10_000  # put into a group, or taken out, by one operation: some 500 kB
SHOWN = 20
Step = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Change:
    """One client's entry, before and after; None is no entry.

    Of an entry that is there before and after, both hold just the attributes that differ.
    """

    client: str
    before: Attributes | None
    after: Attributes | None

    def reversed(self) -> Change:
        return Change(self.client, self.after, self.before)

    def as_json(self) -> list[Any]:
        return [self.client, self.before, self.after]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of clients, and who is to join or to leave which group."""

    clients: tuple[Change, ...] = ()
    joining: Mapping[str, list[str]] = field(default_factory=dict)
    leaving: Mapping[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.clients or self.joining or self.leaving)

    def __len__(self) -> int:
        return len(self.clients)

    def as_json(self) -> dict[str, Any]:
        return {
            "clients": [one.as_json() for one in self.clients],
            "joining": dict(self.joining),
            "leaving": dict(self.leaving),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Changes:
        return cls(tuple(Change(*one) for one in data["clients"]), data["joining"], data["leaving"])


def make(directory: Directory, changes: Changes, made: Step) -> None:
    """Make all changes; each is made only on what was there before.

    A crash leaves some of them made and others not, each whole.

    Args:
        made: told how many more were dealt with.

    Raises:
        ConflictError: somebody changed some of it meanwhile; all others are made, and these are named.
    """
    wrong: list[str] = []

    def change(steps: list[tuple[str, bytes]]) -> None:
        refused = directory.ldap.change_all([body for _, body in steps], made)
        wrong.extend(f"{steps[place][0]}: {why}" for place, why in refused.items())

    # In a group before it is there, and out of it after it went: a client never runs what its group does not say.
    change(list(_memberships(directory, changes.joining, "MODIFY_ADD")))
    change([(one.client, _body(directory, one)) for one in changes.clients])
    change(list(_memberships(directory, changes.leaving, "MODIFY_DELETE")))
    if wrong:
        shown = "; ".join(map(printable, wrong[:SHOWN])) + (" …" if len(wrong) > SHOWN else "")
        raise ConflictError(
            f"the directory is no longer what it was: {len(wrong)} changes were refused, the others were made: {shown}",
            hint="run it again to go on with what is left, or take back what was made: statelesskit client undo RECORD",
        )


def to_undo(directory: Directory, changes: Changes) -> tuple[Changes, list[str]]:
    """Return what takes these changes back, and the clients left alone because somebody changed them since.

    What was not made, or is taken back already, needs nothing.
    """
    there = _entries(directory)
    back, alone = [], []
    for one in changes.clients:
        entry = there.get(one.client)
        if matches(entry, one.after, whole=one.before is None):
            back.append(one.reversed())
        elif not matches(entry, one.before, whole=one.after is None):
            alone.append(one.client)
    members = {group.name: group.members - {*alone} for group in directory.groups()}
    leaving = {
        group: left
        for group, names in changes.joining.items()
        if (left := sorted(members.get(group, set()) & set(names)))
    }
    joining = {
        group: new
        for group, names in changes.leaving.items()
        if group in members and (new := sorted(set(names) - members[group]))
    }
    return Changes(tuple(back), joining, leaving), alone


def not_made(directory: Directory, changes: Changes) -> list[str]:
    """Return the clients, and the groups, that are not as the changes leave them."""
    there = _entries(directory)
    wrong = [
        one.client for one in changes.clients if not matches(there.get(one.client), one.after, whole=one.before is None)
    ]
    members = {group.name: group.members for group in directory.groups()}
    wrong += [f"group {group}" for group, names in changes.joining.items() if set(names) - members.get(group, set())]
    return wrong + [
        f"group {group}" for group, names in changes.leaving.items() if members.get(group, set()) & set(names)
    ]


def _entries(directory: Directory) -> dict[str, Entry]:
    return {directory.layout.client_at(entry.dn) or entry.dn: entry for entry in directory.client_entries()}


def matches(entry: Entry | None, attributes: Attributes | None, *, whole: bool) -> bool:
    """Say whether an entry is as these attributes say.

    Args:
        whole: it must have no others, but for its name.
    """
    if entry is None or attributes is None:
        return entry is None and attributes is None
    kinds = {*attributes, *(entry.values if whole else ())} - {"cn", "objectClass"}
    return all(same(entry.texts(kind), attributes.get(kind, [])) for kind in kinds)


def same(found: Iterable[str], wanted: Iterable[str]) -> bool:
    """Say whether these are the same values; a DN has many spellings."""
    return {comparable(text) for text in found} == {comparable(text) for text in wanted}


def _body(directory: Directory, change: Change) -> bytes:
    dn = directory.layout.client(change.client)
    if change.before is None:
        return ber.add(dn, change.after or {})
    if change.after is None:
        return ber.delete(dn)
    # What is deleted must be there with that value, or the server refuses the whole change.
    steps = {
        kind: [
            *([("MODIFY_DELETE", old)] if (old := change.before.get(kind)) else []),
            *([("MODIFY_ADD", new)] if (new := change.after.get(kind)) else []),
        ]
        for kind in {**change.before, **change.after}
    }
    return ber.modify(dn, steps)


def _memberships(directory: Directory, groups: Mapping[str, list[str]], how: str) -> Iterator[tuple[str, bytes]]:
    layout = directory.layout
    for group, names in groups.items():
        dn = layout.group(group)
        filled = []
        if how == "MODIFY_DELETE" and (entry := directory.ldap.read(dn, "groupOfNames")):
            left = {layout.client_at(member) for member in entry.texts("member")} - set(names)
            filled = [] if left else [("MODIFY_ADD", [layout.base])]  # it must have a member; the top entry is nobody
        for begin in range(0, len(names), MEMBERS):
            members = [layout.client(name) for name in names[begin : begin + MEMBERS]]
            yield f"group {group}", ber.modify(dn, {"member": [*filled, (how, members)]})
            filled = []


def values_shown(attributes: Attributes) -> str:
    """Return attributes as a person reads them in a table."""
    shown = {kind.removeprefix("sk"): values for kind, values in attributes.items() if kind != "objectClass" and values}
    return ", ".join(f"{kind} {' '.join(values)}" for kind, values in shown.items()) or "nothing"
