"""Changes of entries that others may change at the same moment, and what is said when they did."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TypeVar

import ldap3

from statelesskit.directory.mapping import Attributes, Entry
from statelesskit.directory.model import Channel, Client, Group, PrototypeEntry, SnapshotEntry
from statelesskit.directory.operations import Changes, Operations
from statelesskit.errors import ConflictError, DirectoryUnavailableError, NotFoundError
from statelesskit.names import printable

T = TypeVar("T")
Named = PrototypeEntry | SnapshotEntry | Channel | Client | Group


def change(ldap: Operations, entry: Entry, wanted: Attributes, kinds: Iterable[str]) -> bool:
    """Bring attributes of an entry from what was read to what is wanted; false if they are no longer that.

    What is deleted must be there, or the server refuses the whole change.
    """
    changes: Changes = {}
    for kind in kinds:
        gone = [value for value in entry.texts(kind) if value not in wanted[kind]]
        new = [value for value in wanted[kind] if value not in entry.texts(kind)]
        parts = [(how, part) for how, part in ((ldap3.MODIFY_DELETE, gone), (ldap3.MODIFY_ADD, new)) if part]
        changes |= {kind: parts} if parts else {}
    return not changes or ldap.modify(entry.dn, changes)


def read_back(read: Callable[[str], T], name: str) -> T:
    """Read what has just been written; a server that goes away now has done it all the same."""
    try:
        return read(name)
    except DirectoryUnavailableError as error:
        raise DirectoryUnavailableError(
            f"{name} was written, but could not be read again: {error.message}", hint=error.hint
        ) from error


def unknown(what: str, name: str, known: Iterable[Named]) -> NotFoundError:
    names = [one.name for one in known]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {printable(near[0])}?" if near else f"`statelesskit {what} list` shows all there are"
    return NotFoundError(f"there is no {what} {printable(name)} in the directory", hint=hint)


def changed_by_other(what: str, name: str) -> ConflictError:
    return ConflictError(
        f"the {what} {name} was changed by somebody else meanwhile; it was left as it is",
        hint=f"look at it again: statelesskit {what} show {name}",
    )


def moved_by_other(found: Channel, expected: int) -> ConflictError:
    if found.serial == expected:
        return ConflictError(
            f"channel {printable(found.name)} was changed without a push: it points at "
            f"{printable(found.snapshot or 'nothing')}, and its serial is still {expected}; nothing was changed",
            hint="find out who used another tool, then plan again: statelesskit push plan",
        )
    at = f"{found.moved_at:%Y-%m-%dT%H:%M:%SZ}" if found.moved_at else "an unknown time"
    source, target = printable(found.previous or "nothing"), printable(found.snapshot or "nothing")
    return ConflictError(
        f"channel {printable(found.name)} was moved by {printable(found.moved_by or 'somebody')} at {at} "
        f"from {source} to {target}: expected serial {expected}, found {found.serial}; nothing was changed",
        hint="look at what is there now, then plan again: statelesskit push plan",
    )
