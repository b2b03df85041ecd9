"""``statelesskit run`` and ``statelesskit runbook``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from statelesskit.cli.acting import JSON, site_of

SECONDS = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("name", metavar="[RUNBOOK]", default="")
@click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; may be given again.")
@click.option("--resume", metavar="RUN", default="", help="Continue the run of that record, with its parameters.")
@click.option("--cell-timeout", type=SECONDS, metavar="S", help="Stop the run when one cell takes longer.")
@click.option("--timeout", type=SECONDS, metavar="S", help="Stop the run when all of it takes longer.")
@click.option("--grace", type=SECONDS, metavar="S", help="How long a stopped run may take to clean up (else 10).")
@click.option("--run-id", default="", help="Eight hexadecimal digits that name the run (else made up).")
@click.option("--schedule", "calendar", metavar="CALENDAR", help='Have it begin by itself: "Mon..Fri 02:30".')
@click.option("--name", "schedule_name", metavar="NAME", default="", help="The schedule's name (else the runbook's).")
@click.option("--on-failure", metavar="CMD|mailto:WHO", default="", help="Who is told when a scheduled run fails.")
@click.option("--jitter", type=click.IntRange(min=0), default=0, metavar="S", help="Begin up to so much later.")
@click.option("--within", type=click.IntRange(min=1), default=3600, metavar="S", help="Else a run is missing (3600).")
@click.option("--units", default="", metavar="DIR", help="Where systemd's units go (else /etc/systemd/system).")
@click.option("--cron", is_flag=True, help="Print a line for /etc/cron.d instead of making units.")
@click.option("--plan", "plan_only", is_flag=True, help="Only say what scheduling it would do.")
@JSON
@click.pass_context
def run(
    ctx: click.Context,
    /,
    name: str,
    pairs: tuple[str, ...],
    resume: str,
    cell_timeout: float | None,
    timeout: float | None,
    grace: float | None,
    run_id: str,
    calendar: str | None,
    schedule_name: str,
    plan_only: bool,
    as_json: bool,
    **scheduling: Any,
) -> int:
    """Run a RUNBOOK (its name, or a notebook's path) with nobody there, and leave its record.

    Without -p confirm=DIGEST or -p confirm=auto it plans and ends with 3. SIGINT, SIGTERM and SIGHUP stop it: the
    cell that runs can clean up, and all it started is ended.

    --resume RUN runs the runbook of a run that failed, was stopped or vanished once more: what was done is found
    done, the rest is done. The only parameter that may be given then is confirm.

    --schedule CALENDAR does not run it now: a copy of the RUNBOOK is kept, which no operator can write, and systemd's
    timer or cron begins that. `audit verify` names runs that did not begin in time, and copies that were altered.
    """
    from dataclasses import asdict

    from statelesskit.cli import output
    from statelesskit.runbook.find import find_runbook
    from statelesskit.runbook.launch import Limits, run_runbook
    from statelesskit.runbook.parameters import from_text
    from statelesskit.runbook.resume import resumed

    site = site_of(ctx)
    given = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"-p {pair}: write it as NAME=VALUE")
        given[key] = value
    if resume:
        found, parameters, resume = resumed(site, resume, name, given)
    elif name:
        found = find_runbook(name)
        parameters = from_text(found.action, given)
    else:
        raise click.UsageError("say which RUNBOOK; statelesskit runbook list shows all")
    if calendar is not None:
        from statelesskit.cli.schedule import schedule_run

        words = {"runbook": name, "calendar": calendar, "name": schedule_name, "timeout": int(timeout or 0)}
        schedule_run(site, words, parameters, plan_only=plan_only, as_json=as_json, **scheduling)
        return 0
    if plan_only:
        raise click.UsageError("--plan goes with --schedule; a run without -p confirm=… only plans by itself")
    limits = Limits(cell_timeout, timeout, grace)
    ended = run_runbook(site, found, parameters, run_id=run_id, limits=limits, resumes=resume)
    if as_json:
        output.json_line(asdict(ended))
    else:
        click.echo(f"{found.name}: {ended.state}; record {site.records / ended.record}")
        if ended.error:
            output.note(ended.error)
    return ended.exit_code


@click.group()
def runbook() -> None:
    """The notebooks that come with this tool."""


@runbook.command("list")
@JSON
def list_(as_json: bool) -> None:
    """List the runbooks."""
    from statelesskit.cli import output
    from statelesskit.runbook.find import list_runbooks

    rows = [{"runbook": one.name, "title": one.title, "action": one.action.verb} for one in list_runbooks()]
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows)


@runbook.command()
@click.argument("name", metavar="RUNBOOK")
def show(name: str) -> None:
    """Show what a RUNBOOK does and the parameters it takes."""
    from statelesskit.cli import output
    from statelesskit.runbook.find import find_runbook
    from statelesskit.runbook.parameters import CONFIRM

    found = find_runbook(name)
    click.echo("".join(found.notebook["cells"][0]["source"]))
    click.echo()
    rows = [
        {"parameter": one.name, "type": one.kind.__name__, "required": one.required, "what": one.help}
        for one in found.action.parameters()
    ]
    confirm = {"parameter": CONFIRM, "type": "str", "required": False, "what": "a plan's digest, or auto"}
    output.table([*rows, confirm])


@runbook.command()
@click.argument("folder", type=click.Path(path_type=Path))
def copy(folder: Path) -> None:
    """Copy the runbooks to FOLDER, to open them in JupyterLab; files that are there are kept."""
    from statelesskit.runbook.find import list_runbooks

    folder.mkdir(parents=True, exist_ok=True)
    for one in list_runbooks():
        target = folder / one.path.name
        if target.exists():
            click.echo(f"kept {target}")
        else:
            shutil.copyfile(one.path, target)
            click.echo(f"copied {target}")
