"""The LDAP operations all else is made of: counted, their errors ours, their answers plain values.

Filters and DNs come in escaped: names become DNs in :mod:`statelesskit.directory.layout` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import ldap3
from ldap3.core import exceptions as ldap

from statelesskit.directory import authorship, wire
from statelesskit.directory.ber import Control
from statelesskit.directory.layout import comparable
from statelesskit.directory.link import Fate, Link
from statelesskit.directory.mapping import Attributes, Entry
from statelesskit.directory.session import Connection
from statelesskit.errors import ExistsError
from statelesskit.progress import SILENT

BATCH = 100  # changes on their way when a server goes away: nobody knows then which of them it made
Changes = dict[str, list[tuple[str, list[str]]]]  # by attribute: what is done with which values


class Operations:
    """Operations over one link.

    Attributes:
        counts: how many were sent, by kind; a paged search counts once, one that is sent again as well.
    """

    def __init__(self, link: Link) -> None:
        self.counts: Counter[str] = Counter()
        self._link = link
        self._author = authorship.current()

    def close(self) -> None:
        """End the connection."""
        self._link.close()

    def read(self, dn: str, kind: str) -> Entry | None:
        """Return the entry of that class at ``dn``, if there is one."""
        return next(iter(self.search(dn, f"objectClass={kind}", ldap3.BASE)), None)

    def search(
        self,
        base: str,
        rule: str,
        scope: str = ldap3.SUBTREE,
        attributes: Sequence[str] = (ldap3.ALL_ATTRIBUTES,),
        read: Callable[[int], object] = SILENT.advance,
    ) -> list[Entry]:
        """Return the entries found; ``rule`` is a filter's inside, its values already escaped.

        Args:
            read: told how many more have come.
        """
        self.counts["search"] += 1

        def question(connection: Connection) -> list[Entry]:
            found: list[Entry] = []
            try:
                for page in wire.pages(connection, base, f"({rule})", scope, attributes):
                    found += page
                    read(len(page))
            except ldap.LDAPNoSuchObjectResult:
                if scope != ldap3.BASE:
                    raise
            return found

        return self._link.ask(question)

    def change_all(self, bodies: Sequence[bytes], made: Callable[[int], object]) -> dict[int, str]:
        """Make many changes, each of another entry, encoded by :mod:`statelesskit.directory.ber`, in any order.

        Not in transactions (RFC 5805): slapd 2.5.13 crashes, or hangs, when one is ended early or its client dies.

        Args:
            made: told how many more were dealt with.

        Returns:
            why the server refused a change, by its place; all others are made.

        Raises:
            DirectoryUnavailableError: the server went away; some changes are made and others not, each whole.
        """
        refused: dict[int, str] = {}

        def requests() -> list[wire.Request]:
            return [wire.Request(body, tuple(self._controls("", ""))) for body in batch]

        def change(connection: Connection) -> bool:
            for place, result in enumerate(wire.tell(connection, requests()), begin):
                if not result.good:
                    refused[place] = f"{result.name}: {result.message}".removesuffix(": ")
            return True

        for begin in range(0, len(bodies), BATCH):
            batch = bodies[begin : begin + BATCH]
            self.counts["change"] += len(batch)
            self._link.tell(change, lambda: Fate.UNKNOWN)
            made(len(batch))
        return refused

    def add(self, dn: str, attributes: Attributes, what: str, name: str) -> None:
        """Add an entry; ``what`` and ``name`` say in an error what it is.

        Raises:
            ExistsError: there is one.
        """
        self.counts["add"] += 1
        wanted = {kind: values for kind, values in attributes.items() if values}

        def change(connection: Connection) -> bool:
            try:
                connection.add(dn, attributes=wanted, controls=self._controls("add", dn) or None)
            except ldap.LDAPEntryAlreadyExistsResult:
                return False
            return True

        def look() -> Fate:
            entry = self.read(dn, "*")
            if entry is None:
                return Fate.NOT_MADE
            same = all(_values(values) <= _values(entry.texts(kind)) for kind, values in wanted.items())
            return Fate.MADE if same else Fate.UNKNOWN

        if not self._link.tell(change, look):
            raise ExistsError(f"there is already a {what} {name}")

    def delete(self, dn: str) -> bool:
        """Remove an entry; say whether it was there."""
        self.counts["delete"] += 1

        def change(connection: Connection) -> bool:
            try:
                connection.delete(dn, controls=self._controls("delete", dn) or None)
            except ldap.LDAPNoSuchObjectResult:
                return False
            return True

        return self._link.tell(change, lambda: Fate.NOT_MADE if self.read(dn, "*") else Fate.MADE)

    def modify(self, dn: str, changes: Changes) -> bool:
        """Change an entry whole or not at all; return false if a value to be deleted was not there."""
        self.counts["modify"] += 1

        def change(connection: Connection) -> bool:
            try:
                connection.modify(dn, changes, controls=self._controls("modify", dn) or None)
            except (
                ldap.LDAPNoSuchAttributeResult,
                ldap.LDAPNoSuchObjectResult,
                ldap.LDAPAttributeOrValueExistsResult,
            ):
                return False
            return True

        return self._link.tell(change, lambda: _fate(changes, self.read(dn, "*")))

    def _controls(self, how: str, dn: str) -> list[Control]:
        """Return what a change is sent with; told again, it is another."""
        return [self._author.control(authorship.Change(how, dn))] if self._author else []


def _fate(changes: Changes, entry: Entry | None) -> Fate:
    """Say what became of a modify, by the entry that is there now."""
    if entry is None:
        return Fate.UNKNOWN
    made, startable = True, True
    for kind, steps in changes.items():
        found = _values(entry.texts(kind))
        wanted, gone, all_gone = _values(()), _values(()), False
        for how, values in steps:
            given = _values(values)
            if how == ldap3.MODIFY_DELETE:
                gone, all_gone = gone | given, all_gone or not given
            else:
                wanted, all_gone = wanted | given, all_gone or how == ldap3.MODIFY_REPLACE
        made &= found == wanted if all_gone else wanted <= found and not (gone - wanted) & found
        startable &= gone <= found
    return Fate.MADE if made else Fate.NOT_MADE if startable else Fate.UNKNOWN


def _values(texts: Iterable[str]) -> set[object]:
    return {comparable(text) for text in texts}
