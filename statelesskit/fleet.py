"""The fleet as rows: each client, what it is told to run, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from statelesskit.directory import Assignment, Client, Directory, Group, resolve
from statelesskit.directory.lookup import look_up
from statelesskit.directory.model import Report
from statelesskit.directory.otherwise import otherwise
from statelesskit.directory.resolution import decided_by, groups_by_client
from statelesskit.names import printable


def fleet_rows(
    assigned: Iterable[tuple[Client, Assignment]], reports: Mapping[str, Report] | None = None
) -> list[dict[str, Any]]:
    """Return one row for each client, in the order of their names.

    Args:
        reports: by client; with them each row says what the client says it runs, when it said so, at which
            level, how its boot went, how full its overlay is, and how a client with a reference differs from it.
    """
    return [
        {
            "client": client.name,
            "mode": client.mode,
            "mac": " ".join(client.macs),
            "channel": client.channel,
            "snapshot": assignment.snapshot,
            "because": assignment.because[0] if assignment.because else "",
            **({} if reports is None else _reported(client, assignment, reports.get(client.name))),
        }
        for client, assignment in sorted(assigned, key=lambda pair: pair[0].name)
    ]


def told_by(channel: str, clients: Iterable[Client], groups: Sequence[Group]) -> list[str]:
    """Return the clients that run what a channel says, through their own entry or a group."""
    found, groups_of = [], groups_by_client(groups)
    for client in clients:
        deciding = decided_by(client, groups_of(client.name))[0] if client.mode != "thick" else []
        if len(deciding) == 1 and deciding[0].channel == channel and not deciding[0].pin:
            found.append(client.name)
    return found


def group_rows(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Return one row for each group."""
    return [
        {
            "group": group.name,
            "priority": group.priority,
            "channel": group.channel,
            "pin": group.pin,
            "clients": len(group.members),
            "note": group.note,
        }
        for group in groups
    ]


def reports_by_client(directory: Directory) -> dict[str, Report]:
    """Return what clients last said of themselves, by name."""
    return {report.client: report for report in directory.reports()}


def said(report: Report | None) -> dict[str, Any]:
    """Return what a client last said of itself, but for the snapshot, as rows show it."""
    if report is None:
        return {"seen_at": None, "level": None, "result": None, "overlay_percent": None}
    return {
        "seen_at": report.seen_at.isoformat(timespec="seconds") if report.seen_at else None,
        "level": report.level or None,
        "result": report.result or None,
        "overlay_percent": _percent(report),
    }


def _reported(client: Client, assignment: Assignment, report: Report | None) -> dict[str, Any]:
    running = report.running if report else None
    if report and running and running == assignment.snapshot and report.digest not in ("", assignment.digest):
        running = f"{running} (not as it was taken: {report.digest})"
    return {"running": running, **said(report), "drift": drift(client, report)}


def _percent(report: Report) -> int | None:
    """Return how full the overlay over a client's root is, if it has one and said so."""
    if report.overlay_bytes is None or not report.overlay_limit_bytes:
        return None
    return min(100, 100 * report.overlay_bytes // report.overlay_limit_bytes)


def drift(client: Client, report: Report | None) -> str:
    """Say how what a client reports differs from its reference; "" if it does not, or it has none."""
    if not client.reference:
        return ""
    if report is None or not report.running:
        return f"never said what it runs; its reference is {printable(client.reference)}"
    if report.running == client.reference:
        return ""
    at = f" (said at {report.seen_at:%Y-%m-%dT%H:%M:%SZ})" if report.seen_at else ""
    return f"runs {printable(report.running)}{at}; its reference is {printable(client.reference)}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a client is told to run, and why.

    Attributes:
        otherwise: what would have to change for another answer.
    """

    snapshot: str | None
    digest: str | None
    because: tuple[str, ...]
    otherwise: tuple[str, ...]


def explain_client(directory: Directory, name: str) -> Explanation:
    """Explain one client: the whole chain of reasons, and the ways to another answer.

    Raises:
        NotFoundError: there is no such client.
    """
    found = look_up(directory, [name])
    client = found.clients.get(name) or directory.client(name)  # which says what is wrong with the name
    told = resolve(client, found.channels, found.groups, found.snapshots)
    because = told.because
    if client.reference:
        drifted = drift(client, directory.report_of(name))
        because += (drifted or "it says that it runs its reference",)
    return Explanation(
        told.snapshot, told.digest, because, otherwise(client, found.channels, found.groups, found.snapshots)
    )


def clients_with_groups(directory: Directory) -> list[tuple[Client, list[str]]]:
    """Return every client with the names of the groups it is in, by name."""
    member_of: defaultdict[str, list[str]] = defaultdict(list)
    for group in directory.groups():
        for name in group.members:
            member_of[name].append(group.name)
    return [(client, member_of.get(client.name, [])) for client in directory.clients()]
