"""``statelesskit client``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from statelesskit.actions.add_client import AddClient
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def client() -> None:
    """Machines, and what each is told to run."""


def _show_added(result: Mapping[str, Any]) -> None:
    click.echo(f"record  {result['record']}")


client.add_command(
    action_command(AddClient, show=_show_added, text="Enter a machine, and say which channel it follows.")
)


@client.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the clients with what each is told to run."""
    from statelesskit.cli import output
    from statelesskit.directory import assignments, open_directory
    from statelesskit.fleet import fleet_rows

    with open_directory(site_of(ctx), or_replica=True) as directory:
        rows = fleet_rows(assignments(directory))
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="there are no clients; statelesskit client add enters one")


@client.command()
@click.argument("name")
@JSON
@click.pass_context
def explain(ctx: click.Context, name: str, as_json: bool) -> None:
    """Say what a client is told to run, and the whole chain of why."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.fleet import explain_client

    with open_directory(site_of(ctx), or_replica=True) as directory:
        told = explain_client(directory, name)
    if as_json:
        output.json_line({"snapshot": told.snapshot, "digest": told.digest, "because": list(told.because)})
        return
    click.echo(f"{name}: {told.snapshot or 'nothing'}")
    for reason in told.because:
        click.echo(f"- {output.printable_lines(reason)}")
