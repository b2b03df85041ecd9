"""Retention: what is needed never goes, stricter rules never keep more, and deciding again decides the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelesskit.config import Retention
from statelesskit.directory.model import Channel, Client, Group, Report
from statelesskit.errors import UsageError
from statelesskit.names import snapshot_name
from statelesskit.retention import decide, needed_by_fleet, rules_from, stranded
from statelesskit.snapshot import Snapshot

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
counts = st.integers(0, 12)
rules = st.builds(Retention, counts, counts, counts, counts, st.sampled_from([(), ("*T00*",), ("gold*",)]))


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    """Snapshots of up to two prototypes, in their stored order; the clock may go back."""
    found = []
    for prototype in ("desktop", "kiosk")[: draw(st.integers(1, 2))]:
        names: set[str] = set()
        for sequence, hours in enumerate(draw(st.lists(st.integers(0, 24 * 400), max_size=40)), start=1):
            taken_at = BEGIN + timedelta(hours=hours)
            name = snapshot_name(prototype, taken_at, names)
            names.add(name)
            note = draw(st.sampled_from(["", "golden one"]))
            found.append(Snapshot(name, prototype, sequence, taken_at, "root", "", "", 1, 1, 1, note=note))
    return found


def kept(snapshots: list[Snapshot], rule: Retention, needed: dict[str, list[str]] | None = None) -> set[str]:
    return {one.snapshot.name for one in decide(snapshots, rule, needed or {}) if one.reasons}


@given(histories(), rules, st.data())
def test_what_is_needed_stays_and_so_does_the_newest(
    snapshots: list[Snapshot], rule: Retention, data: st.DataObject
) -> None:
    names = [one.name for one in snapshots]
    needed = set(data.draw(st.lists(st.sampled_from(names)))) if names else set()
    stay = kept(snapshots, rule, {name: ["somebody"] for name in needed})
    assert needed <= stay
    assert {one.name for one in snapshots if one == [o for o in snapshots if o.prototype == one.prototype][-1]} <= stay
    assert stay == kept(snapshots, rule) | needed


@given(histories(), rules)
def test_deciding_again_over_what_stayed_lets_nothing_go(snapshots: list[Snapshot], rule: Retention) -> None:
    stay = kept(snapshots, rule)
    assert kept([one for one in snapshots if one.name in stay], rule) == stay


@given(histories(), rules, st.sampled_from(["last", "daily", "weekly", "monthly"]))
def test_a_higher_count_never_keeps_less(snapshots: list[Snapshot], rule: Retention, count: str) -> None:
    if any((rule.last, rule.daily, rule.weekly, rule.monthly)):  # with no rule at all everything stays
        assert kept(snapshots, rule) <= kept(snapshots, replace(rule, **{count: getattr(rule, count) + 1}))


def test_no_rule_keeps_all_and_each_rule_says_why() -> None:
    snapshots = [
        Snapshot(f"d-202601{day:02}T000000Z", "d", day, BEGIN + timedelta(days=day - 1), "root", "", "", 1, 1, 1)
        for day in range(1, 31)
    ]
    assert len(kept(snapshots, Retention())) == 30
    decisions = {one.snapshot.sequence: one.reasons for one in decide(snapshots, Retention(2, 3, 2, 1), {})}
    assert {sequence for sequence, reasons in decisions.items() if reasons} == {25, 28, 29, 30}
    assert decisions[30] == (
        "the newest",
        "one of the last 2",
        "daily of 2026-01-30",
        "weekly of 2026-W05",
        "monthly of 2026-01",
    )
    assert decisions[25] == ("weekly of 2026-W04",)


def test_the_fleet_needs_what_it_points_at_holds_or_lately_ran() -> None:
    now = BEGIN + timedelta(days=200)
    old = now - timedelta(days=91)
    needed = needed_by_fleet(
        [
            Channel("d/stable", "d", "s2", "s1", 2, "", None, None),
            Channel("d/none", "d", None, None, 1, "", None, None),
        ],
        [Client("pinned", "caching", pin="s3"), Client("free", "caching", channel="d/stable")],
        [Group("lab", frozenset(), pin="s4")],
        [Report("pc1", "s5", ("s6",), now), Report("pc2", "s7", ("s8",), old), Report("pc3", "s9", (), None)],
        now=now,
        lease_days=90,
    )
    assert needed == {
        "s1": ["d/stable can roll back to it"],
        "s2": ["d/stable points at it"],
        "s3": ["client pinned is pinned to it"],
        "s4": ["group lab is pinned to it"],
        "s5": ["client pc1 runs it"],
        "s6": ["client pc1 holds it"],
        "s9": ["client pc3 runs it"],
    }
    assert stranded([Report("pc2", "s7", ("s8",), old), Report("pc1", "s5", (), now)], {"s7"}) == ["pc2"]


def test_rules_can_be_written_in_a_line() -> None:
    own = Retention(10, 14, 8, 12, ("gold*",), 30)
    assert rules_from("", own) == own
    assert rules_from("last=5, weekly=2", own) == Retention(last=5, weekly=2, named=("gold*",), lease_days=30)
    for wrong in ("last", "last=-1", "hourly=1", "last=x", "last=²", "lease_days=1"):
        with pytest.raises(UsageError, match="no rule"):
            rules_from(wrong, own)
