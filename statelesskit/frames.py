"""The site as pandas DataFrames, and as tables for notebooks. The one module that imports pandas."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from statelesskit.audit.listing import list_records
from statelesskit.config import Site
from statelesskit.directory import assignments, open_directory
from statelesskit.fleet import fleet_rows
from statelesskit.names import printable
from statelesskit.snapshot import list_snapshots


def snapshots(site: Site) -> pd.DataFrame:
    """All snapshots, one a row, in their stored order."""
    return pd.DataFrame([snapshot.as_json() for snapshot in list_snapshots(site)]).astype(
        {"taken_at": "datetime64[ns, UTC]"} if list_snapshots(site) else {}
    )


def fleet(site: Site) -> pd.DataFrame:
    """All clients, with what each is told to run."""
    with open_directory(site) as directory:
        return pd.DataFrame(fleet_rows(assignments(directory)))


def records(site: Site) -> pd.DataFrame:
    """All records: who did what, when, and how it ended."""
    return pd.DataFrame([asdict(summary) for summary in list_records(site.records)])


ROWS = 200  # a table in a notebook shows no more; the rest is counted


class Shown:
    """Rows as a notebook shows them: a static table that stays in the saved file, every value escaped."""

    def __init__(self, title: str, rows: Iterable[Mapping[str, Any]], notes: Iterable[str] = ()) -> None:
        rows = list(rows)
        more = [f"and {len(rows) - ROWS} more"] if len(rows) > ROWS else []
        self.title, self.notes = printable(title), [printable(note) for note in (*more, *notes)]
        shown = [{printable(name): _cell(value) for name, value in row.items()} for row in rows[:ROWS]]
        self.frame = pd.DataFrame(shown)

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            # JupyterLab aligns the cells of its tables to the right, which suits numbers only.
            table = self.frame.to_html(index=False, escape=True, border=0, classes="statelesskit")
        style = "<style>.statelesskit th, .statelesskit td { text-align: left !important }</style>"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        body = style + table if len(self.frame) else "" if notes else "<p>nothing</p>"
        return f"<h4>{html.escape(self.title)}</h4>{body}" + (f"<ul>{notes}</ul>" if notes else "")

    def __repr__(self) -> str:
        with pd.option_context("display.max_colwidth", None, "display.width", 200):
            table = [self.frame.to_string(index=False)] if len(self.frame) else [] if self.notes else ["nothing"]
        return "\n".join([self.title, *table, *(f"- {note}" for note in self.notes)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value)
