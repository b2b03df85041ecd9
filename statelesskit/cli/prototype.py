"""``statelesskit prototype``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from statelesskit.actions.create_prototype import CreatePrototype
from statelesskit.cli import differences
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def prototype() -> None:
    """Editable root trees, each the paragon for many machines."""


def _show_created(result: Mapping[str, Any]) -> None:
    from statelesskit.cli import output

    output.facts({name: value for name, value in result.items() if name != "findings"})
    output.findings(result["findings"])


prototype.add_command(
    action_command(
        CreatePrototype,
        show=_show_created,
        text="""Make a new prototype.

        SOURCE is debootstrap:SUITE (Debian packages from where this host's apt points), dir:PATH (copied),
        at:PATH (adopted where it is), tar:PATH, or an OCI image: oci:PATH[:TAG] of a layout on the disk,
        oci:docker://NAME[:TAG] of one that skopeo fetches from a registry.""",
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


@prototype.command()
@click.argument("name")
@click.option("--since", metavar="SNAPSHOT", help="The snapshot to compare with, instead of its last one.")
@click.option("--reread", is_flag=True, help="Read every file, also those whose length and time are as they were.")
@differences.question_options
@JSON
@click.pass_context
def changes(ctx: click.Context, /, name: str, since: str | None, reread: bool, as_json: bool, **question: Any) -> None:
    """Show what a prototype holds that its last snapshot does not."""
    from statelesskit.errors import NotFoundError
    from statelesskit.prototype import load
    from statelesskit.snapshot import list_snapshots
    from statelesskit.snapshot import load as load_snapshot

    site = site_of(ctx)
    load(site, name)
    if not (taken := [load_snapshot(site, since)] if since else list_snapshots(site, name)):
        raise NotFoundError(
            f"there is no snapshot of {name} to compare with", hint=f"statelesskit snapshot take {name} makes one"
        )
    differences.show_pending(site, name, taken[-1], reread=reread, as_json=as_json, **question)


@prototype.command()
@click.argument("name")
@click.option("--defaults", is_flag=True, help="Write the rules that suit a Debian root, in place of those it has.")
@click.option("--client", is_flag=True, help="Install the package with which its clients report what they run.")
@JSON
@click.pass_context
def prepare(ctx: click.Context, name: str, defaults: bool, client: bool, as_json: bool) -> None:
    """Show what of a prototype never comes into a snapshot, and how many names that fits now.

    The rules are in prototypes/NAME/prepare.toml of the site; they change snapshots, never the prototype.
    """
    from statelesskit import service
    from statelesskit.actions.install_client import InstallClient
    from statelesskit.actions.prepare_prototype import PreparePrototype
    from statelesskit.cli import output
    from statelesskit.prototype import load
    from statelesskit.prototype.prepare import Rules, count_hits, load_rules

    site = site_of(ctx)
    if defaults:
        service.perform(site, PreparePrototype(name), service.AT_ONCE)
    if client:
        with output.progress() as progress:
            service.perform(site, InstallClient(name), service.AT_ONCE, progress=progress)
    tree = load(site, name).tree
    rules = load_rules(site, name)
    hits = {}
    if rules != Rules() and tree.is_dir():
        with output.progress() as progress:
            hits = count_hits(tree, rules, progress)
    if as_json:
        output.json_line(
            {"prototype": name, "leave_out": list(rules.leave_out), "empty": list(rules.empty), "hits": hits}
        )
        return
    rows = [{"what": "left out", "path": pattern, "fits now": hits.get(pattern)} for pattern in rules.leave_out]
    rows += [{"what": "taken empty", "path": pattern, "fits now": hits.get(pattern)} for pattern in rules.empty]
    output.table(rows, empty="everything is taken as it is")


@prototype.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, name: str, command: tuple[str, ...]) -> int:
    """Run a COMMAND inside a prototype: statelesskit prototype run desktop -- apt-get install -y vim.

    It has the network and its own namespaces; no service starts. Ends with the command's own exit code.
    """
    from statelesskit.prototype import load
    from statelesskit.prototype.sandbox import run_in

    site = site_of(ctx)
    return run_in(load(site, name), command, site=site)
