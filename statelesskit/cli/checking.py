"""``statelesskit directory check``."""

from __future__ import annotations

import click

from statelesskit.cli.acting import JSON, site_of


@click.command()
@JSON
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> int:
    """Say whether the directory is sound, in itself and against the site; ends with 1 when it is not.

    Pointers to what is not there, snapshots nobody may run, clients with nothing to run and why, addresses
    and groups that are not clear, serials without history or record.
    """
    from dataclasses import asdict

    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.directory_check import check_directory

    site, found = site_of(ctx), []
    with output.progress() as progress, open_directory(site) as directory:
        progress.stage("checking the directory", unit="findings")
        for one in check_directory(site, directory):
            found.append(asdict(one))
            progress.advance()
    if as_json:
        for row in found:
            output.json_line(row)
    else:
        output.table(found, empty="the directory is sound")
    return int(bool(found))
