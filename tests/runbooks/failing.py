"""A script: runs a notebook through papermill and our engine, and lets something happen while its record is saved.

    python failing.py '{"input": …, "output": …, "options": {…}, "saving": "pause"|"memory"|…,
                       "pause": SECONDS, "marks": FOLDER}'

The moment is the first write of the record's notebook after the trial cell, between the file and its name.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import papermill

from statelesskit import fs
from statelesskit.runbook.launch import RunEnded


def main(given: dict[str, object]) -> int:
    marks = Path(str(given["marks"]))
    rename = fs.rename

    def renamed(source: Path, target: Path) -> None:
        if target.name == "record.ipynb" and (marks / "ended").exists() and not (marks / "saving").exists():
            (marks / "saving").touch()
            if given["saving"] == "pause":
                time.sleep(float(str(given["pause"])))
            happen(str(given["saving"]))
        rename(source, target)
        if given["saving"] == "full" and (marks / "saving").exists():
            fill(marks.parent / "disk/site")  # each time: what was replaced had made room

    fs.rename = renamed
    try:
        papermill.execute_notebook(
            given["input"], given["output"], {"prototype": "desktop"}, engine_name="statelesskit",
            progress_bar=False, **dict(given["options"]),  # type: ignore[call-overload]
        )  # fmt: skip
    except RunEnded as ended:
        print(ended)
        return ended.exit_code
    return 0


def happen(what: str) -> None:
    if what == "memory":
        raise MemoryError
    if what == "exception":
        raise RuntimeError("while saving")
    if what == "exit":
        sys.exit(0)


def fill(site: Path) -> None:
    """Fill the site's disk to the last byte."""
    with (site / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"0" * size) == size:
                    pass
            except OSError:
                continue


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
