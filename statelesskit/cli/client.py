"""``statelesskit client``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from statelesskit.actions.add_client import AddClient
from statelesskit.actions.enrol_client import EnrolClient
from statelesskit.actions.manage_clients import ChangeClient, PinClient, RemoveClient, UnpinClient
from statelesskit.cli import client_table
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def client() -> None:
    """Machines, and what each is told to run."""


def _show_added(result: Mapping[str, Any]) -> None:
    click.echo(f"record  {result['record']}")


client.add_command(
    action_command(AddClient, show=_show_added, text="Enter a machine, and say which channel it follows.")
)
client.add_command(action_command(ChangeClient, text="Change what is said of NAME; what is left out stays."))
client.add_command(action_command(PinClient, text="Hold NAME at SNAPSHOT, whatever its channel and groups say."))
client.add_command(action_command(UnpinClient, text="Let NAME go by its channel and its groups again."))
client.add_command(action_command(RemoveClient, text="Take NAME out of the directory, with its report and its groups."))


def _show_token(result: Mapping[str, Any]) -> None:
    from statelesskit.cli import output

    output.note("The token is shown this once; on the client: statelesskit-report enrol, then type it.")
    output.facts(result)


client.add_command(
    action_command(
        EnrolClient,
        show=_show_token,
        text="""Let NAME enrol: make a token with which it registers its key at the report door.

        The token works once and for 24 hours. From then on only reports that the key signed are taken for NAME's.""",
    )
)

client.add_command(client_table.import_)
client.add_command(client_table.undo)
client.add_command(client_table.export)
client.add_command(client_table.discover)


@client.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def package(target: Path) -> None:
    """Write the Debian package for prototypes to TARGET: what makes their clients report what they run."""
    from statelesskit import fs
    from statelesskit.client_package import debian_package

    fs.write_file(target, debian_package())


@client.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the clients with what each is told to run, and what it says it runs."""
    from statelesskit.cli import output
    from statelesskit.directory import assignments, open_directory
    from statelesskit.fleet import fleet_rows, reports_by_client

    with open_directory(site_of(ctx), or_replica=True) as directory, output.progress():
        rows = fleet_rows(assignments(directory), reports_by_client(directory))
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="there are no clients; statelesskit client add enters one")


@client.command()
@click.argument("name")
@JSON
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show what the directory says of one client, and what the client says of itself."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.directory.groups import groups_of
    from statelesskit.fleet import drift, said

    with open_directory(site_of(ctx), or_replica=True) as directory:
        one, report = directory.client(name), directory.report_of(name)
        groups = [group.name for group in groups_of(directory, name)]
    found = {
        "client": one.name,
        "mode": one.mode,
        "mac": " ".join(one.macs),
        "channel": one.channel,
        "pin": one.pin,
        "groups": groups,
        "reference": one.reference,
        "drift": drift(one, report),
        "note": one.note,
        "running": report.running if report else None,
        "cached": list(report.cached) if report else [],
        **said(report),
    }
    if as_json:
        output.json_line(found)
    else:
        output.facts({name: ", ".join(value) if isinstance(value, list) else value for name, value in found.items()})


@client.command()
@click.argument("name")
@JSON
@click.pass_context
def explain(ctx: click.Context, name: str, as_json: bool) -> None:
    """Say what a client is told to run, the whole chain of why, and what would have to change for another answer."""
    from dataclasses import asdict

    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.fleet import explain_client

    with open_directory(site_of(ctx), or_replica=True) as directory:
        told = explain_client(directory, name)
    if as_json:
        output.json_line(asdict(told))
        return
    click.echo(f"{name}: {output.printable_lines(told.snapshot or 'nothing')}")
    for reason in told.because:  # made of harmless text, and longer than printable() lets a line be
        click.echo(f"- {reason}")
    click.echo("otherwise:")
    for way in told.otherwise:
        click.echo(f"- {way}")
