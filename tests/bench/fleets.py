"""The directory with many clients: entered, read, pushed to. Its rival is ldap3's own paged search, in the same run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.contenders import CLI, OURS, new_site, shell
from tests.bench.measure import Contender, Row, race
from tests.bench.results import Bench, Goal, Result

FLEETS = (10, 1_000, 100_000)
MODES = ("diskless", "caching", "live")
BARE = "ldap3, bare paged search"
_PYTHON = f"{sys.executable} -m tests.bench.fleets"
ATTRIBUTES = ["skClientMode", "macAddress", "skChannelDN", "skSnapshotDN", "skReferenceSnapshotDN", "description"]


def entered(bench: Bench) -> Iterator[Result]:
    """A table of clients imported into an empty directory: checked, made durable, logged, recorded, checked again."""
    rows = []
    for amount in FLEETS[1:]:
        with_fleet(bench, 0)
        row = Row("client import", amount=amount)
        for _ in range(1 if amount > 10_000 else bench.rounds):
            row.run(f"{CLI} --site {site_of(bench)} client import {table(bench, amount)}")
            if amount <= 10_000:
                with_fleet(bench, 0)
        rows.append(row)
    stop(bench)
    notes = [
        "With the server's checks (unique addresses, allowed values), its change log, and all flushed to the disk."
    ]
    yield Result("Clients imported", rows, [Goal("import of 100 000 clients", 90, rows[-1].wall, "s")], notes)


def read(bench: Bench) -> Iterator[Result]:
    """All clients read, as a table with what each is told to run."""
    with_fleet(bench, FLEETS[-1])
    site = site_of(bench)
    ours, frame, bare = f"{OURS} client list --json", "a DataFrame of all", BARE
    contenders = [
        Contender(ours, f"{CLI} --site {site} client list --json"),
        Contender(frame, f"{_PYTHON} frame {site}"),
        Contender(bare, f"{_PYTHON} bare {site}"),
    ]
    rows = race(contenders, min(3, bench.rounds))
    stop(bench)
    wall = {row.name: row.wall for row in rows}
    yield Result(
        "100 000 clients read, with what each is told to run",
        rows,
        [
            Goal("client list --json of 100 000, of a bare ldap3 paged search", 1.25, wall[ours] / wall[bare]),
            Goal("DataFrame of 100 000 with assignments, of a bare ldap3 paged search", 1.2, wall[frame] / wall[bare]),
        ],
    )


def pushed(bench: Bench) -> Iterator[Result]:
    """A push to fleets of three sizes; the operations that change something are counted."""
    rows, counts = [], set()
    for amount in FLEETS:
        before, after = with_fleet(bench, amount)
        plan, apply = Row("push plan", amount=amount), Row("push apply", amount=amount)
        for number in range(2 if amount > 10_000 else bench.rounds):
            target = (after, before)[number % 2]
            plan.run(f"{CLI} --site {site_of(bench)} push plan p/stable {target} --json")
            apply.run(f"{CLI} --site {site_of(bench)} push apply p/stable {target} --json")
        rows += [plan, apply]
        counts.add(shell(f"{_PYTHON} operations {site_of(bench)} {(after, before)[(number + 1) % 2]}"))
    stop(bench)
    rows.sort(key=lambda row: (row.name, row.amount))
    [(modifies, adds)] = {tuple(map(int, line.split())) for line in counts}
    notes = [f"Whatever the fleet, a push was {modifies} modify and {adds} add, which is its line in the history."]
    yield Result("Pushes", rows, [Goal("operations of a push, any fleet", 2, modifies + adds, "")], notes)


def site_of(bench: Bench) -> Path:
    return bench.repos / "site"


def with_fleet(bench: Bench, amount: int) -> tuple[str, str]:
    """Make a site with a channel and so many clients; return its two snapshots."""
    stop(bench)
    site, tree = site_of(bench), bench.repos / "root"
    for folder in ("etc", "usr"):  # without which it is no root tree
        (tree / folder).mkdir(parents=True)
    ours = f"{CLI} --site {site}"
    shell(new_site(tree).replace("{}", str(site)))
    names = []
    for number in range(2):
        (tree / "etc/motd").write_text(f"{number}\n")
        told = shell(f"{ours} snapshot take p --json")
        names.append(told.partition('"snapshot": "')[2].partition('"')[0])
    shell(f"{ours} site start && {ours} channel create p/stable {names[0]}")
    if amount:
        shell(f"{ours} client import {table(bench, amount)}")
    return names[0], names[1]


def stop(bench: Bench) -> None:
    """Stop the server and remove the site."""
    if site_of(bench).exists():
        shell(f"{CLI} --site {site_of(bench)} site stop")
    shutil.rmtree(bench.repos, ignore_errors=True)
    bench.repos.mkdir(parents=True)


def table(bench: Bench, amount: int) -> Path:
    path = bench.repos / f"{amount}.csv"
    lines = ["name,mode,mac,channel,note"]
    lines += [
        f"pc-{n:06},{MODES[n % 3]},52:54:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x},p/stable,room {n % 400}"
        for n in range(amount)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def main(what: str, root: str, target: str = "") -> None:
    """Do what is measured in a process of its own."""
    from statelesskit.config import load_site

    site = load_site(Path(root))
    if what == "bare":
        import ldap3

        from statelesskit.directory.session import connect

        search = connect(site).extend.standard.paged_search
        base = f"ou=clients,{site.base_dn}"
        rule = "(objectClass=skClient)"
        found = search(base, rule, ldap3.LEVEL, attributes=ATTRIBUTES, paged_size=1000, generator=True)
        print(sum(1 for _ in found))
    elif what == "frame":
        from statelesskit import frames

        print(len(frames.fleet(site)))
    else:
        from datetime import UTC, datetime

        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            serial = directory.channel("p/stable").serial
            directory.ldap.counts.clear()
            directory.move_channel(
                "p/stable", serial=serial, to=target, moved_by="bench", moved_at=datetime.now(UTC), record="bench"
            )
            print(directory.ldap.counts["modify"], directory.ldap.counts["add"])


if __name__ == "__main__":
    main(*sys.argv[1:])
