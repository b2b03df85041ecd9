"""``statelesskit group``."""

from __future__ import annotations

import click

from statelesskit.actions.manage_groups import AddToGroup, ChangeGroup, CreateGroup, DeleteGroup, RemoveFromGroup
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def group() -> None:
    """Clients that follow one channel, or are held at one snapshot, together."""


group.add_command(action_command(CreateGroup, text="Make the group NAME, with a channel, a pin or neither."))
group.add_command(action_command(ChangeGroup, text="Change the group NAME; what is left out stays."))
group.add_command(action_command(AddToGroup, text="Put CLIENTS into the group NAME."))
group.add_command(action_command(RemoveFromGroup, text="Take CLIENTS out of the group NAME."))
group.add_command(action_command(DeleteGroup, text="Delete the group NAME; its clients stay."))


@group.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the groups: what each follows, and how many clients are in it."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.fleet import group_rows

    with open_directory(site_of(ctx), or_replica=True) as directory:
        rows = group_rows(directory.groups())
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="there are no groups; statelesskit group create makes one")


@group.command()
@click.argument("name")
@JSON
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one group with its clients, and what should not be in it."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.directory.groups import group_named
    from statelesskit.fleet import group_rows

    with open_directory(site_of(ctx), or_replica=True) as directory:
        found = group_named(directory, name)
    (facts,) = group_rows([found])
    members, nested, strangers = sorted(found.members), sorted(found.nested), sorted(found.strangers)
    if as_json:
        output.json_line({**facts, "clients": members, "nested": nested, "strangers": strangers})
        return
    output.facts(facts)
    for line in members:
        click.echo(f"- {output.printable_lines(line)}")
    for line in nested:
        click.echo(f"- group {output.printable_lines(line)}: nested groups are not followed")
    for line in strangers:
        click.echo(f"- {output.printable_lines(line)}: neither a client nor a group")
