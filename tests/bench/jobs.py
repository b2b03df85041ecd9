"""What is measured, job by job. Each leaves rows, and the goals they are held against."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from statelesskit.export import erofs, squashfs
from tests.bench import fleets, reporting, serving
from tests.bench.auditing import flips_missed, make_records
from tests.bench.contenders import CLI, OURS, PEERS, Keeper, keepers, new_site, shell
from tests.bench.measure import Contender, Row, race, stored_mb, warm
from tests.bench.results import Bench, Goal, Result
from tests.bench.roots import fill, growing_roots, small_root
from tests.bench.synthetic import two_snapshots

AMOUNTS = [10_000, 30_000, 100_000, 300_000, 1_000_000]
MANY = [1, 50, 100, 200, 350, 500]
SETTLE_S = 75
FIND = "find -printf"
RECORDS, FLIPS = 10_000, 10_000


def of(rows: list[Row], *names: str) -> list[Row]:
    return [row for row in rows if row.name in names and row.wall_s]


def ratio(rows: list[Row], *names: str) -> float:
    """Return our time as a share of the fastest of those."""
    return of(rows, OURS)[0].wall / min(row.wall for row in of(rows, *names))


def first(bench: Bench) -> Iterator[Result]:
    """The first snapshot of a root."""
    for root, rounds in bench.roots():
        root.reset()
        stores = keepers(bench.repos, root.live, large=root.name == "large")
        archive = bench.repos / "tar.zst"
        tar = f"tar -C {root.live} --xattrs --acls --numeric-owner -cf - . | zstd -q -3 -T2 -fo {archive}"
        ours, *others = [store.contender(store.fresh) for store in stores]
        warm(root.live)
        rows = race(
            [ours, Contender("tar, zstd -3 -T2", f"{tar} && sync {archive}", sizes=(archive,)), *others], rounds
        )
        yield Result(
            f"First snapshot, {root.name}",
            rows,
            [
                Goal(f"first snapshot, {root.name}, of the fastest deduplicating store", 0.35, ratio(rows, *PEERS)),
                Goal(f"first snapshot, {root.name}, of tar, zstd -3 -T2", 1.0, ratio(rows, "tar, zstd -3 -T2")),
            ],
        )
        shutil.rmtree(bench.repos)


def again(bench: Bench) -> Iterator[Result]:
    """A snapshot when nothing changed; every store has seen the tree before."""
    for root, rounds in bench.roots():
        root.reset()
        stores = keepers(bench.repos, root.live, large=root.name == "large")
        for store in stores:
            store.fresh()
            for _ in range(2 if store.name == OURS else 1):  # the first leaves out what is too young to be remembered
                shell(store.command)
        find = f"find {root.live} -printf '%p %i %m %U %G %s %T@ %C@\\n'"
        ours, *others = [store.contender(lambda: None) for store in stores]
        rows = race([ours, Contender(FIND, find), *others], rounds)
        if root.name == "small":
            goals = [Goal("unchanged, small, whole command, of casync with its cache", 1.0, ratio(rows, "casync"))]
        else:
            goals = [
                Goal("unchanged, large, whole command, of find -printf", 1.5, ratio(rows, FIND)),
                Goal("unchanged, large, whole command, of the fastest peer", 0.25, ratio(rows, *PEERS)),
            ]
        yield Result(f"Unchanged, {root.name}", rows, goals)
        shutil.rmtree(bench.repos)


def upgrade(bench: Bench) -> Iterator[Result]:
    """A snapshot after an upgrade in place, and what two of them take."""
    root = small_root(bench.work)
    stores = keepers(bench.repos, root.live, large=False)
    root.reset()
    for store in stores:
        store.fresh()
        shell(store.command)
        store.save()
    root.upgrade()

    def restored(store: Keeper) -> Callable[[], None]:
        # The cache of what was seen knows inodes and times of the tree, which stays upgraded from here on.
        return lambda: store.restore()

    rows = race([store.contender(restored(store)) for store in stores], bench.rounds)
    goals = [Goal("after an upgrade, of the fastest deduplicating store", 0.4, ratio(rows, *PEERS))]
    ours = stores[0].contender(lambda: None)
    smallest = min(row.stored_mb for row in of(rows, *PEERS))
    goals.append(Goal("two snapshots, as taken, of the smallest peer", 1.0, of(rows, OURS)[0].stored_mb / smallest))
    packed = Row("statelesskit, repacked")
    packed.run(f"{CLI} --site {stores[0].folder} snapshot collect --objects-only --repack")
    packed.stored_mb = stored_mb(ours.sizes)
    goals.append(Goal("two snapshots, after repack, of the smallest peer", 0.9, packed.stored_mb / smallest))
    yield Result("After an upgrade in place, and what two snapshots take", [*rows, packed], goals)
    shutil.rmtree(bench.repos)


def export(bench: Bench) -> Iterator[Result]:
    """A tree from the store, verified, against a plain copy; then the next one, which shares its files."""
    root = small_root(bench.work)
    root.reset()
    site, copy = bench.repos / "site", bench.repos / "copy"
    shutil.rmtree(bench.repos, ignore_errors=True)
    bench.repos.mkdir(parents=True)
    shell(new_site(root.live).replace("{}", str(site)))
    before = taken(site)
    root.upgrade()
    after = taken(site)
    # ext4 looks long for an inode where many were freed within the last minute; so nothing is removed between the
    # rounds, and what was before is left to age.
    time.sleep(SETTLE_S)
    outside, inside = bench.repos / "tree", site / "exports/next"
    warm(root.live)
    rows = race(
        [
            Contender(OURS, f"{CLI} --site {site} export tree {after} {outside}.$ROUND && sync -f {bench.repos}"),
            Contender("cp -a", f"cp -a {root.live} {copy}.$ROUND && sync -f {bench.repos}"),
        ],
        bench.rounds,
    )
    yield Result(
        "Export of a tree, small, both with sync -f",
        rows,
        [Goal("export of a tree, verified, of cp -a", 1.0, ratio(rows, "cp -a"))],
    )
    changed = bench.repos / "changed"
    changed.mkdir()
    write_changed(root.before, root.live, changed)
    old, rounds = site / "exports/old", itertools.count()

    def export_old() -> None:
        # For each round one: what shares an export's files moves their ctime, and they would be read again.
        shell(f"{CLI} --site {site} export tree {before} {old}.{next(rounds)}")

    plain = f"cp -al {old}.$ROUND {copy}.next.$ROUND && cp -a {changed} {copy}.changed.$ROUND && sync -f {bench.repos}"
    rows = race(
        [
            Contender(OURS, f"{CLI} --site {site} export tree {after} {inside}.$ROUND && sync -f {site}", export_old),
            Contender("cp -al, and cp -a of what changed", plain),
        ],
        bench.rounds,
    )
    yield Result(
        "The next export of the same prototype, after an upgrade",
        rows,
        [Goal("next export, of cp -al plus the changed bytes", 2.0, ratio(rows, "cp -al, and cp -a of what changed"))],
    )
    shutil.rmtree(bench.repos)


def image(bench: Bench) -> Iterator[Result]:
    """An image from the store, read again, against the bare tool with the same options on the tree."""
    root = small_root(bench.work)
    root.reset()
    shutil.rmtree(bench.repos, ignore_errors=True)
    bench.repos.mkdir(parents=True)
    site, out = bench.repos / "site", bench.repos / "image"
    shell(new_site(root.live).replace("{}", str(site)))
    snapshot = taken(site)
    warm(root.live)
    tools = {
        "erofs": f"SOURCE_DATE_EPOCH={erofs.EPOCH} mkfs.erofs {' '.join(erofs.OPTIONS)} {out} {root.live}",
        "squashfs": f"mksquashfs {root.live} {out} {' '.join(squashfs.OPTIONS)}",
    }
    for kind, bare in tools.items():

        def clear() -> None:
            out.unlink(missing_ok=True)

        ours = f"{CLI} --site {site} export {kind} {snapshot} {out} --waive && sync -f {out}"
        rows = race(
            [Contender(OURS, ours, clear, (out,)), Contender("bare tool", f"{bare} && sync -f {out}", clear, (out,))],
            bench.rounds,
        )
        goal = Goal(f"export {kind}, read again, of the bare tool", 1.1, ratio(rows, "bare tool"))
        yield Result(f"Image, {kind}, both with sync -f", rows, [goal])
    shutil.rmtree(bench.repos)


def write_changed(before: Path, after: Path, target: Path) -> None:
    """Copy the files that are new or other."""
    command = ["rsync", "-a", "--checksum", f"--compare-dest={before}", "--prune-empty-dirs", f"{after}/", f"{target}/"]
    subprocess.run(command, check=True)


def taken(site: Path) -> str:
    """Take a snapshot; return its name."""
    told = shell(f"{CLI} --site {site} snapshot take p --json")
    return told.partition('"snapshot": "')[2].partition('"')[0]


def diff(bench: Bench) -> Iterator[Result]:
    """Two manifests compared, loading included, in process and as a whole command; three lines in a hundred differ."""
    for amount, wall, peak in ((100_000, 0.15, None), (1_000_000, 1.8, 500)):
        shutil.rmtree(bench.repos, ignore_errors=True)
        bench.repos.mkdir(parents=True)
        site = bench.repos / "site"
        shell(new_site(small_root(bench.work).before).replace("{}", str(site)))
        names = two_snapshots(site, amount)
        inner = Row("in process", amount=amount)
        for _ in range(bench.rounds):
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.synthetic", site, *names],
                capture_output=True,
                text=True,
                check=True,
            )
            wall_s, cpu_s, peak_mb = map(float, done.stdout.split())
            inner.wall_s.append(wall_s)
            inner.cpu_s.append(cpu_s)
            inner.peak_mb = max(inner.peak_mb, peak_mb)
        whole = Row("whole command", amount=amount)
        for _ in range(bench.rounds):
            whole.run(f"{CLI} --site {site} snapshot diff {' '.join(names)} --json")
        goals = [Goal(f"diff of {amount} entries, loading included", wall, inner.wall, "s")]
        goals += [Goal(f"memory of that, {amount} entries", peak, inner.peak_mb, "MB")] if peak else []
        yield Result(f"Diff of two manifests, {amount} entries", [inner, whole], goals)
    shutil.rmtree(bench.repos)


def growth(bench: Bench) -> Iterator[Result]:
    """First and unchanged snapshots of trees that grow."""
    rows, peak = [], 0.0
    for amount, root in growing_roots(bench.work, AMOUNTS).items():
        shutil.rmtree(bench.repos, ignore_errors=True)
        bench.repos.mkdir(parents=True)
        site = bench.repos / "site"
        (root / "etc").mkdir(exist_ok=True)
        shell(new_site(root).replace("{}", str(site)))
        warm(root)
        for name in ("first", "second", "unchanged"):
            row = Row(name, amount=amount)
            row.run(f"{CLI} --site {site} snapshot take p")
            peak = row.peak_mb if amount == max(AMOUNTS) and row.peak_mb > peak else peak
            if name != "second":  # which writes down what was too young to be remembered
                rows.append(row)
            print(f"  {amount} {name} {row.wall_s} {row.peak_mb:.0f} MB {row.failed}", flush=True)
    shutil.rmtree(bench.repos)
    rows.sort(key=lambda row: (row.name, row.amount))

    def slope(name: str) -> float:
        """Return the time a file in the largest tree over that in the second smallest."""
        each = [row.wall / row.amount for row in of(rows, name)]
        return each[-1] / each[1]

    yield Result(
        "Growth",
        rows,
        [
            Goal("memory of a take of 1 000 000 files", 300, peak, "MB"),
            Goal("first snapshot, time a file, 1 000 000 files against 30 000", 1.5, slope("first")),
            Goal("unchanged, time a file, 1 000 000 files against 30 000", 1.5, slope("unchanged")),
        ],
        ["Files of some hundred bytes, no two alike. One run each."],
    )


def many(bench: Bench) -> Iterator[Result]:
    """Hundreds of snapshots of a root of 2 000 files in which 20 change each time."""
    shutil.rmtree(bench.repos, ignore_errors=True)
    bench.repos.mkdir(parents=True)
    site, tree = bench.repos / "site", bench.repos / "root"
    (tree / "etc").mkdir(parents=True)  # without which it is no root tree
    fill(tree / "usr", 2000)
    shell(new_site(tree).replace("{}", str(site)))
    rows: list[Row] = []
    take = Row("take")
    for number in range(1, max(MANY) + 1):
        for file in range(20):
            path = tree / f"usr/d{file % 4:05}/f{(number * 7 + file * 23) % 500}"
            path.write_text(f"{number} {file}\n" * 30)
        take.run(f"{CLI} --site {site} snapshot take p")
        if number in MANY:
            take.amount = number
            verify, collect = Row("verify all", amount=number), Row("collect", amount=number)
            verify.run(f"{CLI} --site {site} snapshot verify")
            collect.run(f"{CLI} --site {site} snapshot collect --objects-only")
            rows += [take, verify, collect]
            print(f"  {number} " + " ".join(f"{row.wall_s[-1:]} {row.failed}" for row in rows[-3:]), flush=True)
            take = Row("take")
    shutil.rmtree(bench.repos)
    rows.sort(key=lambda row: (row.name, row.amount))

    def growth_of(name: str, few: int, *, each: bool) -> float:
        """Return the time at the most snapshots over that at few, for each of them where all are looked at."""
        wall = {row.amount: row.wall / (row.amount if each else 1) for row in of(rows, name)}
        return wall[max(MANY)] / wall[few]

    yield Result(
        "Many snapshots",
        rows,
        [
            Goal("the last 150 takes of 500 against the first 50", 1.25, growth_of("take", 50, each=False)),
            Goal("verifying 500, time a snapshot, against 100", 1.25, growth_of("verify all", 100, each=True)),
            Goal("collecting among 500, time a snapshot, against 100", 1.25, growth_of("collect", 100, each=True)),
        ],
        ["Of takes the median of all since the line above. Verifying and collecting, once each, look at every one."],
    )


def audit(bench: Bench) -> Iterator[Result]:
    """Verify many records with their log; and find each of many single bits that were flipped in some of them."""
    top = bench.repos
    shutil.rmtree(top, ignore_errors=True)
    (top / "records").mkdir(parents=True)
    make_records(top / "records", RECORDS)
    verify = Row("verify", amount=RECORDS)
    for _ in range(bench.rounds):
        verify.run(f"{CLI} audit verify --key {top}/record.pub {top}/records")
    shutil.rmtree(top)
    (top / "records").mkdir(parents=True)
    make_records(top / "records", 3)
    missed = flips_missed(top / "records", FLIPS)
    shutil.rmtree(top)
    yield Result(
        f"Verifying {RECORDS} records, each with seven events and a plan",
        [verify],
        [
            Goal("verify of 10 000 records", 10, verify.wall, "s"),
            Goal(f"flipped bits that were not found, of {FLIPS}", 0, missed, ""),
        ],
    )


JOBS = {
    "audit": audit,
    "directory-import": fleets.entered,
    "directory-read": fleets.read,
    "directory-push": fleets.pushed,
    "reports": reporting.reported,
    "boot-scripts": serving.served,
    "again": again,
    "first": first,
    "upgrade": upgrade,
    "export": export,
    "image": image,
    "diff": diff,
    "growth": growth,
    "many": many,
}
