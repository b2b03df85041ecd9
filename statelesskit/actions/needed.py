"""What the fleet needs, asked of the directory and of the site's exports: the base of every deletion."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from statelesskit.config import Site
from statelesskit.errors import DirectoryUnavailableError

if TYPE_CHECKING:
    from statelesskit.directory import Directory
    from statelesskit.directory.model import Report


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who needs which snapshot.

    Attributes:
        needed: for names of snapshots, who needs each.
        entered: the names the directory knows.
        ways_back: for names of channels, the snapshots each pointed at before, the last first.
    """

    needed: dict[str, list[str]]
    entered: frozenset[str]
    reports: tuple[Report, ...]
    ways_back: dict[str, list[str]]


def look_at_fleet(site: Site) -> Fleet:
    """Ask the directory.

    Raises:
        DirectoryUnavailableError: it is away; nothing may be deleted, as nobody knows what is needed.
    """
    from statelesskit.directory import open_directory
    from statelesskit.directory.pushes import pushes
    from statelesskit.export.registry import registered
    from statelesskit.push_history import earlier
    from statelesskit.retention import needed_by_fleet

    try:
        with open_directory(site) as directory:
            channels, reports = directory.channels(), directory.reports()
            needed = needed_by_fleet(
                channels,
                directory.clients(),
                directory.groups(),
                reports,
                now=datetime.now(UTC),
                lease_days=site.retention.lease_days,
            )
            entered = frozenset(entry.name for entry in directory.snapshots())
            history = pushes(directory)
    except DirectoryUnavailableError as error:
        raise DirectoryUnavailableError(
            f"only the directory knows which snapshots are needed, so none is deleted: {error.message}",
            hint=error.hint,
        ) from error
    for export in registered(site):
        needed.setdefault(export.snapshot, []).append(f"it is exported at {export.path}")
    return Fleet(needed, entered, tuple(reports), {one.name: earlier(one, history) for one in channels})


def came_to_be_needed(site: Site, directory: Directory, name: str) -> list[str]:
    """Return who needs one snapshot, quickly, when :func:`look_at_fleet` has just said that nobody does."""
    from statelesskit.export.registry import registered
    from statelesskit.retention import needed_by_fleet

    found = directory.pointing_at(name)
    needed = needed_by_fleet(*found, now=datetime.now(UTC), lease_days=site.retention.lease_days)
    return [
        *needed.get(name, []),
        *(f"it is exported at {one.path}" for one in registered(site) if one.snapshot == name),
    ]
