"""Boot scripts: how many `site serve` gives out, and what a push rewrites in fleets of several sizes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.contenders import CLI, shell
from tests.bench.fleets import site_of, stop, with_fleet
from tests.bench.measure import Row
from tests.bench.results import Bench, Goal, Result

FLEETS = (10, 1_000, 10_000)
ASKED, AT_ONCE, PORT = 10_000, 50, 18431


def served(bench: Bench) -> Iterator[Result]:
    """A push's rewrite of the scripts, then scripts asked for by ab."""
    rows, rewritten = [], set()
    for amount in FLEETS:
        snapshots = with_fleet(bench, amount)
        row = Row("the scripts follow a push", amount=amount)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.serving", site_of(bench), str(bench.rounds), *snapshots],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            wall_s, files = line.split()
            row.wall_s.append(float(wall_s))
            rewritten.add(int(files))
        row.cpu_s = list(row.wall_s)
        rows.append(row)
    given = Row(f"{ASKED} scripts by HTTP, {AT_ONCE} at once", amount=FLEETS[-1])
    command = f"exec {CLI} --site {site_of(bench)} site serve --listen 127.0.0.1:{PORT} 2>/dev/null"
    with subprocess.Popen(["sh", "-c", command]) as server:
        time.sleep(3)
        for _ in range(bench.rounds):
            path = "boot/by-mac/52-54-00-00-00-03.ipxe"
            told = shell(f"ab -q -n {ASKED} -c {AT_ONCE} http://127.0.0.1:{PORT}/{path}")
            assert re.search(r"^Failed requests: +0$", told, re.MULTILINE)
            assert "Non-2xx" not in told
            given.wall_s.append(float(re.findall(r"Time taken for tests: +([0-9.]+)", told)[0]))
        server.terminate()
    given.cpu_s = list(given.wall_s)
    stop(bench)
    yield Result(
        "Boot scripts",
        [*rows, given],
        [
            Goal("a boot script by HTTP (2 000 a second)", 0.5, given.wall / ASKED * 1000, "ms"),
            Goal("files a push rewrites, any fleet", 1, max(rewritten), ""),
            Goal(f"rewrite in a fleet of {FLEETS[-1]}, of that in one of {FLEETS[0]}", 2, rows[-1].wall / rows[0].wall),
        ],
        ["Of the rewrite the time of connecting, reading and writing, in process. CPU is not measured here."],
    )


def main(root: str, rounds: str, *snapshots: str) -> None:
    """Push again and again to a publication with scripts alone; print seconds and the number of files rewritten."""
    from datetime import UTC, datetime

    from statelesskit.config import load_site
    from statelesskit.directory import open_directory
    from statelesskit.directory.authorship import Change
    from statelesskit.publish import artefacts, pointers

    site = load_site(Path(root))
    for name in snapshots:  # a push looks only whether there is one
        folder = artefacts.folder_of(site, name)
        folder.mkdir(parents=True)
        (folder / artefacts.SCRIPT).write_text("#!ipxe\n")
    with open_directory(site) as directory:
        pointers.refresh(site, directory)
        dn = directory.layout.channel("p/stable")
        for number in range(int(rounds)):
            serial = directory.channel("p/stable").serial
            to = snapshots[(number + 1) % 2]
            directory.move_channel(
                "p/stable", serial=serial, to=to, moved_by="bench", moved_at=datetime.now(UTC), record="bench"
            )
            begun = time.perf_counter()
            with open_directory(site) as anew:
                files = pointers.follow(site, anew, {Change("modify", dn)})
            print(time.perf_counter() - begun, len(files))


if __name__ == "__main__":
    main(*sys.argv[1:])
