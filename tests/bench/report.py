"""The page that says what was promised, what was reached, and how it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.contenders import OURS, PACKAGES
from tests.bench.measure import Row
from tests.bench.results import Result

BAR = 30  # characters of the longest


def page(results: list[Result], work: Path, rounds: int) -> str:
    goals = [goal for result in results for goal in result.goals]
    about = (
        f"`script/bench --write` made this page on {datetime.now(UTC):%Y-%m-%d}: {facts(work)}. Medians of up to "
        f"{rounds} rounds (fewer of what is slow, as the tables say), in which each ran in turn, whole commands with "
        "their start unless it says otherwise. Everything is flushed to the disk before it counts as done. The small "
        "root is a Debian root with kernel, of some 15 000 files; the large one is a machine's `/usr` without its "
        "largest files."
    )
    lines = [
        "# Measured against the peers",
        "",
        about,
        "",
        "| goal | at most | reached | |",
        "|---|---|---|---|",
        *(
            f"| {goal.what} | {goal.wanted:g} {goal.unit} | {goal.reached:.2f} {goal.unit} | "
            f"{'met' if goal.met else '**missed**'} |"
            for goal in goals
        ),
    ]
    for result in results:
        lines += ["", f"## {result.title}", "", *table(result.rows), *(["", *result.notes] if result.notes else [])]
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> Iterable[str]:
    if rows[0].amount:
        yield "| | amount | wall s | ms each | CPU s | peak MB | |"
        yield "|---|---|---|---|---|---|---|"
        longest = {row.name: max(one.wall for one in rows if one.name == row.name) for row in rows}
        for row in rows:
            bar = "▇" * max(1, round(BAR * row.wall / longest[row.name]))
            yield (
                f"| {row.name} | {row.amount} | {row.wall:.2f} | {1000 * row.wall / row.amount:.3f} | {row.cpu:.2f} | "
                f"{row.peak_mb:.0f} | {bar} |"
            )
        return
    ours = next((row.wall for row in rows if row.name == OURS), 0.0)
    yield "| | wall s | of ours | CPU s | peak MB | stored MB | rounds |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if row.failed:
            yield f"| {row.name} | {row.failed} | | | | | |"
            continue
        spread = f"{row.wall:.2f} [{min(row.wall_s):.2f}–{max(row.wall_s):.2f}]"
        stored = f"{row.stored_mb:.0f}" if row.stored_mb else ""
        share = f"{row.wall / ours:.2f}" if ours else ""
        yield (
            f"| {row.name} | {spread} | {share} | {row.cpu:.2f} | {row.peak_mb:.0f} | {stored} | {len(row.wall_s)} |"
        )


def facts(work: Path) -> str:
    """Return what a reader must know of the machine and of the peers."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", work], capture_output=True, text=True, check=True).stdout.strip()
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *PACKAGES]
    versions = subprocess.run(query, capture_output=True, text=True, check=True).stdout.rstrip(", ")
    return f"{os.cpu_count()} cores, Linux {platform.release()}, {kind}, Python {platform.python_version()}, {versions}"
