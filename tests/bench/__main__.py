"""The jobs of issue-sized claims: take, take again, take after an upgrade, export; small root and large."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.contenders import Bench
from tests.bench.jobs import JOBS
from tests.bench.measure import raise_limits
from tests.bench.roots import large_root, small_roots

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("jobs", nargs="*", help="first, again, upgrade, export (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/statelesskit-bench"))
    parser.add_argument("--large", action="store_true", help="also the root of more than 100 000 files")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    raise_limits()
    bench = Bench(options.work, options.rounds)
    roots = {"small": small_roots(options.work)}
    if options.large:
        roots["large"] = large_root(options.work)
    for name in options.jobs or JOBS:
        for size, (before, after) in roots.items():
            JOBS[name](bench, size, before, after)
    if options.write:
        head = (
            "# Measured against the peers\n\nMade by `script/bench --large --write` on "
            f"{datetime.now(UTC):%Y-%m-%d}, two cores, medians of {options.rounds} rounds in which each ran in turn. "
            'Everything is flushed to the disk before it counts as done. "Of ours" is the peer\'s time over ours.\n'
        )
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs/benchmarks.md").write_text(head + "\n".join(bench.lines) + "\n")


if __name__ == "__main__":
    main()
