"""``statelesskit prototype``."""

from __future__ import annotations

import click

from statelesskit.actions.create_prototype import CreatePrototype
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def prototype() -> None:
    """Editable root trees, each the paragon for many machines."""


prototype.add_command(
    action_command(
        CreatePrototype,
        text="""Make a new prototype.

        SOURCE is debootstrap:SUITE (Debian packages from where this host's apt points), dir:PATH (copied),
        at:PATH (adopted where it is) or tar:PATH.""",
    )
)


@prototype.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the prototypes."""
    from statelesskit.cli import output
    from statelesskit.prototype import list_prototypes
    from statelesskit.snapshot import list_snapshots

    site = site_of(ctx)
    rows = [
        {
            "prototype": one.name,
            "source": one.source,
            "created_at": one.created_at.isoformat(timespec="seconds"),
            "created_by": one.created_by,
            "snapshots": len(list_snapshots(site, one.name)),
            "note": one.note,
        }
        for one in list_prototypes(site)
    ]
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="there are no prototypes; statelesskit prototype create makes one")


@prototype.command()
@click.argument("name")
@JSON
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one prototype."""
    from statelesskit.cli import output
    from statelesskit.prototype import load
    from statelesskit.snapshot import list_snapshots

    site = site_of(ctx)
    found = load(site, name)
    snapshots = [snapshot.name for snapshot in list_snapshots(site, name)]
    shown = {
        "prototype": found.name,
        "tree": str(found.tree),
        "source": found.source,
        "created_at": found.created_at.isoformat(timespec="seconds"),
        "created_by": found.created_by,
        "note": found.note,
        "snapshots": len(snapshots),
        "last_snapshot": snapshots[-1] if snapshots else None,
    }
    (output.json_line if as_json else output.facts)(shown)


@prototype.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, name: str, command: tuple[str, ...]) -> int:
    """Run a COMMAND inside a prototype: statelesskit prototype run desktop -- apt-get install -y vim.

    It has the network and its own namespaces; no service starts. Ends with the command's own exit code.
    """
    from statelesskit.prototype import load, run_in

    site = site_of(ctx)
    return run_in(load(site, name), command, site=site)
