"""``statelesskit directory replica``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from statelesskit.actions.make_replica import MakeReplica
from statelesskit.cli.acting import JSON, action_command, site_of

FOLDER = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.group()
def replica() -> None:
    """Second servers that follow the site's own, and answer questions while it is away."""


def _show_replica(made: Mapping[str, Any]) -> None:
    click.echo(f"replica of {made['provider']} in {made['folder']}; it will answer at {made['uri']}")
    click.echo(f"next: statelesskit directory replica start {made['folder']}; the rest is in its README")


replica.add_command(action_command(MakeReplica, show=_show_replica))


@replica.command("start")
@FOLDER
def start_replica(folder: Path) -> None:
    """Start the replica in FOLDER."""
    from statelesskit.directory import slapd
    from statelesskit.directory.replica import load_replica

    click.echo(f"the replica answers at {slapd.start(load_replica(folder)).ldaps_uri}")


@replica.command("stop")
@FOLDER
def stop_replica(folder: Path) -> None:
    """Stop the replica in FOLDER."""
    from statelesskit.directory import slapd
    from statelesskit.directory.replica import load_replica

    slapd.stop(load_replica(folder))
    click.echo("the replica is stopped")


@replica.command("status")
@JSON
@click.pass_context
def replica_status(ctx: click.Context, as_json: bool) -> int:
    """Say how far the replicas that site.toml names are behind; ends with 1 if one does not answer."""
    from statelesskit.cli import output
    from statelesskit.directory.replica import lags

    found = lags(site_of(ctx))
    if as_json:
        for lag in found:
            output.json_line(lag.row())
    else:
        output.table((lag.row() for lag in found), empty="site.toml names no replicas: [directory] replicas")
    return int(any(lag.note for lag in found))
