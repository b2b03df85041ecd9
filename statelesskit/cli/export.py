"""``statelesskit export``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from statelesskit.cli.acting import JSON, site_of
from statelesskit.config import Site
from statelesskit.progress import Progress

if TYPE_CHECKING:
    from statelesskit.snapshot import Snapshot
    from statelesskit.tree import Finding


@click.group()
def export() -> None:
    """Write a snapshot out in a form a machine can use, and prove it is equal."""


@contextmanager
def _given(ctx: click.Context, name: str) -> Iterator[tuple[Site, Snapshot, Progress]]:
    """Give a snapshot that is whole, and that nobody deletes while it is exported; show the progress."""
    from statelesskit.cli import output
    from statelesskit.lock import held
    from statelesskit.snapshot import load
    from statelesskit.snapshot.verify import check_whole

    site = site_of(ctx)
    found = load(site, name)
    lock = held(site.lock_file(f"snapshot/{name}"), what=f"the snapshot {name}", doing="exporting it", shared=True)
    with lock, output.progress() as progress:
        check_whole(site, found)
        yield site, found, progress


@export.command()
@click.argument("snapshot")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--reread", is_flag=True, help="Read every file back from the disk and hash it again.")
@click.option(
    "--share-with",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="TREE",
    help="Link what is the same in an earlier export; who writes into one of them writes into both.",
)
@JSON
@click.pass_context
def tree(ctx: click.Context, snapshot: str, dest: Path, reread: bool, share_with: Path | None, as_json: bool) -> None:
    """Write SNAPSHOT as a tree of files at DEST, equal to its manifest in every field.

    In the site's own folder for exports it shares files with the last one of the same prototype there. A tree is for
    reading only: mount or export it so.
    """
    from statelesskit.cli import output
    from statelesskit.export.snapshot_tree import export_snapshot

    target = dest.absolute()
    with _given(ctx, snapshot) as (site, found, progress):
        done = export_snapshot(site, found, target, share_with=share_with, reread=reread, progress=progress)
    result = {
        "snapshot": snapshot,
        "digest": found.digest,
        "tree": str(target),
        "entries": done.entries,
        "shared_files": done.shared,
        "equal": True,
        "holes_laid_out_otherwise": len(done.harmless),
    }
    (output.json_line if as_json else output.facts)(result)


def _image(kind: str, text: str) -> Callable[..., None]:
    """Make the command that writes one kind of image."""

    @export.command(kind, help=text)
    @click.argument("snapshot")
    @click.argument("dest", type=click.Path(path_type=Path))
    @click.option("--verity", is_flag=True, help="Append a dm-verity hash tree, and show its root hash and offset.")
    @click.option("--waive", is_flag=True, help="Go on although access control lists are lost.")
    @JSON
    @click.pass_context
    def command(ctx: click.Context, snapshot: str, dest: Path, verity: bool, waive: bool, as_json: bool) -> None:
        from statelesskit.export.images import make_image
        from statelesskit.snapshot import load_manifest
        from statelesskit.store import Store

        target = dest.absolute()
        with _given(ctx, snapshot) as (site, found, progress):
            manifest = load_manifest(site, found)
            image = make_image(manifest, Store(site.store), target, kind, verity=verity, waive=waive, progress=progress)
        facts = {"image": str(target), "bytes": image.bytes, "sha256": image.sha256}
        if verity:
            facts |= {"verity_root_hash": image.verity_root_hash, "verity_offset": image.verity_offset}
        _tell({"snapshot": snapshot, "digest": found.digest, **facts}, image.lost, as_json=as_json)

    return command


_image("erofs", "Write SNAPSHOT as an erofs image at DEST; what the format can't hold is said.")
_image("squashfs", "Write SNAPSHOT as a squashfs image at DEST; what the format can't hold is said.")


@export.command()
@click.argument("snapshot")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--root", "kind", type=click.Choice(["erofs", "squashfs"]), help="Kind of its image; else one that holds all."
)
@click.option("--medium", default="", metavar="cd|dvd|BYTES", help="Refuse it if it does not fit on this.")
@click.option("--append", multiple=True, metavar="ARGUMENT", help="One more argument for its kernel, as console=ttyS0.")
@click.option("--waive", is_flag=True, help="Go on although access control lists are lost.")
@JSON
@click.pass_context
def iso(
    ctx: click.Context,
    snapshot: str,
    dest: Path,
    kind: str | None,
    medium: str,
    append: tuple[str, ...],
    waive: bool,
    as_json: bool,
) -> None:
    """Write SNAPSHOT as a live system on a disc image DEST, for CD, DVD and USB stick, BIOS and UEFI.

    It boots SNAPSHOT's own kernel and checks each block it reads. On the disc, `sha256sum -c SHA256SUMS` tells whether
    it was burnt well.
    """
    from statelesskit.export.images import best_kind
    from statelesskit.export.iso import make_iso
    from statelesskit.snapshot import load_manifest
    from statelesskit.store import Store

    target = dest.absolute()
    with _given(ctx, snapshot) as (site, found, progress):
        manifest = load_manifest(site, found)
        disc = make_iso(
            manifest,
            Store(site.store),
            target,
            snapshot,
            kind or best_kind(manifest),
            medium=medium,
            append=append,
            waive=waive,
            progress=progress,
        )
    facts = {"iso": str(target), "bytes": disc.bytes, "sha256": disc.sha256, "label": disc.label}
    image = {"root": disc.image.kind, "verity_root_hash": disc.image.verity_root_hash}
    _tell({"snapshot": snapshot, "digest": found.digest, **facts, **image}, disc.image.lost, as_json=as_json)


@export.command()
@click.argument("snapshot")
@click.argument("dest", type=click.Path(path_type=Path))
@JSON
@click.pass_context
def tar(ctx: click.Context, snapshot: str, dest: Path, as_json: bool) -> None:
    """Write SNAPSHOT as a tar archive DEST: .tar, .tar.zst or .tar.gz.

    It is read back before it gets its name. `snapshot import` makes the same snapshot of it; what other
    programs do not read is said.
    """
    from statelesskit.export.tar import export_tar

    _write(ctx, snapshot, dest, "archive", lambda _: export_tar, as_json=as_json)


@export.command()
@click.argument("snapshot")
@click.argument("dest", type=click.Path(path_type=Path))
@JSON
@click.pass_context
def oci(ctx: click.Context, snapshot: str, dest: Path, as_json: bool) -> None:
    """Write SNAPSHOT as an OCI image layout, the folder DEST, with the image named after the snapshot.

    It is read back before it gets its name. `snapshot import` makes the same snapshot of it; what other
    programs do not read is said.
    """
    from statelesskit.export.oci import export_oci

    _write(ctx, snapshot, dest, "layout", lambda found: partial(export_oci, found), as_json=as_json)


def _write(
    ctx: click.Context,
    snapshot: str,
    dest: Path,
    what: str,
    writer: Callable[[Snapshot], Callable[..., list[Finding]]],
    *,
    as_json: bool,
) -> None:
    """Write an export that says what is lost by it, and tell where it is."""
    from statelesskit.snapshot import load_manifest
    from statelesskit.store import Store

    target = dest.absolute()
    with _given(ctx, snapshot) as (site, found, progress):
        lost = writer(found)(load_manifest(site, found), Store(site.store), target, progress=progress)
    facts: dict[str, Any] = {"snapshot": snapshot, "digest": found.digest, what: str(target)}
    if target.is_file():
        facts["bytes"] = target.stat().st_size
    _tell(facts, lost, as_json=as_json)


def _tell(facts: dict[str, Any], lost: Sequence[Finding], *, as_json: bool) -> None:
    """Tell what was written, and what was lost by it."""
    from statelesskit.cli import output

    findings = [finding.as_json() for finding in lost]
    if as_json:
        output.json_line({**facts, "findings": findings})
        return
    output.facts({**facts, "findings": len(findings)})
    output.findings(findings)
