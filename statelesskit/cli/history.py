"""``statelesskit directory at`` and ``diff``: the fleet as it was, and what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from statelesskit.cli.acting import JSON, site_of

if TYPE_CHECKING:
    from datetime import datetime

    from statelesskit.config import Site
    from statelesskit.directory.changelog import Change
    from statelesskit.directory.past import State
    from statelesskit.progress import Progress


@click.command()
@click.argument("time")
@click.option("--client", "name", default="", metavar="NAME", help="Only this client, with the whole chain of why.")
@click.option("--backup", default="", metavar="FILE", help="Look into this backup, as far as its change log reaches.")
@JSON
@click.pass_context
def at(ctx: click.Context, time: str, name: str, backup: str, as_json: bool) -> None:
    """Say what each client was told to run at TIME (UTC, 2026-11-23T07:30:00; a date is its end).

    The past is rebuilt from what is there now and the change log, and resolved by the rules of today.
    """
    from statelesskit.cli import output
    from statelesskit.directory.fleet_state import fleet_of
    from statelesskit.directory.layout import Layout
    from statelesskit.directory.past import moment
    from statelesskit.errors import NotFoundError
    from statelesskit.fleet import fleet_rows
    from statelesskit.names import printable

    site = site_of(ctx)
    with output.progress() as progress:
        state = _state(site, moment(time), backup, progress)
    fleet = fleet_of((one.as_entry() for one in state.entries.values()), Layout(site.base_dn))
    for gap in state.gaps:
        output.note(gap)
    if not name:
        rows = fleet_rows((client, fleet.assignment(client)) for client in fleet.clients.values())
        if as_json:
            for row in rows:
                output.json_line(row)
        else:
            output.table(rows, empty=f"there were no clients at {state.at:%Y-%m-%dT%H:%M:%SZ}")
        return
    if name not in fleet.clients:
        raise NotFoundError(f"there was no client {printable(name)} at {state.at:%Y-%m-%dT%H:%M:%SZ}")
    told = fleet.assignment(fleet.clients[name])
    if as_json:
        found = {"at": state.at.isoformat(), "snapshot": told.snapshot, "digest": told.digest}
        output.json_line({**found, "because": list(told.because), "gaps": state.gaps})
        return
    click.echo(f"{name} at {state.at:%Y-%m-%dT%H:%M:%SZ}: {told.snapshot or 'nothing'}")
    for reason in told.because:
        click.echo(f"- {output.printable_lines(reason)}")


@click.command()
@click.argument("before")
@click.argument("after")
@JSON
@click.pass_context
def diff(ctx: click.Context, before: str, after: str, as_json: bool) -> None:
    """Say what changed between two states: each a time, a backup's file, or `now`."""
    from statelesskit.cli import output
    from statelesskit.directory.differences import compare
    from statelesskit.directory.layout import Layout

    site = site_of(ctx)
    with output.progress() as progress:
        old, new = (_state_named(site, word, progress) for word in (before, after))
        made = _made_between(site, old, new)
    for gap in dict.fromkeys(old.gaps + new.gaps):
        output.note(gap)
    differences = compare(old, new, Layout(site.base_dn), made)
    if as_json:
        for one in differences:
            who = {"by": one.by or None, "record": one.record or None}
            output.json_line({"object": one.kind, "name": one.name, "change": one.change, "fields": one.fields, **who})
        return
    output.table(
        (
            {
                "object": f"{one.kind} {one.name}",
                "change": one.change,
                "field": field,
                "before": was,
                "after": now,
                "by": one.by,
                "record": one.record,
            }
            for one in differences
            for field, (was, now) in (one.fields or {"": ("", "")}).items()
        ),
        empty="nothing changed",
    )


def _state_named(site: Site, word: str, progress: Progress) -> State:
    from datetime import UTC, datetime
    from pathlib import Path

    from statelesskit.directory.backup import read_backup
    from statelesskit.directory.past import moment

    if Path(word).is_file():
        return read_backup(Path(word)).state
    return _state(site, datetime.now(UTC) if word == "now" else moment(word), "", progress)


def _state(site: Site, at: datetime, backup: str, progress: Progress) -> State:
    from pathlib import Path

    from statelesskit.directory import open_directory
    from statelesskit.directory.backup import read_backup
    from statelesskit.directory.past import state_at

    if backup:
        return read_backup(Path(backup)).state_at(at)
    with open_directory(site) as directory:
        return state_at(directory, at, progress)


def _made_between(site: Site, old: State, new: State) -> list[Change]:
    """Return the changes between two states, if the directory runs and its log tells them."""
    from statelesskit.directory import open_directory
    from statelesskit.directory.changelog import changes, reaches_back_to
    from statelesskit.errors import DirectoryUnavailableError, NotFoundError

    try:
        with open_directory(site) as directory:
            reaches_back_to(directory.ldap)
            return [change for change in changes(directory.ldap, old.at) if change.at <= new.at]
    except (NotFoundError, DirectoryUnavailableError):
        return []
