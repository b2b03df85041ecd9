"""Speed and size against the peers, side by side in one run; results are kept as they come, so a run can go on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.bench.jobs import JOBS, Bench, Result
from tests.bench.measure import raise_limits
from tests.bench.report import page

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"


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
    bench = Bench(options.work, options.rounds)
    for name in options.jobs or JOBS:
        if name in done and not options.fresh:
            continue
        print(name, flush=True)
        done[name] = [result.as_json() for result in JOBS[name](bench)]
        kept.write_text(json.dumps(done))
    results = [Result.from_json(one) for name in JOBS for one in done.get(name, [])]
    text = page(results, options.work, options.rounds)
    print(text)
    if options.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
