"""Which snapshots stay and which may go: pure decisions over what is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import groupby

from statelesskit.config import Retention
from statelesskit.directory.model import Channel, Client, Group, Report
from statelesskit.errors import UsageError
from statelesskit.names import printable
from statelesskit.snapshot import Snapshot

PERIODS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m"}  # by the day it was taken, UTC


def rules_from(text: str, own: Retention) -> Retention:
    """Return the rules that are written as ``last=5,daily=7``: what is not named there is 0; none at all is ``own``.

    Raises:
        UsageError: that is no such list.
    """
    counts = {}
    for part in filter(None, text.replace(",", " ").split()):
        name, _, count = part.partition("=")
        if name not in ("last", *PERIODS) or not count.isdecimal() or not count.isascii():
            raise UsageError(
                f"{printable(part)!r} is no rule for what is kept",
                hint="write last, daily, weekly or monthly with a count each: last=5,daily=7",
            )
        counts[name] = int(count)
    return Retention(named=own.named, lease_days=own.lease_days, **counts) if counts else own


@dataclass(frozen=True, slots=True)
class Decision:
    """One snapshot, and why it stays; without a reason it goes."""

    snapshot: Snapshot
    reasons: tuple[str, ...]


def decide(snapshots: Sequence[Snapshot], rules: Retention, needed: Mapping[str, Iterable[str]]) -> list[Decision]:
    """Decide over snapshots, which come in their stored order.

    Args:
        needed: for names of snapshots, why they stay whatever the rules say.
    """
    found = []
    for _, group in groupby(snapshots, key=lambda one: one.prototype):
        own = list(group)
        reasons = _by_rules(own, rules)
        found += [Decision(one, tuple(dict.fromkeys([*needed.get(one.name, ()), *reasons[one.name]]))) for one in own]
    return found


def _by_rules(snapshots: list[Snapshot], rules: Retention) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {one.name: [] for one in snapshots}
    newest_first = snapshots[::-1]
    reasons[newest_first[0].name].append("the newest")
    if not any((rules.last, rules.daily, rules.weekly, rules.monthly)):
        for one in snapshots:
            reasons[one.name].append("no rule lets any go")
    for one in newest_first[: rules.last]:
        reasons[one.name].append(f"one of the last {rules.last}")
    for period, form in PERIODS.items():
        left, last = getattr(rules, period), ""
        for one in newest_first:
            when = one.taken_at.astimezone(UTC).strftime(form)
            if left and when != last:
                reasons[one.name].append(f"{period} of {when}")
                left, last = left - 1, when
    for one in snapshots:
        reasons[one.name] += [
            f"named by {pattern}"
            for pattern in rules.named
            if fnmatchcase(one.name, pattern) or fnmatchcase(one.note, pattern)
        ]
    return reasons


def needed_by_fleet(
    channels: Iterable[Channel],
    clients: Iterable[Client],
    groups: Iterable[Group],
    reports: Iterable[Report],
    *,
    now: datetime,
    lease_days: int,
) -> dict[str, list[str]]:
    """Return, for names of snapshots, who in the fleet needs each."""
    needed: dict[str, list[str]] = {}

    def need(snapshot: str | None, reason: str) -> None:
        if snapshot:
            needed.setdefault(snapshot, []).append(reason)

    for channel in channels:
        need(channel.snapshot, f"{channel.name} points at it")
        need(channel.previous, f"{channel.name} can roll back to it")
    for client in clients:
        need(client.pin, f"client {client.name} is pinned to it")
        need(client.reference, f"client {client.name} is compared with it")
    for group in groups:
        need(group.pin, f"group {group.name} is pinned to it")
    since = now - timedelta(days=lease_days)
    for report in reports:
        # A report without a time cannot be shown to be old.
        if report.seen_at is None or report.seen_at >= since:
            need(report.running, f"client {report.client} runs it")
            for cached in report.cached:
                need(cached, f"client {report.client} holds it")
    return needed


def stranded(reports: Iterable[Report], gone: set[str]) -> list[str]:
    """Return the clients that last said they run one of those snapshots, so long ago that it no longer counts."""
    return sorted(report.client for report in reports if report.running in gone)
