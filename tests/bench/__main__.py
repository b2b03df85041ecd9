"""Speed and size against the peers, side by side in one run; results are kept as they come, so a run can go on."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from pathlib import Path

from tests.bench.jobs import JOBS
from tests.bench.measure import raise_limits
from tests.bench.report import page
from tests.bench.results import Bench, Result

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"


def version() -> str:
    """Return what names the code as it is measured: the tree's name in git, and what is changed in it since."""
    there = {"cwd": PAGE.parents[1], "capture_output": True, "text": True, "check": True}
    tree = subprocess.run(["git", "rev-parse", "HEAD:statelesskit"], **there).stdout.strip()
    changed = subprocess.run(["git", "diff", "HEAD", "--", "statelesskit"], **there).stdout
    return tree + (f" {hashlib.sha256(changed.encode()).hexdigest()}" if changed else "")


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"{', '.join(JOBS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/statelesskit-bench"))
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has finished")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md of all that is finished")
    options = parser.parse_args()
    raise_limits()
    kept = options.work / "results.json"
    done = json.loads(kept.read_text()) if kept.exists() else {}
    codes = done.setdefault("measured", {})  # of each job, which code: what an older one reached is measured again
    bench = Bench(options.work, options.rounds)
    code = version()
    for name in options.jobs or JOBS:
        if name in done and codes.get(name) == code and not options.fresh:
            continue
        print(name, flush=True)
        done[name] = [result.as_json() for result in JOBS[name](bench)]
        codes[name] = code
        kept.write_text(json.dumps(done))
    results = [Result.from_json(one) for name in JOBS for one in done.get(name, [])]
    text = page(results, options.work, options.rounds)
    print(text)
    if options.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
