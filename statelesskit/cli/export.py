"""``statelesskit export``."""

from __future__ import annotations

from pathlib import Path

import click

from statelesskit.cli.acting import JSON, site_of


@click.group()
def export() -> None:
    """Write a snapshot out in a form a machine can use, and prove it is equal."""


@export.command()
@click.argument("snapshot")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--reread", is_flag=True, help="Read every file back from the disk and hash it again.")
@JSON
@click.pass_context
def tree(ctx: click.Context, snapshot: str, dest: Path, reread: bool, as_json: bool) -> None:
    """Write SNAPSHOT as a tree of files at DEST, equal to its manifest in every field."""
    from statelesskit.cli import output
    from statelesskit.export.tree import export_tree
    from statelesskit.snapshot import load, load_manifest
    from statelesskit.snapshot.verify import check_whole
    from statelesskit.store import Store

    site = site_of(ctx)
    found = load(site, snapshot)
    check_whole(site, found)
    manifest = load_manifest(site, found)
    with output.progress() as progress:
        holes = export_tree(manifest, Store(site.store), dest.absolute(), reread=reread, progress=progress)
    result = {
        "snapshot": snapshot,
        "digest": found.digest,
        "tree": str(dest.absolute()),
        "entries": len(manifest.lines),
        "equal": True,
        "holes_laid_out_otherwise": len(holes),
    }
    (output.json_line if as_json else output.facts)(result)


@export.command()
@click.argument("snapshot")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--waive", is_flag=True, help="Go on although access control lists are lost.")
@JSON
@click.pass_context
def squashfs(ctx: click.Context, snapshot: str, dest: Path, waive: bool, as_json: bool) -> None:
    """Write SNAPSHOT as a squashfs image at DEST; what the format can't hold is said."""
    from statelesskit.cli import output
    from statelesskit.export.squashfs import export_squashfs
    from statelesskit.snapshot import load, load_manifest
    from statelesskit.snapshot.verify import check_whole
    from statelesskit.store import Store

    site = site_of(ctx)
    found = load(site, snapshot)
    check_whole(site, found)
    target = dest.absolute()
    with output.progress() as progress:
        lost = export_squashfs(load_manifest(site, found), Store(site.store), target, waive=waive, progress=progress)
    result = {
        "snapshot": snapshot,
        "digest": found.digest,
        "image": str(target),
        "bytes": target.stat().st_size,
        "findings": [finding.as_json() for finding in lost],
    }
    if as_json:
        output.json_line(result)
        return
    output.facts({**result, "findings": len(lost)})
    for finding in lost:
        output.note(f"finding: {finding.as_json()['path']}: {finding.finding}")
