"""A table of clients held against the directory: what is wrong with each row, and what the good ones change."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from statelesskit.clients.changes import Change, Changes, same
from statelesskit.clients.table import Fault, Row
from statelesskit.directory import Directory
from statelesskit.directory.mapping import Attributes, Entry, client_attributes, text_values
from statelesskit.directory.model import MODES, Client
from statelesskit.errors import UsageError
from statelesskit.names import check_name, normalise_mac, printable

_KEPT_IN = {
    "mode": "skClientMode",
    "mac": "macAddress",
    "channel": "skChannelDN",
    "pin": "skSnapshotDN",
    "note": "description",
}
SUGGESTIONS = 100
_WORDS = re.compile(r"[\s,;]+")


@dataclass(slots=True)
class Known:
    """What the directory holds that a row is held against.

    Attributes:
        owners: of a MAC address.
        states: of a snapshot.
        members: clients by group.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    channels: set[str] = field(default_factory=set)
    states: dict[str, str] = field(default_factory=dict)
    members: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a table comes to.

    Attributes:
        faults: of the bad rows, by line; nothing of these is in the changes.
        rows, bad: how many rows there are, and how many of them are bad.
        unchanged: how many rows say what is there.
    """

    faults: Sequence[Fault]
    rows: int
    bad: int
    changes: Changes
    unchanged: int


def look(directory: Directory) -> Known:
    """Read all of it."""
    known = Known()
    for entry in directory.client_entries():
        name = directory.layout.client_at(entry.dn) or entry.dn
        known.entries[name] = entry
        known.owners |= dict.fromkeys(entry.texts("macAddress"), name)
    known.channels = {channel.name for channel in directory.channels()}
    known.states = {snapshot.name: snapshot.state for snapshot in directory.snapshots()}
    known.members = {group.name: group.members for group in directory.groups()}
    return known


def judge(
    rows: Iterable[Row], faults: Iterable[Fault], known: Known, directory: Directory, *, update: bool
) -> Judgement:
    """Hold every row against the directory and the other rows.

    Args:
        faults: of rows that could not be read.
        update: a client that is there, and other than its row says, is changed; else its row is bad.
    """
    found = list(faults)
    unreadable = {fault.line for fault in found}
    judge = _Judge(known, directory, update=update)
    changes: list[Change] = []
    joining: dict[str, list[str]] = {}
    unchanged = 0
    for row in rows:
        wrong, change, groups = judge.row(row)
        found += wrong
        if wrong or row.line in unreadable:
            continue
        if change:
            changes.append(change)
        elif not groups:
            unchanged += 1
        for group in groups:
            joining.setdefault(group, []).append(row.cells["name"])
    bad = {fault.line for fault in found}
    first = {(fault.line, fault.field): fault for fault in reversed(found)}  # what is no UTF-8 is no name either
    return Judgement(
        sorted(first.values(), key=lambda one: (one.line, one.field)),
        rows=len(bad | judge.lines),
        bad=len(bad),
        changes=Changes(tuple(changes), joining),
        unchanged=unchanged,
    )


class _Judge:
    """One table on its way through, with the names and addresses its rows have used."""

    def __init__(self, known: Known, directory: Directory, *, update: bool) -> None:
        self._known, self._directory, self._update = known, directory, update
        self.lines: set[int] = set()
        self._member_of: defaultdict[str, set[str]] = defaultdict(set)
        for group, members in known.members.items():
            for name in members:
                self._member_of[name].add(group)
        self._names: dict[str, int] = {}
        self._macs: dict[str, int] = {}
        self._nearest: dict[str, str] = {}

    def row(self, row: Row) -> tuple[list[Fault], Change | None, list[str]]:
        """Return what is wrong with a row, what it changes, and which groups its client joins."""
        self.lines.add(row.line)
        cells, faults = row.cells, []
        name = cells["name"]
        there = self._known.entries.get(name)
        given: dict[str, Any] = {}
        for column, read in (
            ("name", self._name), ("mode", self._mode), ("mac", self._addresses), ("channel", self._channel),
            ("pin", self._pin), ("groups", self._groups), ("note", self._note),
        ):  # fmt: skip
            if column in cells:
                try:
                    given[column] = read(cells[column], row)
                except UsageError as error:
                    faults.append(Fault(row.line, column, error.message))
        mode = given.get("mode") or (there.text("skClientMode") if there else "")
        if not mode and "mode" not in {fault.field for fault in faults}:
            faults.append(Fault(row.line, "mode", f"a new client needs one: {', '.join(MODES)}"))
        told = [column for column in ("channel", "pin") if mode == "thick" and given.get(column)]
        faults += [Fault(row.line, column, "a thick client is told nothing to run; leave it empty") for column in told]
        if faults:
            return faults, None, []
        attributes = self._attributes(name, mode, given)
        member_of = self._member_of.get(name, set())
        joins = [group for group in given.get("groups", ()) if group not in member_of]
        if "groups" in given and (left := member_of - set(given["groups"])):
            said = f"it is in {', '.join(map(printable, sorted(left)))}; an import takes nobody out"
            return [Fault(row.line, "groups", said)], None, []
        if there is None:
            return [], Change(name, None, attributes), joins
        differ = [_KEPT_IN[column] for column in _KEPT_IN if column in given and (column != "mode" or given[column])]
        differ = [kind for kind in differ if not same(there.texts(kind), attributes[kind])]
        if (differ or joins) and not self._update:
            columns = [column for column, kind in _KEPT_IN.items() if kind in differ] + ["groups"] * bool(joins)
            said = f"there is such a client with another {', '.join(columns)}; --update changes it"
            return [Fault(row.line, "name", said)], None, []
        if not differ:
            return [], None, joins
        before = {kind: there.texts(kind) for kind in differ}
        return [], Change(name, before, {kind: attributes[kind] for kind in differ}), joins

    def _attributes(self, name: str, mode: str, given: dict[str, Any]) -> Attributes:
        client = Client(
            name,
            mode,
            given.get("mac", ()),
            given.get("channel") or None,
            given.get("pin") or None,
            given.get("note", ""),
        )
        return client_attributes(client, self._directory.layout)

    def _name(self, cell: str, row: Row) -> str:
        if cell in self._names:
            raise UsageError(f"{printable(cell)} is also in line {self._names[cell]}")
        self._names[cell] = row.line
        return check_name(cell, "client")

    def _mode(self, cell: str, row: Row) -> str:
        if cell and cell not in MODES:
            raise UsageError(f"there is no mode {printable(cell)!r}{self._near(cell, MODES)}")
        return cell

    def _addresses(self, cell: str, row: Row) -> tuple[str, ...]:
        macs = tuple(dict.fromkeys(normalise_mac(word) for word in _WORDS.split(cell) if word))
        for mac in macs:
            owner = self._known.owners.get(mac, row.cells["name"])
            if owner != row.cells["name"]:
                raise UsageError(f"{mac} belongs to client {printable(owner)}")
            if mac in self._macs:
                raise UsageError(f"{mac} is also in line {self._macs[mac]}")
        self._macs |= dict.fromkeys(macs, row.line)
        return macs

    def _channel(self, cell: str, row: Row) -> str:
        if cell and cell not in self._known.channels:
            raise UsageError(f"there is no channel {printable(cell)!r}{self._near(cell, self._known.channels)}")
        return cell

    def _pin(self, cell: str, row: Row) -> str:
        if cell and cell not in self._known.states:
            raise UsageError(f"there is no snapshot {printable(cell)!r}{self._near(cell, self._known.states)}")
        if cell and self._known.states[cell] == "revoked":
            raise UsageError(f"{cell} is revoked")
        return cell

    def _groups(self, cell: str, row: Row) -> list[str]:
        groups = list(dict.fromkeys(word for word in _WORDS.split(cell) if word))
        for group in groups:
            if group not in self._known.members:
                raise UsageError(f"there is no group {printable(group)!r}{self._near(group, self._known.members)}")
        return groups

    def _note(self, cell: str, row: Row) -> str:
        text_values(cell, "the note")
        return cell

    def _near(self, name: str, known: Iterable[str]) -> str:
        """Return a suggestion; only of so many names, as it takes long and a table may be wrong throughout."""
        if name not in self._nearest and len(self._nearest) < SUGGESTIONS:
            near = difflib.get_close_matches(name[:200], known, n=1)
            self._nearest[name] = f", did you mean {printable(near[0])}?" if near else ""
        return self._nearest.get(name, "")
