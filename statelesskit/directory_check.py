"""Is the directory sound: in itself, and held against the site's disk and records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from statelesskit.config import Site
from statelesskit.directory import Directory
from statelesskit.directory.consistency import Finding, Fleet, find_faults, finding, read_fleet
from statelesskit.directory.server import server_findings
from statelesskit.prototype import list_prototypes
from statelesskit.push_records import without_record
from statelesskit.retention import decide, needed_by_fleet
from statelesskit.snapshot import Snapshot, list_snapshots
from statelesskit.snapshot.deleted import deletions
from statelesskit.snapshot.whole import is_partial
from statelesskit.unrecorded import unrecorded_changes

# What else is looked at, each by a module of its own; both get the site and an open directory.
BEYOND: tuple[Callable[[Site, Directory], Iterable[Finding]], ...] = (server_findings, unrecorded_changes)


def check_directory(site: Site, directory: Directory) -> Iterator[Finding]:
    """Yield everything that is not as it should be. Changes nothing.

    Raises:
        DirectoryUnavailableError: it does not answer.
    """
    fleet = read_fleet(directory)
    there = {one.name: one for one in list_snapshots(site)}
    yield from find_faults(fleet, frozenset(one.name for one in deletions(site)))
    yield from _against_disk(site, fleet, there)
    yield from _partial(site, fleet, there)
    yield from _unneeded(site, fleet, list(there.values()))
    yield from without_record(site, fleet.channels.values(), fleet.pushes)
    for more in BEYOND:
        yield from more(site, directory)


def _against_disk(site: Site, fleet: Fleet, there: dict[str, Snapshot]) -> Iterator[Finding]:
    enter = "the next push or `site start` enters it"
    known = {*fleet.prototypes}
    for prototype in list_prototypes(site):
        if prototype.name not in known:
            yield finding("prototype", prototype.name, "is in the site, but not in the directory", enter)
    for name, snapshot in there.items():
        entry = fleet.snapshots.get(name)
        if entry is None:
            yield finding("snapshot", name, "is in the site, but not in the directory", enter)
            continue
        if entry.digest != snapshot.digest:
            yield finding(
                "snapshot", name,
                f"has the digest {entry.digest} in the directory, and {snapshot.digest} in the site",
                f"no client can be told to run it: statelesskit snapshot verify {name}, then restore the wrong one",
            )  # fmt: skip
        if entry.state != snapshot.state:
            yield finding(
                "snapshot", name, f"is {entry.state} in the directory, and {snapshot.state} in the site",
                "the next push or `site start` brings the directory up to date",
            )  # fmt: skip
    for name in fleet.snapshots.keys() - there.keys():
        hint = f"restore it, or statelesskit snapshot delete {name}"
        yield finding("snapshot", name, "is in the directory, but not in the site", hint)


def _partial(site: Site, fleet: Fleet, there: dict[str, Snapshot]) -> Iterator[Finding]:
    """What clients are told to run, and that lacks something."""
    told: dict[str, list[str]] = {}
    for kind, pointing in (("channel", fleet.channels), ("client", fleet.clients), ("group", fleet.groups)):
        for name, one in pointing.items():
            snapshot = one.snapshot if hasattr(one, "snapshot") else one.pin
            if snapshot in there:
                told.setdefault(snapshot, []).append(f"{kind} {name}")
    for snapshot, names in told.items():
        if is_partial(site, snapshot):
            hint = f"statelesskit snapshot verify {snapshot} --repair-from PLACE"
            text = f"is partial, and {names[0]} points at it" + (f", as do {len(names) - 1} more" if names[1:] else "")
            yield finding("snapshot", snapshot, text, hint)


def _unneeded(site: Site, fleet: Fleet, snapshots: list[Snapshot]) -> Iterator[Finding]:
    """What the site's rules let go and nobody needs."""
    from statelesskit.export.registry import registered

    needed = needed_by_fleet(
        fleet.channels.values(),
        fleet.clients.values(),
        fleet.groups.values(),
        fleet.reports,
        now=datetime.now(UTC),
        lease_days=site.retention.lease_days,
    )
    for export in registered(site):
        needed.setdefault(export.snapshot, []).append(f"it is exported at {export.path}")
    for decision in decide(snapshots, site.retention, needed):
        if not decision.reasons:
            text = "is needed by nobody, and no rule keeps it"
            yield finding("snapshot", decision.snapshot.name, text, "statelesskit snapshot collect")
