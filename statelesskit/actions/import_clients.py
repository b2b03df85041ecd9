"""Enter many clients from a table, and take that back."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import surveys
from statelesskit.actions.consequences import CLIENTS, FOLLOWERS
from statelesskit.config import Site
from statelesskit.errors import DamagedError, NotFoundError, UsageError
from statelesskit.progress import current

if TYPE_CHECKING:
    from statelesskit.clients.changes import Change, Changes

PLAN = "plan.json"
SHOWN = 200  # rows of a plan; its facts hold them all
SAID = 1000  # bad rows in an error; a plan with --skip-bad tells the rest


@dataclass(frozen=True)
class _Bulk(Action):
    """What entering many clients and taking that back share."""

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.fleet(site)

    def objects(self) -> Sequence[str]:
        return [CLIENTS]

    def uses(self) -> Sequence[str]:
        return [FOLLOWERS]

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.clients.changes import Changes, make
        from statelesskit.directory import open_directory

        changes = Changes.from_json(plan.facts)
        work.progress.stage("changing the directory", total=len(changes.clients), unit="clients")
        with open_directory(site) as directory:
            make(directory, changes, work.progress.advance)
        return dict(plan.facts["counts"])

    def unchanged(self, plan: Plan) -> dict[str, Any]:
        return dict(plan.facts["counts"])

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.clients.changes import Changes, not_made
        from statelesskit.directory import open_directory

        changes = Changes.from_json(plan.facts)
        with open_directory(site) as directory:
            wrong = not_made(directory, changes)
        return [
            check("not as planned", 0, len(wrong)),
            *(check(name, "as planned", "otherwise") for name in wrong[:20]),
        ]


@dataclass(frozen=True)
class ImportClients(_Bulk):
    """Enter the clients of a CSV table: name, mode, mac, channel, pin, groups, note."""

    verb: ClassVar[str] = "client import"
    title: ClassVar[str] = "Import clients"
    button: ClassVar[str] = "Import them"

    table: str = parameter("the CSV file, or - for what is piped in", positional=True)
    update: bool = parameter("change clients that are there and other than the table says", default=False)
    skip_bad: bool = parameter("leave out rows that are not right; without it one stops them all", default=False)

    def plan(self, site: Site) -> Plan:
        from statelesskit.clients.judging import judge, look
        from statelesskit.clients.table import read_table
        from statelesskit.directory import open_directory

        data = _content(self.table)
        rows, faults = read_table(data)
        with open_directory(site) as directory:
            known = look(directory)
            current().stage("checking the rows", total=len(rows), unit="rows")
            found = judge(rows, faults, known, directory, update=self.update)
            current().advance(len(rows))
        if found.faults and not self.skip_bad:
            said = "\n".join(str(fault) for fault in found.faults[:SAID])
            more = f"\nand {len(found.faults) - SAID} more" if len(found.faults) > SAID else ""
            raise UsageError(
                f"{found.bad} of {found.rows} rows are not right, so nothing is entered:\n{said}{more}",
                hint="mend them, or leave them out with --skip-bad",
            )
        changes = found.changes
        counts = _counts(changes) | {"unchanged": found.unchanged, "skipped": found.bad}
        skipped = [str(fault) for fault in found.faults]
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary="Import clients: " + _told(counts) + ".",
            rows=[_row(one) for one in changes.clients[:SHOWN]],
            facts={
                "table": "sha256:" + hashlib.sha256(data).hexdigest(),
                "counts": counts,
                "skipped": skipped,
                **changes.as_json(),
            },
            notes=[*_more(changes), *(f"left out: {one}" for one in skipped)],
            changes=bool(changes),
            guard=_guard(site, changes),
        )


@dataclass(frozen=True)
class UndoImport(_Bulk):
    """Take an import of clients back, whole or broken off; what somebody changed since stays as it is."""

    verb: ClassVar[str] = "client undo"
    title: ClassVar[str] = "Take an import of clients back"
    button: ClassVar[str] = "Take it back"

    record: str = parameter("the import's record, or its last eight letters", positional=True)

    def plan(self, site: Site) -> Plan:
        from statelesskit.clients.changes import Changes, to_undo
        from statelesskit.directory import open_directory

        name, planned = _planned(site, self.record)
        with open_directory(site) as directory:
            changes, alone = to_undo(directory, Changes.from_json(planned))
        counts = _counts(changes) | {"left alone": len(alone)}
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Take back {name}: {_told(counts)}.",
            rows=[_row(one) for one in changes.clients[:SHOWN]],
            facts={"record": name, "counts": counts, "alone": alone, **changes.as_json()},
            notes=[*_more(changes), *(f"left alone, as it was changed since: {one}" for one in alone)],
            changes=bool(changes),
            guard=_guard(site, changes),
        )


def _content(table: str) -> bytes:
    if table == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(table).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no table {table}", hint="give a CSV file, or - for what is piped in") from None


def _planned(site: Site, record: str) -> tuple[str, Mapping[str, Any]]:
    """Return the record's name and the facts of its plan.

    Raises:
        NotFoundError: there is no such record.
        UsageError: it is none of clients in bulk, or it ended before it changed anything.
        DamagedError: the plan is not the one the record was given.
    """
    from statelesskit.audit import events
    from statelesskit.audit.listing import find_record
    from statelesskit.audit.records import EVENTS, FILE

    folder = find_record(site.records, record)
    log, _ = events.read(folder / EVENTS)
    digests = [event.facts.get("sha256") for event in log if event.kind == FILE and event.facts.get("name") == PLAN]
    if not any(event.kind == "applying" for event in log) or not digests:
        raise UsageError(f"{folder.name} changed nothing, so there is nothing to take back")
    data = (folder / PLAN).read_bytes()
    if hashlib.sha256(data).hexdigest() != digests[0]:
        raise DamagedError(f"the plan of {folder.name} was changed since", hint="statelesskit audit verify")
    plan = json.loads(data)
    if plan["verb"] not in (ImportClients.verb, UndoImport.verb):
        raise UsageError(f"{folder.name} is a {plan['verb']}", hint="only imports of clients are taken back like this")
    return folder.name, plan["facts"]


def _counts(changes: Changes) -> dict[str, int]:
    """Return how many clients are added, changed and removed; one that only joins or leaves a group is changed."""
    added = {one.client for one in changes.clients if one.before is None}
    removed = {one.client for one in changes.clients if one.after is None}
    moved = {name for groups in (changes.joining, changes.leaving) for names in groups.values() for name in names}
    changed = ({one.client for one in changes.clients} | moved) - added - removed
    return {"added": len(added), "updated": len(changed), "removed": len(removed)}


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to do"


def _row(change: Change) -> dict[str, Any]:
    from statelesskit.clients.changes import values_shown

    return {
        "client": change.client,
        "before": values_shown(change.before) if change.before is not None else "not there",
        "after": values_shown(change.after) if change.after is not None else "removed",
    }


def _more(changes: Changes) -> list[str]:
    more = [f"and {len(changes.clients) - SHOWN} more clients"] if len(changes.clients) > SHOWN else []
    more += [f"{len(names)} join group {group}" for group, names in changes.joining.items()]
    return more + [f"{len(names)} leave group {group}" for group, names in changes.leaving.items()]


def _guard(site: Site, changes: Changes) -> str:
    """Say why nobody may do this without a person looking, or ""."""
    if len(changes.clients) > site.auto_max_clients:
        allowed = site.auto_max_clients
        return f"{len(changes.clients)} clients would change; the site's policy allows {allowed} on its own"
    return ""
