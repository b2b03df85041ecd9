"""``statelesskit runs``."""

from __future__ import annotations

from dataclasses import asdict

import click

from statelesskit.cli.acting import JSON, site_of


@click.group()
def runs() -> None:
    """Runs that are under way: list, follow and cancel them."""


@runs.command("list")
@click.option("--all", "every", is_flag=True, help="Also those that have ended.")
@JSON
@click.pass_context
def list_(ctx: click.Context, every: bool, as_json: bool) -> None:
    """List the runs that are under way, or were and vanished, the oldest first."""
    from statelesskit.audit.listing import list_records
    from statelesskit.cli import output

    found = [one for one in list_records(site_of(ctx).records) if every or one.state in ("running", "lost")]
    rows = [{**asdict(one), "began_at": one.began_at, "ended_at": one.ended_at} for one in found]
    if as_json:
        for row in rows:
            output.json_line({name: str(value) if name.endswith("_at") else value for name, value in row.items()})
        return
    shown = ("run_id", "what", "user", "state", "began_at")
    output.table(({name: row[name] for name in shown} for row in rows), empty="no run is under way")


@runs.command()
@click.argument("run")
@click.pass_context
def follow(ctx: click.Context, run: str) -> int:
    """Show what RUN (its id, or its record's name) does and prints, as it comes; end with its exit code."""
    from statelesskit.audit.listing import find_record, summary_of
    from statelesskit.errors import StatelessError
    from statelesskit.names import printable
    from statelesskit.runbook.follow import follow as followed

    path = find_record(site_of(ctx).records, run)
    for line in followed(path):
        click.echo(printable(line))
    summary = summary_of(path)
    click.echo(f"{summary.name}: {summary.state}")
    return summary.exit_code if summary.exit_code is not None else StatelessError.exit_code


@runs.command()
@click.argument("run")
@click.pass_context
def cancel(ctx: click.Context, run: str) -> None:
    """Ask RUN to stop: its cell can clean up, then all it started is ended and its record says cancelled."""
    from statelesskit.audit.listing import find_record
    from statelesskit.cli import output
    from statelesskit.runbook.follow import cancel as stop

    path = find_record(site_of(ctx).records, run)
    stop(path)
    output.note(f"{path.name} was asked to stop; statelesskit runs follow {path.name[-8:]} shows how it ends")
