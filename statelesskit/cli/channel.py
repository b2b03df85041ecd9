"""``statelesskit channel``."""

from __future__ import annotations

import click

from statelesskit.actions.create_channel import CreateChannel
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def channel() -> None:
    """Named pointers to the snapshot that clients run."""


channel.add_command(action_command(CreateChannel, text="Make CHANNEL (PROTOTYPE/NAME), pointing at SNAPSHOT."))


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
