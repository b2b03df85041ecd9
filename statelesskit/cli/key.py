"""``statelesskit key``."""

from __future__ import annotations

import click

from statelesskit.actions.rotate_key import RotateKey
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def key() -> None:
    """The keys that seal the records, and how each followed the one before."""


@key.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the keys, the first one first, and which records each sealed."""
    from statelesskit.actions.surveys import record_keys
    from statelesskit.cli import output

    rows = record_keys(site_of(ctx))[1]
    if as_json:
        for row in rows:
            output.json_line(row)
        return
    output.table(rows)


key.add_command(action_command(RotateKey))
