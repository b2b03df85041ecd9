"""Restore the directory from a backup: what would change, for whom, and with which serials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from statelesskit.audit import events
from statelesskit.audit.listing import record_folders
from statelesskit.audit.records import EVENTS
from statelesskit.config import Site
from statelesskit.directory import Directory, open_directory, slapd
from statelesskit.directory.backup import Backup, make_backup, read_backup
from statelesskit.directory.changelog import changes, highest_serials, reaches_back_to
from statelesskit.directory.conf import admin_dn
from statelesskit.directory.differences import Difference, compare
from statelesskit.directory.fleet_state import FleetState, fleet_of
from statelesskit.directory.mapping import text_values, time_values
from statelesskit.directory.past import read_state
from statelesskit.directory.restoring import (
    build_restored,
    changes_to,
    fingerprint,
    place,
    stored_state,
    wanted_state,
)
from statelesskit.directory.schema import VERSION
from statelesskit.errors import AuditError, ConflictError, FormatError, NotFoundError, RefusedError
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.snapshot import list_snapshots


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore would do.

    Attributes:
        now, wanted: fingerprints of the state it starts from, and of the one it leads to.
        moves: clients that would be told something else: name, from what, to what.
        dangling: pointers to snapshots that the site does not have.
    """

    backup: Backup
    now: str
    wanted: str
    serials: dict[str, int]
    differences: list[Difference]
    moves: list[tuple[str, str | None, str | None]]
    dangling: list[str]


def plan_restore(site: Site, directory: Directory, path: Path) -> RestorePlan:
    """Say what a restore would change. Changes nothing.

    Raises:
        DamagedError, FormatError, NotFoundError: the backup cannot be used.
        RefusedError: it is of another part of the LDAP tree.
    """
    if not site.server.is_private:
        raise RefusedError(
            f"the directory is at {site.server.uri}, a server of its own; only a private one is restored from here",
            hint="load the backup's entries with that server's own tools; it is LDIF",
        )
    backup = read_backup(path)
    layout = directory.layout
    if place(backup.base_dn) != place(layout.base):
        raise RefusedError(
            f"the backup is of {printable(backup.base_dn)}, this site stands on {layout.base}",
            hint="restore it in a site whose site.toml has that base_dn",
        )
    version = max(one.as_entry().number("skSchemaVersion") for one in backup.state.entries.values())
    if version > VERSION:
        raise FormatError(
            f"the backup has schema version {version}, this statelesskit knows {VERSION}",
            hint="use the statelesskit that made it, or a newer one",
        )
    now = read_state(directory)
    serials = _serials_given(site, directory, backup)
    wanted = wanted_state(backup.state, now, serials, layout, {})
    before, after = (fleet_of((one.as_entry() for one in state.entries.values()), layout) for state in (now, wanted))
    there = {snapshot.name for snapshot in list_snapshots(site)}
    return RestorePlan(
        backup=backup,
        now=fingerprint(now, exact=True),
        wanted=fingerprint(wanted, exact=False),
        serials=serials,
        differences=compare(now, wanted, layout),
        moves=list(_moves(before, after)),
        dangling=sorted(
            f"channel {printable(one.name)} would point at {printable(one.snapshot)}, which this site does not have"
            for one in after.channels.values()
            if one.snapshot and one.snapshot not in there
        ),
    )


def _serials_given(site: Site, directory: Directory, backup: Backup) -> dict[str, int]:
    """Return the highest serial each channel was given, by the change logs and by the records of pushes."""
    made = list(backup.changes)
    with suppress(NotFoundError):
        reaches_back_to(directory.ldap)
        made += changes(directory.ldap)
    found = highest_serials(made, directory.layout)
    for path in record_folders(site.records):
        with suppress(AuditError):
            for event in events.read(path / EVENTS)[0]:
                result = event.facts.get("result")
                if event.kind == "applied" and isinstance(result, dict):
                    channel, serial = result.get("channel"), result.get("serial")
                    if isinstance(channel, str) and type(serial) is int:
                        found[channel] = max(found.get(channel, 0), serial)
    return found


def _moves(before: FleetState, after: FleetState) -> Iterator[tuple[str, str | None, str | None]]:
    for name in sorted(before.clients.keys() | after.clients.keys()):
        was, will = (
            fleet.assignment(fleet.clients[name]).snapshot if name in fleet.clients else None
            for fleet in (before, after)
        )
        if was != will:
            yield name, was, will


def restore(
    site: Site, path: Path, facts: Mapping[str, Any], *, by: str, record: str, progress: Progress = SILENT
) -> Path:
    """Do what a plan's facts say, with the server stopped; return the backup made of the state before.

    Raises:
        ConflictError: the directory or the backup is not what it was; nothing was changed.
        CommandError, NoSpaceError: the new state cannot be built; nothing was changed.
    """
    before = site.directory / f"before-{record}.ldif"
    with open_directory(site) as directory:
        make_backup(site, directory, before, progress)
        layout = directory.layout
    backup = read_backup(path)
    if backup.digest != facts["backup"]:
        raise ConflictError(f"{path} is not the backup that was planned with", hint="plan again")
    progress.stage("building the restored directory")
    with slapd.stopped(site, f"site restore ({record})"):
        now = stored_state(site)
        if fingerprint(now, exact=True) != facts["now"]:
            raise ConflictError(
                "the directory changed since the plan was made; nothing was restored", hint="plan again"
            )
        at = datetime.now(UTC)
        told = {
            "skMovedBy": text_values(by, "the name of who restores it"),
            "skMovedAt": time_values(at),
            "skRecord": [record],
        }
        moved = {name: tuple(text.encode() for text in texts) for name, texts in told.items()}
        wanted = wanted_state(backup.state, now, facts["serials"], layout, moved)
        admin = admin_dn(site)
        build_restored(site, wanted, changes_to(now, wanted, at, admin), admin)
    return before
