"""Who takes part: this tool and its peers, each flushed to the disk before it counts as done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench.measure import Contender
from tests.conftest import free_port

CLI = f"{sys.executable} -m statelesskit"


class Bench:
    """A work folder with the trees, and each peer's repository in it."""

    def __init__(self, work: Path, rounds: int) -> None:
        self.work, self.rounds = work, rounds
        self.lines: list[str] = []

    def fresh(self, name: str) -> Path:
        path = self.work / "repos" / name
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def report(self, title: str, contenders: list[Contender], goals: str) -> None:
        ours = contenders[0]
        print(f"\n{title}", flush=True)
        rows = [
            "",
            f"### {title}",
            "",
            goals,
            "",
            "| | wall s | of ours | CPU s | peak MB | stored MB |",
            "|---|---|---|---|---|---|",
        ]
        for one in contenders:
            spread = f"{one.wall:.2f} [{min(one.wall_s):.2f}–{max(one.wall_s):.2f}]"
            stored = f"{one.stored_mb:.0f}" if one.size else ""
            rows.append(
                f"| {one.name} | {spread} | {one.wall / ours.wall:.2f} | {one.cpu:.2f} | {one.peak_mb:.0f} | {stored} |"
            )
        print("\n".join(rows[5:]), flush=True)
        self.lines += rows


def peers(bench: Bench, tree: Path) -> list[Contender]:
    """The deduplicating stores, each flushed to the disk as ours is."""
    repos = bench.work / "repos"
    borg, restic, ostree, casync = (repos / name for name in ("borg", "restic", "ostree", "casync"))
    env = f"export HOME={bench.work} BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes RESTIC_PASSWORD=x; "

    def init(name: str, command: str) -> Callable[[], None]:
        def run() -> None:
            path = bench.fresh(name)
            path.mkdir()
            shutil.rmtree(bench.work / ".cache", ignore_errors=True)
            subprocess.run(["/bin/sh", "-ec", env + command], check=True, capture_output=True)

        return run

    return [
        Contender(
            "restic", f"{env} restic -q -r {restic} backup {tree}",
            init("restic", f"restic -q init -r {restic}"), restic,
        ),
        Contender(
            "borg", f"{env} borg create -C zstd,3 {borg}::{{utcnow:%f}} {tree}",
            init("borg", f"borg init -e none {borg}"), borg,
        ),
        Contender(
            "ostree archive", f"ostree --repo={ostree} commit -b x --no-bindings {tree} >/dev/null",
            init("ostree", f"ostree --repo={ostree} init --mode=archive"), ostree,
        ),
        Contender(
            "casync", f"casync make --with=all --without=privileged --exclude-submounts=yes --cache-auto "
            f"--store={casync}/s {casync}/x.caidx {tree} && sync -f {casync}",
            init("casync", f"mkdir -p {casync}/s"), casync,
        ),
    ]  # fmt: skip


def site_for(bench: Bench, tree: Path) -> Callable[[], None]:
    def make() -> None:
        path = bench.fresh("site")
        for words in (f"site init --name bench --port {free_port()}", f"prototype create p --from at:{tree}"):
            subprocess.run(f"{CLI} --site {path} {words}", shell=True, check=True, capture_output=True)

    return make


def ours(bench: Bench, before: Callable[[], None], command: str) -> Contender:
    site = bench.work / "repos/site"
    return Contender("statelesskit", f"{CLI} --site {site} {command} 2>/dev/null", before, site / "store")
