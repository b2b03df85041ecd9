"""``statelesskit run`` and ``statelesskit runbook``."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from statelesskit.cli.acting import JSON, site_of


@click.command()
@click.argument("name", metavar="RUNBOOK")
@click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; may be given again.")
@click.option("--run-id", default="", help="Eight hexadecimal digits that name the run (else made up).")
@JSON
@click.pass_context
def run(ctx: click.Context, name: str, pairs: tuple[str, ...], run_id: str, as_json: bool) -> int:
    """Run a RUNBOOK (its name, or a notebook's path) with nobody there, and leave its record.

    Without -p confirm=DIGEST or -p confirm=auto it plans and ends with 3.
    """
    from dataclasses import asdict

    from statelesskit.cli import output
    from statelesskit.runbook.find import find_runbook
    from statelesskit.runbook.launch import run_runbook
    from statelesskit.runbook.parameters import from_text

    site, runbook = site_of(ctx), find_runbook(name)
    given = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"-p {pair}: write it as NAME=VALUE")
        given[key] = value
    ended = run_runbook(site, runbook, from_text(runbook.action, given), run_id=run_id)
    if as_json:
        output.json_line(asdict(ended))
    else:
        click.echo(f"{runbook.name}: {ended.state}; record {site.records / ended.record}")
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
