"""``statelesskit snapshot``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from statelesskit.actions.set_snapshot_state import SetSnapshotState
from statelesskit.actions.take_snapshot import TakeSnapshot
from statelesskit.cli.acting import JSON, action_command, site_of


@click.group()
def snapshot() -> None:
    """Immutable points in time of a prototype."""


def _show_taken(result: Mapping[str, Any]) -> None:
    from statelesskit.cli import output

    output.facts({name: value for name, value in result.items() if name not in ("findings", "changed")})
    for finding in result["findings"]:
        output.note(f"finding: {finding['path'] or '.'}: {finding['finding']}")
    if not result["in_directory"]:
        output.note("the directory is away; it will learn of this snapshot at the next contact")


snapshot.add_command(action_command(TakeSnapshot, show=_show_taken, text="Take a snapshot of PROTOTYPE as it is now."))
snapshot.add_command(
    action_command(
        SetSnapshotState,
        text="Move SNAPSHOT to a later STATE: staged, tested, released, deprecated, revoked.",
    )
)


@snapshot.command("list")
@click.argument("prototype", required=False)
@JSON
@click.pass_context
def list_(ctx: click.Context, prototype: str | None, as_json: bool) -> None:
    """List the snapshots, or those of one PROTOTYPE."""
    from statelesskit.cli import output
    from statelesskit.prototype import load as load_prototype
    from statelesskit.snapshot import list_snapshots

    site = site_of(ctx)
    if prototype:
        load_prototype(site, prototype)
    found = list_snapshots(site, prototype)
    if as_json:
        for one in found:
            output.json_line(one.as_json())
        return
    output.table(
        (
            {
                "snapshot": one.name,
                "state": one.state,
                "files": one.files,
                "size": f"{one.bytes / 1e6:.1f} MB",
                "digest": one.digest[:19],
                "taken by": one.taken_by,
                "note": one.note,
            }
            for one in found
        ),
        empty="there are no snapshots; statelesskit snapshot take makes one",
    )


@snapshot.command()
@click.argument("name")
@JSON
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one snapshot."""
    from statelesskit.cli import output
    from statelesskit.snapshot import load

    found = load(site_of(ctx), name).as_json()
    (output.json_line if as_json else output.facts)(found)


@snapshot.command()
@click.argument("before")
@click.argument("after")
@click.option("--packages", is_flag=True, help="Compare the installed packages instead of the files.")
@JSON
@click.pass_context
def diff(ctx: click.Context, before: str, after: str, packages: bool, as_json: bool) -> None:
    """Show what differs between two snapshots."""
    from statelesskit import manifest
    from statelesskit.cli import output
    from statelesskit.packages import package_changes
    from statelesskit.snapshot import load, load_manifest
    from statelesskit.store import Store

    site = site_of(ctx)
    old, new = (load_manifest(site, load(site, name)) for name in (before, after))
    if packages:
        rows = package_changes(old, new, Store(site.store))
    else:
        rows = [change.as_json() for change in manifest.diff(old, new)]
    if as_json:
        for row in rows:
            output.json_line(row)
        return
    shown = [{name: " ".join(v) if isinstance(v, list) else v for name, v in row.items()} for row in rows]
    output.table(shown, empty="they do not differ")


@snapshot.command()
@click.argument("name", required=False)
@JSON
@click.pass_context
def verify(ctx: click.Context, name: str | None, as_json: bool) -> int:
    """Read every byte of one snapshot, or of all; ends with 1 when something is not as it should be."""
    from statelesskit.cli import output
    from statelesskit.snapshot import list_snapshots, load
    from statelesskit.snapshot import verify as verify_snapshot

    site = site_of(ctx)
    wrong = 0
    with output.progress() as progress:
        for one in [load(site, name)] if name else list_snapshots(site):
            for finding in verify_snapshot(site, one, progress):
                wrong += 1
                row = {"snapshot": one.name, **finding.as_json()}
                if as_json:
                    output.json_line(row)
                else:
                    click.echo(f"{one.name}: {output.printable_lines(row['path'])}: {row['finding']}")
    if not as_json:
        click.echo(f"{wrong} findings" if wrong else "every byte is as the manifests say")
    return int(wrong > 0)
