"""``statelesskit client import``, ``export``, ``undo`` and ``discover``: clients by the table."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from statelesskit.actions.import_clients import ImportClients, UndoImport
from statelesskit.cli.acting import JSON, action_command, site_of

import_ = action_command(
    ImportClients,
    text="""Enter the clients of TABLE, a CSV file or - for what is piped in.

    Its first line names the columns: name, mode, mac, channel, pin, groups, note; name alone must be there. Several
    MAC addresses or groups in one cell are separated by spaces. A column that is left out changes nothing.

    Every row is checked before anything is entered, and all that is wrong is told at once. Broken off, the same
    command goes on, and client undo takes back what was made.
    """,
)
undo = action_command(
    UndoImport, text="Take back the import that RECORD tells of; what somebody changed since is left alone."
)


@click.command()
@click.argument("table")
@JSON
@click.pass_context
def export(ctx: click.Context, table: str, as_json: bool) -> None:
    """Write all clients to TABLE, or to standard output for -, as client import reads them."""
    import json

    from statelesskit.cli import output
    from statelesskit.clients.table import as_row, write_table
    from statelesskit.directory import open_directory
    from statelesskit.fleet import clients_with_groups
    from statelesskit.fs import new_file, write_all

    with open_directory(site_of(ctx)) as directory, output.progress():
        found = clients_with_groups(directory)
        lines = (json.dumps(as_row(*one), sort_keys=True) + "\n" for one in found) if as_json else write_table(found)
        data = "".join(lines).encode("utf-8", "replace")
    if table == "-":
        sys.stdout.buffer.write(data)
        return
    with new_file(Path(table)) as fd:
        write_all(fd, data)


@click.command()
@JSON
@click.pass_context
def discover(ctx: click.Context, as_json: bool) -> None:
    """List the machines that asked to boot and are in no client's entry, with the line that adds each."""
    from statelesskit.cli import output
    from statelesskit.clients.discovered import unknown
    from statelesskit.directory import open_directory

    site = site_of(ctx)
    with open_directory(site) as directory:
        rows = [one.as_row() for one in unknown(site, directory)]
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="no unknown machine has asked to boot")
