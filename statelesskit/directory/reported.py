"""The status entries of clients, as the report door reads and writes them: many at once, guarded one by one.

An entry is also named after its client, ``c1/status``, so that one search finds those of many clients by what
is indexed. No client's name holds a slash, so no client is mistaken for one.

A client's key is kept here and not in a file of the site: it goes when the client goes, so that a later machine
of that name has none; it comes along with a backup and to replicas; and what decides about a report is read
together, by one search.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import ldap3
from ldap3.utils.conv import escape_filter_chars

from statelesskit.directory import ber
from statelesskit.directory.layout import Layout
from statelesskit.directory.mapping import time_values
from statelesskit.directory.model import Report
from statelesskit.directory.operations import Changes
from statelesskit.errors import NotFoundError

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory

_DECIDING = ("skSerial", "skKey", "skEnrolment")
DOOR = "reports"  # the account the report door has, with the role of a reporter


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides whether a report is taken.

    Attributes:
        counter: of its last report; 0 if there was none.
        key: the public key it must sign with, one OpenSSH line, or "".
        enrolment: what :func:`enrolment_text` wrote, while a token is out.
        entry: whether there is a status entry.
    """

    client: str
    counter: int = 0
    key: str = ""
    enrolment: str = ""
    entry: bool = False


def standings(directory: Directory, names: Collection[str]) -> dict[str, Standing]:
    """Return what is known of those of some clients that are there, by name.

    One search for those that reported before, and one more for others, if any.
    """
    layout = directory.layout
    found: dict[str, Standing] = {}
    rule = "|" + "".join(f"(cn={escape_filter_chars(_label(name))})" for name in names)
    for entry in directory.ldap.search(layout.folder("clients"), rule, attributes=_DECIDING) if names else []:
        if (name := layout.status_at(entry.dn)) and name in names:
            found[name] = Standing(
                name, entry.number("skSerial"), entry.text("skKey"), entry.text("skEnrolment"), entry=True
            )
    if new := [name for name in names if name not in found]:
        found |= {client.name: Standing(client.name) for client in directory.clients_named(new)}
    return found


def report_request(layout: Layout, before: Standing, report: Report, counter: int) -> bytes:
    """Return the request that writes a report; refused by the server if another came in between."""
    values = {
        "skRunningSnapshotDN": [layout.snapshot(report.running)] if report.running else [],
        "skManifestDigest": [report.digest] if report.digest else [],
        "skLastSeen": time_values(report.seen_at or datetime.now(UTC)),
        "skLastResult": [report.result],
        "skLevel": [report.level],
        "skOverlayBytes": _number(report.overlay_bytes),
        "skOverlayLimit": _number(report.overlay_limit_bytes),
    }
    dn = layout.status(report.client)
    if not before.entry:
        return ber.add(dn, {**_named(report.client), "skSerial": [str(counter)], **values})
    changes: Changes = {kind: [(ldap3.MODIFY_REPLACE, given)] for kind, given in values.items()}
    return ber.modify(dn, changes | _counted(before.counter, counter))


def label_request(layout: Layout, client: str) -> bytes:
    """Return the request that names a status entry, which somebody else made, after its client."""
    return ber.modify(layout.status(client), {"cn": [(ldap3.MODIFY_ADD, [_label(client)])]})


def allow_enrolment(directory: Directory, client: str, enrolment: str) -> None:
    """Let a client enrol once; a token that is out is void from now on, a key stands until then.

    Raises:
        NotFoundError: there is no such client.
    """
    found = standings(directory, [client]).get(client)
    if found is None:
        raise NotFoundError(f"there is no client {client}", hint="`statelesskit client list` shows all there are")
    dn = directory.layout.status(client)
    if not found.entry:
        directory.ldap.add(dn, {**_named(client), "skEnrolment": [enrolment]}, "report of client", client)
    elif not directory.ldap.modify(dn, {"skEnrolment": [(ldap3.MODIFY_REPLACE, [enrolment])]}):
        raise NotFoundError(f"the client {client} was removed meanwhile", hint="statelesskit client list")


def enrol(directory: Directory, standing: Standing, key: str) -> bool:
    """Take a client's token back and register its key in one change; false if somebody was faster with it."""
    return directory.ldap.modify(
        directory.layout.status(standing.client),
        {
            "skEnrolment": [(ldap3.MODIFY_DELETE, [standing.enrolment])],
            "skKey": [(ldap3.MODIFY_REPLACE, [key])],
        },
    )


def _counted(before: int, counter: int) -> Changes:
    gone = [(ldap3.MODIFY_DELETE, [str(before)])] if before else []
    return {"skSerial": [*gone, (ldap3.MODIFY_ADD, [str(counter)])]}


def _named(client: str) -> dict[str, list[str]]:
    return {"objectClass": ["skClientStatus"], "cn": ["status", _label(client)]}


def _label(client: str) -> str:
    return f"{client}/status"


def _number(value: int | None) -> list[str]:
    return [] if value is None else [str(value)]
