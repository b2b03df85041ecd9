"""Changes of the directory that no record made: somebody used another tool, or borrowed a record's name.

The change log tells of each change which record it names and a mark that only that record's key can make
(:mod:`statelesskit.directory.authorship`); the records tell the keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hmac import compare_digest

from statelesskit.audit import events
from statelesskit.audit.listing import record_folders
from statelesskit.audit.records import EVENTS
from statelesskit.config import Site
from statelesskit.directory import Directory
from statelesskit.directory.authorship import ACKNOWLEDGE, KEY_BYTES, mark_of
from statelesskit.directory.changelog import ADD, DELETE, MODIFY, RENAME, WHO, Change, changes, reaches_back_to, time_of
from statelesskit.directory.consistency import Finding
from statelesskit.directory.differences import named_at
from statelesskit.directory.reported import DOOR
from statelesskit.errors import AuditError, NotFoundError
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress

_RECORD = re.compile("[0-9]{8}T[0-9]{6}Z-[a-z0-9-]+", re.ASCII)
JUST_BEFORE = timedelta(microseconds=1)
DONE = {ADD: "added", DELETE: "removed", MODIFY: "changed", RENAME: "renamed"}


@dataclass(slots=True)
class _Made:
    """What a record says it can have made: between these times, with these keys."""

    keys: list[bytes] = field(default_factory=list)
    begun_at: datetime | None = None
    ended_at: datetime | None = None
    marks: set[str] = field(default_factory=set)


def unrecorded_changes(site: Site, directory: Directory, progress: Progress = SILENT) -> Iterator[Finding]:
    """Yield each change that no record made and nobody has acknowledged, as far as the change log reaches back."""
    known = acknowledged(site)
    yield from (found for csn, found in unrecorded_ever(site, directory, progress) if csn not in known)


def acknowledged(site: Site) -> frozenset[str]:
    """Return the change sequence numbers of the changes that somebody has looked at and put their name to."""
    found: set[str] = set()
    for path in record_folders(site.records):
        if f"-{ACKNOWLEDGE.replace(' ', '-')}-" in path.name:
            with suppress(AuditError):
                for event in events.read(path / EVENTS)[0]:
                    result = event.facts.get("result")
                    told = result.get("acknowledged") if event.kind == "applied" and isinstance(result, dict) else []
                    found.update(csn for csn in told or () if isinstance(csn, str))
    return frozenset(found)


def unrecorded_ever(site: Site, directory: Directory, progress: Progress = SILENT) -> Iterator[tuple[str, Finding]]:
    """Yield each change that no record made, with its change sequence number; "" for a finding that is no change."""
    try:
        reach = reaches_back_to(directory.ldap)
    except NotFoundError as error:
        yield "", Finding("directory", f"{error.message}, so changes past this tool are not found", error.hint)
        return
    # The entries first: what is changed meanwhile is then in the log all the same.
    progress.stage("reading the directory", unit="entries")
    entries = directory.ldap.search(directory.layout.base, "objectClass=*", attributes=("entryCSN", "modifiersName"))
    progress.stage("holding the change log against the records", unit="changes")
    made = changes(directory.ldap, attributes=WHO)
    progress.advance(len(made))
    records: dict[str, _Made | None] = {}
    for change in made:
        if _reported(directory, change.dn, change.by):
            continue
        if fault := _fault(site, change, records):
            done = DONE.get(change.kind, "changed")
            yield change.csn, _finding(directory, change.dn, done, change.csn, change.by, fault)
    logged = {change.csn for change in made}
    for entry in entries:
        csn = entry.text("entryCSN")
        by = entry.text("modifiersName")
        if csn and csn not in logged and time_of(csn) >= reach and not _reported(directory, entry.dn, by):
            yield csn, _finding(directory, entry.dn, "changed", csn, by, "the change log does not tell it")


def _reported(directory: Directory, dn: str, by: str) -> bool:
    """Say whether the report door wrote what a client said: of that there is no record but the entry itself.

    The server lets the door's account write nothing else; who gave it its role is in a record.
    """
    return directory.layout.status_at(dn) is not None and directory.layout.account_at(by) == DOOR


def _finding(directory: Directory, dn: str, done: str, csn: str, by: str, fault: str) -> Finding:
    at = time_of(csn)
    return Finding(
        printable(named_at(dn, directory.layout)),
        f"was {done} at {at:%Y-%m-%dT%H:%M:%SZ} by {printable(by)}: {fault}",
        f"statelesskit directory diff {at - JUST_BEFORE:%Y-%m-%dT%H:%M:%S.%fZ} {at:%Y-%m-%dT%H:%M:%S.%fZ}",
    )


def _fault(site: Site, change: Change, records: dict[str, _Made | None]) -> str:
    """Say why no record made a change, or ""; remembers the mark of one that did."""
    claim = change.claim
    if claim is None:
        return "no record made it; somebody used another tool"
    name = printable(claim.record)
    if claim.record not in records:
        records[claim.record] = _made_by(site, claim.record)
    made = records[claim.record]
    if made is None:
        return f"it names the record {name}, which is not there"
    mark = claim.mark.encode()
    if not any(compare_digest(mark, mark_of(key, claim.record, claim.number).encode()) for key in made.keys):
        return f"it names the record {name}, which did not make it"
    if claim.mark in made.marks:
        return f"it repeats the mark of another change of record {name}, which did not make it"
    made.marks.add(claim.mark)
    if (made.begun_at and change.at < made.begun_at) or (made.ended_at and change.at > made.ended_at):
        return f"it names the record {name}, which did not run then"
    return ""


def _made_by(site: Site, record: str) -> _Made | None:
    if not _RECORD.fullmatch(record):
        return None
    try:
        log, _ = events.read(site.records / record / EVENTS)
    except AuditError:
        return None
    made = _Made()
    for event in log:
        if event.kind == events.BEGIN:
            made.begun_at = event.at
        elif event.kind == events.END:
            made.ended_at = event.at
        elif event.kind == "applying":
            made.keys += _key(event.facts.get("directory_key"))
    return made


def _key(told: object) -> Iterator[bytes]:
    with suppress(ValueError):
        if isinstance(told, str) and len(told) == 2 * KEY_BYTES:
            yield bytes.fromhex(told)
