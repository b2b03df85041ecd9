"""The LDAP operations all else is made of: counted, their errors ours, their answers plain values.

Filters and DNs come in escaped: names become DNs in :mod:`statelesskit.directory.layout` alone.
"""

from __future__ import annotations

from collections import Counter

import ldap3
from ldap3.core import exceptions as ldap

from statelesskit.directory.mapping import Attributes, Entry
from statelesskit.directory.session import disconnect, translated
from statelesskit.errors import ExistsError

PAGE = 1000  # entries the server sends at once
Changes = dict[str, list[tuple[str, list[str]]]]  # by attribute: what is done with which values


class Operations:
    """Operations over one connection.

    Attributes:
        counts: how many were sent, by kind; a paged search counts once.
    """

    def __init__(self, connection: ldap3.Connection) -> None:
        self.counts: Counter[str] = Counter()
        self._connection = connection

    def close(self) -> None:
        """End the connection."""
        disconnect(self._connection)

    def read(self, dn: str, kind: str) -> Entry | None:
        """Return the entry of that class at ``dn``, if there is one."""
        return next(iter(self.search(dn, f"objectClass={kind}", ldap3.BASE)), None)

    def search(self, base: str, rule: str, scope: str = ldap3.SUBTREE) -> list[Entry]:
        """Return the entries found; ``rule`` is a filter's inside, its values already escaped."""
        self.counts["search"] += 1
        with translated(self._connection.server.name):
            try:
                found = self._connection.extend.standard.paged_search(
                    base,
                    f"({rule})",
                    search_scope=scope,
                    dereference_aliases=ldap3.DEREF_NEVER,
                    attributes=ldap3.ALL_ATTRIBUTES,
                    paged_size=None if scope == ldap3.BASE else PAGE,
                    generator=False,
                )
            except ldap.LDAPNoSuchObjectResult:
                if scope == ldap3.BASE:
                    return []
                raise
        return [Entry(one["dn"], one["raw_attributes"]) for one in found if one["type"] == "searchResEntry"]

    def add(self, dn: str, attributes: Attributes, what: str, name: str) -> None:
        """Add an entry; ``what`` and ``name`` say in an error what it is.

        Raises:
            ExistsError: there is one.
        """
        self.counts["add"] += 1
        with translated(self._connection.server.name, changing=True):
            try:
                self._connection.add(dn, attributes={kind: values for kind, values in attributes.items() if values})
            except ldap.LDAPEntryAlreadyExistsResult:
                raise ExistsError(f"there is already a {what} {name}") from None

    def delete(self, dn: str) -> bool:
        """Remove an entry; say whether it was there."""
        self.counts["delete"] += 1
        with translated(self._connection.server.name, changing=True):
            try:
                self._connection.delete(dn)
                return True
            except ldap.LDAPNoSuchObjectResult:
                return False

    def modify(self, dn: str, changes: Changes) -> bool:
        """Change an entry whole or not at all; return false if a value to be deleted was not there."""
        self.counts["modify"] += 1
        with translated(self._connection.server.name, changing=True):
            try:
                self._connection.modify(dn, changes)
            except (
                ldap.LDAPNoSuchAttributeResult,
                ldap.LDAPNoSuchObjectResult,
                ldap.LDAPAttributeOrValueExistsResult,
            ):
                return False
        return True
