"""The change log: every change of the directory with its old values, as slapo-accesslog(5) keeps it.

Its own times (``reqStart``) count whole seconds; the change sequence number, which the changed entry keeps
as its ``entryCSN``, says when and in which order things changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import ldap3

from statelesskit.directory.authorship import Claim, Control, claim_in
from statelesskit.directory.conf import CHANGELOG
from statelesskit.directory.layout import Layout
from statelesskit.directory.mapping import Entry
from statelesskit.directory.operations import Operations
from statelesskit.errors import NotFoundError

INSIDE = "1.3.6.1.1.21.2"  # the control of a change in a transaction (RFC 5805)
ADD, DELETE, MODIFY, RENAME = "add", "delete", "modify", "modrdn"
WHO = ("entryCSN", "reqType", "reqDN", "reqEntryUUID", "reqAuthzID", "reqControls")
WANTED = (*WHO, "reqMod", "reqOld", "reqNewDN", "reqNewRDN", "reqDeleteOldRDN")


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one entry.

    Attributes:
        csn: its change sequence number; they sort as they happened.
        uuid: the entry's number, which outlives a rename.
        by: the DN of the account that made it.
        claim: the record that says it made it.
        mods: attribute, one of ``+ - = #``, and the value if one was given; of an addition, all it was made of.
        old: what was there before: of a removal all, else all values of the attributes that were changed.
        new_dn, new_rdn, keeps_old_rdn: where a rename led.
        in_transaction: it was part of one; of one that was refused as a whole the log tells all the same.
    """

    csn: str
    kind: str
    dn: str
    uuid: str
    by: str = ""
    claim: Claim | None = None
    mods: tuple[tuple[str, str, bytes], ...] = ()
    old: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    new_dn: str = ""
    new_rdn: str = ""
    keeps_old_rdn: bool = False
    in_transaction: bool = False

    @property
    def at(self) -> datetime:
        return time_of(self.csn)


def time_of(csn: str) -> datetime:
    """Return the time a change sequence number begins with; ValueError if it is none."""
    return datetime.strptime(csn.partition("#")[0], "%Y%m%d%H%M%S.%fZ").replace(tzinfo=UTC)


def csn_at(at: datetime) -> str:
    """Return a text that sorts after the changes up to a moment and before those that came later."""
    return f"{at.astimezone(UTC):%Y%m%d%H%M%S.%fZ}#~"


def changes(ldap: Operations, after: datetime | None = None, attributes: Sequence[str] = WANTED) -> list[Change]:
    """Return the changes made after a moment, or all that are kept, in the order they happened."""
    rule = "objectClass=auditWriteObject"
    if after:
        rule = f"&({rule})(entryCSN>={after.astimezone(UTC):%Y%m%d%H%M%S.%fZ}#000000#000#000000)"
    found = (change_from(entry) for entry in ldap.search(CHANGELOG, rule, ldap3.LEVEL, attributes))
    wanted = (one for one in found if not after or one.at > after)
    return sorted(wanted, key=lambda one: one.csn)


def reaches_back_to(ldap: Operations) -> datetime:
    """Return the moment since which no change is missing from the log.

    Raises:
        NotFoundError: this server keeps no change log we may read, or nothing is in it yet.
    """
    for entry in ldap.search(CHANGELOG, "objectClass=auditContainer", ldap3.BASE, ("minCSN",)):
        if csn := entry.text("minCSN"):
            return time_of(csn)
    raise NotFoundError(
        f"the directory keeps no change log that can be read at {CHANGELOG}",
        hint="a private server gets one at the next `statelesskit site stop` and `site start`; another needs the "
        "overlay slapo-accesslog(5) with logops writes, logsuccess TRUE and logold (objectClass=*)",
    )


def change_from(entry: Entry) -> Change:
    """Read one entry of the log."""
    claims = (claim_in(text) for text in entry.texts("reqControls"))
    return Change(
        csn=entry.text("entryCSN"),
        kind=entry.text("reqType"),
        dn=entry.text("reqDN"),
        uuid=entry.text("reqEntryUUID"),
        by=entry.text("reqAuthzID"),
        claim=next((claim for claim in claims if claim), None),
        mods=tuple(map(_mod, entry.values.get("reqMod", ()))),
        old=_grouped(entry.values.get("reqOld", ())),
        new_dn=entry.text("reqNewDN"),
        new_rdn=entry.text("reqNewRDN"),
        keeps_old_rdn=entry.text("reqDeleteOldRDN") == "FALSE",
        in_transaction=any(f"{{{INSIDE} " in text for text in entry.texts("reqControls")),
    )


def log_entry(change: Change, by: str, controls: Sequence[Control], number: int) -> Entry:
    """Return what the log says of a change that was made while the server did not run.

    Args:
        number: counts the changes of one moment, from 0; so no two stand at one time, nor at one of the server's own.
    """
    kind = {ADD: "auditAdd", DELETE: "auditDelete", MODIFY: "auditModify"}[change.kind]
    start = f"{change.at:%Y%m%d%H%M%S.%f}{number + 1:06d}Z"
    stamp = f"{change.at:%Y%m%d%H%M%SZ}"
    sent = [f'{oid} controlValue "{(value or b"").hex().upper()}"' for oid, _, value in controls]
    values: dict[str, list[str]] = {
        "objectClass": [kind],
        "structuralObjectClass": [kind],
        "reqStart": [start],
        "reqEnd": [start],
        "reqType": [change.kind],
        "reqSession": ["0"],
        "reqAuthzID": [by],
        "reqControls": [f"{{{count}}}{{{control}}}" for count, control in enumerate(sent)],
        "reqDN": [change.dn],
        "reqResult": ["0"],
        "reqEntryUUID": [change.uuid],
        "entryUUID": [str(uuid4())],
        "entryCSN": [change.csn],
        "creatorsName": [by],
        "createTimestamp": [stamp],
        "modifiersName": [by],
        "modifyTimestamp": [stamp],
    }
    kept = {name: [text.encode() for text in texts] for name, texts in values.items()}
    kept["reqMod"] = [f"{name}:{how}".encode() + (b" " + value if value else b"") for name, how, value in change.mods]
    kept["reqOld"] = [f"{name}: ".encode() + value for name, olds in change.old.items() for value in olds]
    return Entry(f"reqStart={start},{CHANGELOG}", {name: told for name, told in kept.items() if told})


def highest_serials(made: Iterable[Change], layout: Layout) -> dict[str, int]:
    """Return the highest serial each channel ever had, as far as these changes tell."""
    found: dict[str, int] = {}
    for change in made:
        if name := layout.channel_at(change.dn):
            told = [value for attribute, _, value in change.mods if attribute == "skSerial"]
            for value in (*told, *change.old.get("skSerial", ())):
                found[name] = max(found.get(name, 0), int(value) if value.isdigit() else 0)
    return found


def _mod(line: bytes) -> tuple[str, str, bytes]:
    attribute, _, rest = line.partition(b":")
    return attribute.decode("ascii", "replace"), rest[:1].decode("ascii", "replace"), rest[2:]


def _grouped(lines: Sequence[bytes]) -> dict[str, tuple[bytes, ...]]:
    values: dict[str, tuple[bytes, ...]] = {}
    for line in lines:
        attribute, _, value = line.partition(b": ")
        name = attribute.decode("ascii", "replace")
        values[name] = (*values.get(name, ()), value)
    return values
