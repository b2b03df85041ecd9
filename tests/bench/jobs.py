"""What is measured, each with its goal."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.bench.contenders import CLI, Bench, ours, peers, site_for
from tests.bench.measure import Contender, race


def first(bench: Bench, size: str, before: Path, after: Path) -> None:
    """The first snapshot of a root."""
    pipe = bench.work / "repos/tar.zst"
    bench.fresh("x")
    contenders = [
        ours(bench, site_for(bench, before), "snapshot take p"),
        Contender(
            "tar | zstd -3 -T2",
            f"tar -C {before} --xattrs --acls --numeric-owner -cf - . | zstd -q -3 -T2 -f -o {pipe} && sync {pipe}",
            size=pipe,
        ),
        *peers(bench, before),
    ]  # fmt: skip
    race(contenders, bench.rounds)
    bench.report(
        f"First snapshot, {size}", contenders,
        "Goal: at most 0.35 of the fastest deduplicating store, at most 1.0 of `tar | zstd -3 -T2`.",
    )  # fmt: skip


def again(bench: Bench, size: str, before: Path, after: Path) -> None:
    """A snapshot when nothing changed: each store holds it already."""
    contenders = [ours(bench, site_for(bench, before), "snapshot take p"), *peers(bench, before)]
    for one in contenders:
        one.before()
        subprocess.run(["/bin/sh", "-ec", one.command], check=True, stdout=subprocess.DEVNULL)
        one.before = lambda: None
    contenders.insert(1, Contender("find -printf", f"find {before} -printf '%p %i %m %U %G %s %T@ %C@\\n' >/dev/null"))
    race(contenders, bench.rounds)
    bench.report(
        f"Unchanged, {size}", contenders,
        "Goal: small at most 1.0 of casync; large at most 1.5 of `find -printf` and 0.25 of the fastest peer.",
    )  # fmt: skip


def upgrade(bench: Bench, size: str, before: Path, after: Path) -> None:
    """A snapshot after an upgrade in place; the tree keeps its path, and unchanged files their inodes."""
    tree = bench.work / "trees/live"

    def started(one: Contender, fresh: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            sync_tree(before, tree)
            fresh()
            subprocess.run(["/bin/sh", "-ec", one.command], check=True, stdout=subprocess.DEVNULL)
            sync_tree(after, tree)

        return run

    sync_tree(before, tree)
    contenders = [ours(bench, site_for(bench, tree), "snapshot take p"), *peers(bench, tree)]
    for one in contenders:
        one.before = started(one, one.before)
    race(contenders, bench.rounds)
    bench.report(
        f"After an upgrade, {size}", contenders,
        "Goal: at most 0.4 of the fastest deduplicating store; the store no larger than the smallest peer's.",
    )  # fmt: skip


def export(bench: Bench, size: str, before: Path, after: Path) -> None:
    """A tree from the store, verified, against a plain copy."""
    site, target, copy = bench.work / "repos/site", bench.work / "repos/tree", bench.work / "repos/copy"
    site_for(bench, before)()
    subprocess.run(f"{CLI} --site {site} snapshot take p", shell=True, check=True, capture_output=True)
    name = next((site / "snapshots").iterdir()).name

    def without(path: Path) -> Callable[[], None]:
        return lambda: shutil.rmtree(path, ignore_errors=True)

    contenders = [
        Contender("statelesskit", f"{CLI} --site {site} export tree {name} {target} 2>/dev/null", without(target)),
        Contender("cp -a, sync -f", f"cp -a {before} {copy} && sync -f {copy}", without(copy)),
        Contender("cp -al", f"cp -al {before} {copy}", without(copy)),
    ]
    race(contenders, bench.rounds)
    bench.report(f"Export of a tree, {size}", contenders, "Goal: at most 1.0 of `cp -a` with `sync -f` on both.")


def sync_tree(source: Path, target: Path) -> None:
    """Make ``target`` like ``source`` in place, touching only what differs in content or metadata."""
    subprocess.run(
        ["rsync", "-aHAXS", "--numeric-ids", "--delete", "--checksum", f"{source}/", f"{target}/"], check=True
    )


JOBS = {"first": first, "again": again, "upgrade": upgrade, "export": export}
