"""``statelesskit channel``."""

from __future__ import annotations

from typing import Any

import click

from statelesskit.actions.create_channel import CreateChannel
from statelesskit.actions.remove_channel import RemoveChannel
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def channel() -> None:
    """Named pointers to the snapshot that clients run."""


channel.add_command(action_command(CreateChannel, text="Make CHANNEL (PROTOTYPE/NAME), pointing at SNAPSHOT."))
channel.add_command(action_command(RemoveChannel, text="Remove CHANNEL, which nobody follows; its history stays."))


@channel.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the channels: where each points, who moved it there, when, by which record."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory

    with open_directory(site_of(ctx), or_replica=True) as directory:
        found = sorted(directory.channels(), key=lambda one: one.name)
    rows = [
        {
            "channel": one.name,
            "snapshot": one.snapshot,
            "serial": one.serial,
            "previous": one.previous,
            "moved_by": one.moved_by,
            "moved_at": one.moved_at.isoformat(timespec="seconds") if one.moved_at else None,
            "record": one.record,
        }
        for one in found
    ]
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="there are no channels; statelesskit channel create makes one")


@channel.command()
@click.argument("name")
@JSON
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one channel: where it points, who follows it, and how far back it can go."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.directory.pushes import pushes
    from statelesskit.fleet import told_by
    from statelesskit.push_history import earlier

    with open_directory(site_of(ctx), or_replica=True) as directory:
        one = directory.channel(name)
        groups = directory.groups()
        back = earlier(one, pushes(directory, name))
        known = {snapshot.name: snapshot.state for snapshot in directory.snapshots(one.prototype)}
        clients = told_by(name, directory.clients(), groups)
    found: dict[str, Any] = {
        "channel": one.name,
        "snapshot": one.snapshot,
        "state": known.get(one.snapshot or ""),
        "previous": one.previous,
        "serial": one.serial,
        "moved_by": one.moved_by,
        "moved_at": one.moved_at.isoformat(timespec="seconds") if one.moved_at else None,
        "record": one.record,
        "clients": len(clients),
        "groups": [group.name for group in groups if group.channel == name],
        "earlier": [snapshot for snapshot in back if known.get(snapshot, "revoked") != "revoked"],
    }
    if as_json:
        output.json_line(found)
        return
    output.facts({**found, "groups": ", ".join(found["groups"]), "earlier": ", ".join(found["earlier"])})
