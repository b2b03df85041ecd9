"""``statelesskit snapshot``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from statelesskit.actions.collect_snapshots import CollectSnapshots
from statelesskit.actions.copy_snapshot import CopySnapshot
from statelesskit.actions.delete_snapshot import DeleteSnapshot
from statelesskit.actions.import_snapshot import ImportSnapshot
from statelesskit.actions.note_snapshot import NoteSnapshot
from statelesskit.actions.receive_snapshot import ReceiveSnapshot
from statelesskit.actions.set_snapshot_state import SetSnapshotState
from statelesskit.actions.take_snapshot import TakeSnapshot
from statelesskit.cli import differences
from statelesskit.cli.acting import JSON, action_command, site_of
from statelesskit.config import Site


@click.group()
def snapshot() -> None:
    """Immutable points in time of a prototype."""


def _show_taken(result: Mapping[str, Any]) -> None:
    from statelesskit.cli import output

    output.facts({name: value for name, value in result.items() if name not in ("findings", "changed")})
    output.findings(result["findings"])
    if not result["in_directory"]:
        output.note("the directory is away; it will learn of this snapshot at the next contact")


snapshot.add_command(action_command(TakeSnapshot, show=_show_taken, text="Take a snapshot of PROTOTYPE as it is now."))
snapshot.add_command(
    action_command(
        ImportSnapshot,
        show=_show_taken,
        text="Make a snapshot of PROTOTYPE of what SOURCE holds: tar:PATH, oci:PATH[:TAG], or a path alone.",
    )
)
snapshot.add_command(
    action_command(
        SetSnapshotState,
        text="Move SNAPSHOT to a later STATE: staged, tested, released, deprecated, revoked.",
    )
)
snapshot.add_command(
    action_command(
        CopySnapshot,
        text="Copy SNAPSHOT to another site: its folder TO, or ssh:HOST:FOLDER. Only what that lacks is moved.",
    )
)
receiving = action_command(ReceiveSnapshot)
receiving.hidden = True  # snapshot copy runs it on the other side
snapshot.add_command(receiving)


snapshot.add_command(action_command(NoteSnapshot, text="Say what SNAPSHOT is for: NOTE takes the place of its note."))
snapshot.add_command(
    action_command(
        DeleteSnapshot,
        text="Delete SNAPSHOT, unless a channel, client or export needs it. `snapshot collect` frees its contents.",
    )
)


def _show_collected(result: Mapping[str, Any]) -> None:
    from statelesskit.cli import output

    shown = {**result, "deleted": " ".join(result.get("deleted", [])) or "none"}
    skipped = shown.pop("skipped", {})
    shown["packs_kept"] = len(shown.get("packs_kept", []))
    output.facts(shown)
    for name, reason in skipped.items():
        output.note(f"{name} was not deleted: {reason}")


snapshot.add_command(
    action_command(
        CollectSnapshots,
        show=_show_collected,
        text="Delete the snapshots that the rules in site.toml let go and nobody needs, and free what no snapshot "
        "needs any more. --plan says first what goes, what stays and why.",
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
    from statelesskit.snapshot.registry import all_of, look_at_snapshots
    from statelesskit.snapshot.whole import is_partial

    site = site_of(ctx)
    found, damaged = look_at_snapshots(site, prototype)
    if prototype and not found and not damaged:  # one that was imported may have no prototype here
        load_prototype(site, prototype)
    if as_json:
        for one in found:
            output.json_line({**one.as_json(), "partial": is_partial(site, one.name)})
    else:
        output.table(
            (
                {
                    "snapshot": one.name,
                    "state": one.state + (", partial" if is_partial(site, one.name) else ""),
                    "files": one.files,
                    "size": f"{one.bytes / 1e6:.1f} MB",
                    "digest": one.digest[:19],
                    "taken by": one.taken_by,
                    "note": one.note,
                }
                for one in found
            ),
            empty="" if damaged else "there are no snapshots; statelesskit snapshot take makes one",
        )
    if damaged:
        raise all_of(damaged)


@snapshot.command()
@click.argument("name")
@JSON
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one snapshot."""
    from statelesskit.cli import output
    from statelesskit.snapshot import load
    from statelesskit.snapshot.whole import is_partial

    site = site_of(ctx)
    found = {**load(site, name).as_json(), "partial": is_partial(site, name)}
    (output.json_line if as_json else output.facts)(found)


@snapshot.command()
@click.argument("before")
@click.argument("after", required=False)
@click.option("--prototype", metavar="NAME", help="Compare with a prototype as it is now, instead of with AFTER.")
@differences.question_options
@JSON
@click.pass_context
def diff(
    ctx: click.Context, /, before: str, after: str | None, prototype: str | None, as_json: bool, **question: Any
) -> None:
    """Show what differs between two snapshots: by file, by package or by risk, or the text of one file."""
    from statelesskit.snapshot import load

    if (after is None) == (prototype is None):
        raise click.UsageError("give two snapshots, or one and --prototype NAME")
    site = site_of(ctx)
    old = load(site, before)
    if prototype is not None:
        differences.show_pending(site, prototype, old, as_json=as_json, **question)
        return
    assert after is not None
    differences.show_between(site, old, load(site, after), as_json=as_json, **question)


@snapshot.command()
@click.argument("name")
@JSON
@click.pass_context
def inventory(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show the packages, kernels and OS release of a snapshot."""
    from statelesskit.cli import output
    from statelesskit.inventory import inventory as inventory_of
    from statelesskit.snapshot import load

    site = site_of(ctx)
    one = load(site, name)
    found = inventory_of(site, one)
    if as_json:
        output.json_line({"snapshot": one.name, "digest": one.digest, **found.as_json()})
        return
    output.facts(
        {
            "snapshot": one.name,
            "release": found.os_release.get("PRETTY_NAME"),
            "kernels": " ".join(kernel.version for kernel in found.kernels) or None,
            "packages": len(found.packages),
        }
    )
    output.table(
        (
            {
                "package": package.name,
                "arch": package.arch,
                "version": package.version,
                "source": package.source,
                "source_version": package.source_version,
            }
            for package in found.packages
        ),
        empty="no package database was found in it",
    )
    output.findings(finding.as_json() for finding in found.findings)


@snapshot.command()
@click.argument("name")
@click.option("--format", "kind", type=click.Choice(["cyclonedx-json"]), default="cyclonedx-json", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write it to a file instead.")
@click.pass_context
def sbom(ctx: click.Context, name: str, kind: str, output: str | None) -> None:
    """Print the bill of materials of a snapshot. The same snapshot always gives the same bytes."""
    from pathlib import Path

    from statelesskit.fs import write_file
    from statelesskit.inventory import inventory as inventory_of
    from statelesskit.sbom import cyclonedx
    from statelesskit.snapshot import load

    site = site_of(ctx)
    one = load(site, name)
    text = cyclonedx(one, inventory_of(site, one))
    if output:
        write_file(Path(output), text.encode())
    else:
        click.echo(text, nl=False)


@snapshot.command()
@click.option("--path", help="A file or folder that has this path.")
@click.option("--sha256", metavar="DIGEST", help="A file with this content.")
@click.option("--package", metavar="NAME[=VERSION]", help="A package, or what was built from this source.")
@JSON
@click.pass_context
def find(ctx: click.Context, path: str | None, sha256: str | None, package: str | None, as_json: bool) -> None:
    """Find the snapshots that hold a file, a content or a package."""
    import os

    from statelesskit.cli import output
    from statelesskit.find import which_hold

    with output.progress() as progress:
        held = which_hold(
            site_of(ctx),
            path=os.fsencode(path or ""),
            sha256=sha256 or "",
            package=package or "",
            progress=progress,
        )
        rows = [one.as_json() for one in held]
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="no snapshot holds it")


@snapshot.command()
@click.argument("name", required=False)
@click.option(
    "--repair-from", default="", metavar="PLACE", help="Fetch what is lost: a site, a store, an exported tree."
)
@JSON
@click.pass_context
def verify(ctx: click.Context, name: str | None, repair_from: str, as_json: bool) -> int:
    """Read every byte of one snapshot, or of all; ends with 1 when something is not as it should be.

    What is derived from snapshots is mended at once, and said. A snapshot that lacks something is marked
    partial until it is found whole: nobody is given it.
    """
    if repair_from:
        _repair(site_of(ctx), name or "", repair_from, as_json=as_json)
        return 0
    from statelesskit.cli import output
    from statelesskit.inventory import mend_inventory
    from statelesskit.snapshot import load
    from statelesskit.snapshot.registry import look_at_snapshots
    from statelesskit.snapshot.verify import verify_all
    from statelesskit.tree import Finding

    site = site_of(ctx)
    wrong = 0

    def tell(snapshot: str, finding: Finding) -> None:
        nonlocal wrong
        wrong += 1
        row = {"snapshot": snapshot, **finding.as_json()}
        if as_json:
            output.json_line(row)
        else:
            about = ": ".join(text for text in (snapshot, row["path"]) if text) or "the store"
            click.echo(f"{output.printable_lines(about)}: {output.printable_lines(row['finding'])}")

    with output.progress() as progress:
        snapshots, damaged = ([load(site, name)], {}) if name else look_at_snapshots(site)
        for broken, error in damaged.items():
            tell(broken, Finding(b"", error.message))
        for one, finding in verify_all(site, snapshots, progress, everything=not name):
            tell(one, finding)
        for snapshot in snapshots:
            if fault := mend_inventory(site, snapshot):
                tell(snapshot.name, Finding(b"", fault))
    if not as_json:
        click.echo(f"{wrong} findings" if wrong else "every byte is as the manifests say")
    return int(wrong > 0)


def _repair(site: Site, name: str, place: str, *, as_json: bool) -> None:
    from statelesskit import service
    from statelesskit.actions.repair_snapshots import RepairSnapshots
    from statelesskit.cli import output

    action = RepairSnapshots.check({"place": place, "snapshot": name})
    with output.progress() as progress:
        outcome = service.perform(site, action, service.AT_ONCE, progress=progress)
    result = {**outcome.result, "record": outcome.record}
    if as_json:
        output.json_line(result)
    else:
        output.note(outcome.plan.summary)
        output.facts(
            {
                "descriptions restored": " ".join(result["descriptions_restored"]) or None,
                "manifests restored": " ".join(result["manifests_restored"]) or None,
                "objects fetched": result["objects_fetched"],
                "packs set aside": len(result["packs_set_aside"]),
                "record": outcome.record,
            }
        )
        for restored, about in result["descriptions_restored"].items():
            if about["not_proven"]:
                fields = ", ".join(about["not_proven"])
                output.note(f"{restored}: nothing proves that these are as they were: {fields}; look at them")
