"""Groups of clients: made, changed, and who is in them. What a group names is not asked for here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import ldap3
from ldap3.utils.conv import escape_filter_chars

from statelesskit.directory.changing import change, changed_by_other, read_back, unknown
from statelesskit.directory.mapping import Entry, group_attributes, group_from
from statelesskit.directory.model import Group
from statelesskit.directory.operations import Changes

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory

_CHANGED = ("skChannelDN", "skSnapshotDN", "skPriority", "description")


def group_named(directory: Directory, name: str) -> Group:
    """Return one group.

    Raises:
        NotFoundError: there is none of that name.
    """
    return group_from(_entry(directory, name), directory.layout)


def groups_of(directory: Directory, client: str) -> list[Group]:
    """Return the groups a client is itself a member of, by name."""
    rule = f"member={escape_filter_chars(directory.layout.client(client))}"
    entries = directory.ldap.search(directory.layout.folder("groups"), rule, ldap3.LEVEL)
    return sorted((group_from(entry, directory.layout) for entry in entries), key=lambda one: one.name)


def add_group(directory: Directory, group: Group) -> Group:
    """Make a group and return it as it is stored.

    Raises:
        ExistsError: there is one of that name.
        ParameterError: its note cannot be right.
    """
    dn = directory.layout.group(group.name)
    directory.ldap.add(dn, group_attributes(group, directory.layout), "group", group.name)
    return _read_back(directory, group.name)


def change_group(directory: Directory, before: Group, after: Group) -> Group:
    """Give a group another channel, pin, priority or note, if these are still what ``before`` says.

    Raises:
        ConflictError: somebody else changed one of them; nothing was changed.
    """
    entry = _entry(directory, before.name)
    found = replace(
        group_from(entry, directory.layout),
        members=before.members, nested=before.nested, strangers=before.strangers,
    )  # fmt: skip
    wanted = group_attributes(after, directory.layout)
    if found != before or not change(directory.ldap, entry, wanted, _CHANGED):
        raise changed_by_other("group", before.name)
    return _read_back(directory, before.name)


def add_members(directory: Directory, name: str, clients: Sequence[str]) -> Group:
    """Put clients into a group; those that are in it stay.

    Raises:
        ConflictError: somebody else changed the members; nothing was changed.
    """
    entry = _entry(directory, name)
    new = sorted(set(clients) - group_from(entry, directory.layout).members)
    changes: Changes = {"member": [(ldap3.MODIFY_ADD, [directory.layout.client(one) for one in new])]}
    if new and not directory.ldap.modify(entry.dn, changes):
        raise changed_by_other("group", name)
    return _read_back(directory, name)


def remove_members(directory: Directory, name: str, clients: Sequence[str]) -> Group:
    """Take clients (or groups, which should not be there) out of a group; it does not matter if they are not in it.

    Raises:
        ConflictError: somebody else changed the members; nothing was changed.
    """
    entry = _entry(directory, name)
    layout = directory.layout
    gone = [dn for dn in entry.texts("member") if (layout.client_at(dn) or layout.group_at(dn)) in clients]
    changes: Changes = {"member": [(ldap3.MODIFY_DELETE, gone)]}
    if len(gone) == len(entry.texts("member")):  # a group of others, without one that fills the place
        changes["member"].insert(0, (ldap3.MODIFY_ADD, [directory.layout.base]))
    if gone and not directory.ldap.modify(entry.dn, changes):
        raise changed_by_other("group", name)
    return _read_back(directory, name)


def remove_group(directory: Directory, name: str) -> None:
    """Remove a group; its clients stay.

    Raises:
        NotFoundError: there is none of that name.
    """
    if not directory.ldap.delete(directory.layout.group(name)):
        raise unknown("group", name, directory.groups())


def _entry(directory: Directory, name: str) -> Entry:
    entry = directory.ldap.read(directory.layout.group(name), "groupOfNames")
    if entry is None:
        raise unknown("group", name, directory.groups())
    return entry


def _read_back(directory: Directory, name: str) -> Group:
    return read_back(lambda name: group_named(directory, name), name)
