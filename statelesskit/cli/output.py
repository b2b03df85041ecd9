"""What the command line prints: tables, JSON lines, progress. All text from outside is made harmless."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from statelesskit.names import printable
from statelesskit.progress import Progress, pace
from statelesskit.progress import shown as shown_by

BRIEF_S = 0.5  # a stage that took less leaves no line
WIDE = 200  # columns of a table that goes to a file or a pipe


def json_line(value: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own."""
    click.echo(json.dumps(value, sort_keys=True, ensure_ascii=True))


def table(rows: Iterable[Mapping[str, Any]], *, empty: str = "nothing to show") -> None:
    """Print rows of equal keys as a table, in colour when a person looks."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    if not rows:
        click.echo(empty)
        return
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in rows[0]:
        drawn.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(_shown(value)) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else WIDE, highlight=False).print(drawn)


def facts(values: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {_shown(value)}")


def note(text: str) -> None:
    """Tell the person something, on standard error."""
    click.echo(printable_lines(text), err=True)


def findings(found: Iterable[Mapping[str, str]]) -> None:
    """Tell the person what could not be taken, or kept, as it was."""
    for one in found:
        note(f"finding: {one['path'] or '.'}: {one['finding']}")


def printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.splitlines())


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{printable(name)}: {_shown(one)}" for name, one in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "-"
    return printable(value)


class TerminalProgress(Progress):
    """One line for each stage on standard error; on a terminal it counts while it goes on."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._what, self._unit, self._total = "", "", 0
        self._done, self._done_bytes, self._began, self._shown = 0, 0, 0.0, 0.0
        self._total_bytes, self._about = 0, False

    def stage(
        self, what: str, *, total: int | None = None, unit: str = "", total_bytes: int = 0, about: bool = False
    ) -> None:
        self.close()
        self._what, self._unit, self._total = what, unit, total or 0
        self._total_bytes, self._about = total_bytes, about
        self._done, self._done_bytes, self._began, self._shown = 0, 0, time.monotonic(), 0.0
        self._show("")

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        self._done += amount
        self._done_bytes += size_bytes
        if time.monotonic() - self._shown > (0.1 if self._live else 10):
            self._show(self._count())

    def say(self, line: str) -> None:
        if self._live:
            self._show(printable(line)[:60])

    def waiting(self, line: str) -> None:
        self._write(printable(line), end=True)

    def close(self) -> None:
        """End the last stage's line with its count and time, or take it away if it was brief."""
        took_s = time.monotonic() - self._began
        if self._what and took_s < BRIEF_S:
            self._write("", end=False)
        elif self._what:
            took = f"{took_s:.1f} s"
            counted = pace(self._done, 0, self._unit, 0, done_bytes=self._done_bytes) + ", " if self._done else ""
            self._write(f"{self._what}: {counted}{took}", end=True)
        self._what = ""

    def _count(self) -> str:
        return pace(
            self._done,
            self._total,
            self._unit,
            time.monotonic() - self._began,
            done_bytes=self._done_bytes,
            total_bytes=self._total_bytes,
            about=self._about,
        )

    def _show(self, text: str) -> None:
        self._shown = time.monotonic()
        if self._live or text:
            self._write(f"{self._what}… {text}", end=not self._live)

    def _write(self, text: str, *, end: bool) -> None:
        sys.stderr.write(("\r\x1b[K" if self._live else "") + text + ("\n" if end else ""))
        sys.stderr.flush()


@contextmanager
def progress() -> Iterator[Progress]:
    """Show the progress of a block, and finish its last line."""
    terminal = TerminalProgress()
    try:
        with shown_by(terminal):
            yield terminal
    finally:
        terminal.close()
