"""The site as pandas DataFrames, and as tables for notebooks. The one module that imports pandas."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from statelesskit import find
from statelesskit.audit.attested import APPLIED, METADATA
from statelesskit.audit.listing import list_records
from statelesskit.audit.query import COLUMNS, query
from statelesskit.config import Site
from statelesskit.directory import assignments, open_directory
from statelesskit.directory.consistency import Finding
from statelesskit.directory.model import Push
from statelesskit.directory.pushes import pushes
from statelesskit.directory_check import check_directory
from statelesskit.fleet import fleet_rows, reports_by_client
from statelesskit.inventory import inventory
from statelesskit.manifest import Entry
from statelesskit.names import printable
from statelesskit.packages import Package
from statelesskit.snapshot import Snapshot, changes_between, list_snapshots, load, load_manifest

# A time in nanoseconds needs all 64 bits: made a float, as a join with absent rows makes it, it is wrong from
# the ninth digit on. So integers that can be absent are Int64, which knows absence, and nothing is joined.
_ENTRY = {
    "path": "object",
    "type": "category",
    "mode": "Int64",
    "uid": "Int64",
    "gid": "Int64",
    "mtime_ns": "Int64",
    "size": "Int64",
    "sha256": "object",
    "target": "object",
    "major": "Int64",
    "minor": "Int64",
    "link_to": "object",
    "xattrs": "object",
}
_PACKAGE = tuple(item.name for item in fields(Package))


def snapshots(site: Site) -> pd.DataFrame:
    """All snapshots, one a row, in their stored order."""
    found = [snapshot.as_json() for snapshot in list_snapshots(site)]
    frame = pd.DataFrame(found, columns=[item.name for item in fields(Snapshot)])
    integers = ("sequence", "entries", "files", "bytes")
    return frame.astype({"taken_at": "datetime64[ns, UTC]", **dict.fromkeys(integers, "int64")})


def entries(site: Site, snapshot: str) -> pd.DataFrame:
    """A snapshot's files with all the manifest says of them, in path order.

    What a kind of file does not have is absent. Names that are not UTF-8 hold surrogates, as the manifest
    says; ``xattrs`` are dictionaries of bytes.
    """
    return _entry_frame(load_manifest(site, load(site, snapshot)).entries())


def diff(site: Site, before: str, after: str) -> pd.DataFrame:
    """The paths that differ between two snapshots: how, in which fields, and each field before and after."""
    changes = changes_between(site, load(site, before), load(site, after))
    about = pd.DataFrame([change.as_json() for change in changes], columns=["path", "change", "fields"])
    was = _entry_frame(change.before for change in changes).drop(columns="path")
    now = _entry_frame(change.after for change in changes).drop(columns="path")
    about = about.astype({"path": "object", "change": "category"})
    return pd.concat([about, was.add_suffix("_before"), now.add_suffix("_after")], axis="columns")


def packages(site: Site, names: Iterable[str] | None = None) -> pd.DataFrame:
    """The packages of some snapshots, or of all: one row for each snapshot and package."""
    chosen = list_snapshots(site) if names is None else [load(site, name) for name in names]
    rows = [{"snapshot": one.name, **asdict(item)} for one in chosen for item in inventory(site, one).packages]
    frame = pd.DataFrame(rows, columns=["snapshot", *_PACKAGE], dtype="object")
    return frame.astype(dict.fromkeys(("snapshot", "manager", "arch"), "category"))


def which_hold(site: Site, *, path: str = "", sha256: str = "", package: str = "") -> pd.DataFrame:
    """The snapshots that hold a file, a content or a package; :func:`statelesskit.find.which_hold` says how to ask."""
    raw = path.encode("utf-8", "surrogateescape")
    rows = [held.as_json() for held in find.which_hold(site, path=raw, sha256=sha256, package=package)]
    about = _PACKAGE if package else ("path", "type", "size", "sha256")
    frame = pd.DataFrame(rows, columns=["snapshot", "state", *about], dtype="object")
    return frame if package else frame.astype({"size": "Int64"})


def _entry_frame(found: Iterable[Entry | None]) -> pd.DataFrame:
    """Make one row of each entry; all is absent in the row of one that is absent."""
    rows = [entry.fields() | _defaults(entry) if entry else {} for entry in found]
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=kind) for name, kind in _ENTRY.items()})


def _defaults(entry: Entry) -> dict[str, Any]:
    """Return what a manifest leaves out, and the attributes as bytes."""
    if entry.type == "link":
        return {}
    attributes = {name.decode("utf-8", "surrogateescape"): value for name, value in entry.xattrs}
    same = {name: getattr(entry, name) for name in ("mode", "uid", "gid", "mtime_ns")}
    return {**same, "xattrs": attributes}


def fleet(site: Site) -> pd.DataFrame:
    """All clients, with what each is told to run, and what it says it runs."""
    with open_directory(site) as directory:
        return pd.DataFrame(fleet_rows(assignments(directory), reports_by_client(directory)))


def push_history(site: Site) -> pd.DataFrame:
    """All moves of all channels: who, when, from what to what, by which record."""
    with open_directory(site) as directory:
        return pd.DataFrame([asdict(one) for one in pushes(directory)], columns=[item.name for item in fields(Push)])


def directory_findings(site: Site) -> pd.DataFrame:
    """What ``directory check`` finds; no row means that the directory is sound."""
    with open_directory(site) as directory:
        found = [asdict(one) for one in check_directory(site, directory)]
    return pd.DataFrame(found, columns=[item.name for item in fields(Finding)])


def audit(site: Site) -> pd.DataFrame:
    """What happened: who, when, what, to which object, from what to what, outcome and duration, one row a record."""
    frame = pd.DataFrame(query(site.records), columns=list(COLUMNS))
    times = {"began_at": "datetime64[ns, UTC]", "ended_at": "datetime64[ns, UTC]"}
    return frame.astype({**times, "duration_s": "float64", "exit_code": "Int64"})


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


class Applied(Shown):
    """What an action did, shown; the saved output says it for the auditor's machine, too: see ``audit.attested``."""

    def __init__(self, title: str, rows: Iterable[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        super().__init__(title, rows)
        self._claim = {METADATA: {APPLIED: dict(result)}}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        return {"text/html": self._repr_html_(), "text/plain": repr(self)}, self._claim


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value)
