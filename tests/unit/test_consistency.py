"""What the check of a directory names, fault by fault, over fleets made up here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelesskit.directory import Channel, Client, Group, PrototypeEntry, SnapshotEntry
from statelesskit.directory.consistency import Fleet, find_faults
from statelesskit.directory.model import Push

AT = datetime(2026, 11, 23, tzinfo=UTC)
ONE, TWO, GONE = "desktop-20261101T000000Z", "desktop-20261102T000000Z", "desktop-20200101T000000Z"
OTHER = "server-20261101T000000Z"
STABLE = "desktop/stable"
SOUND = Fleet(
    prototypes={name: PrototypeEntry(name) for name in ("desktop", "server")},
    snapshots={
        name: SnapshotEntry(name, name.partition("-")[0], "sha256:" + "0" * 64, "released", AT)
        for name in (ONE, TWO, OTHER)
    },
    channels={STABLE: Channel(STABLE, "desktop", TWO, ONE, 3, "anna", AT, "r3")},
    clients={
        "c1": Client("c1", "diskless", ("52:54:00:00:00:01",), STABLE),
        "c2": Client("c2", "live", ("52:54:00:00:00:02",)),
        "t1": Client("t1", "thick", reference=ONE),
    },
    groups={"lab": Group("lab", frozenset({"c2"}), STABLE, priority=5)},
    reports=(),
    pushes=(Push(STABLE, 2, None, ONE, "anna", AT, "r2"), Push(STABLE, 3, ONE, TWO, "anna", AT, "r3")),
)


def faults(fleet: Fleet, *deleted: str) -> list[tuple[str, str]]:
    return [(one.object, one.finding) for one in find_faults(fleet, frozenset(deleted))]


def changed(kind: str, one: Client | Group | Channel | SnapshotEntry) -> Fleet:
    return replace(SOUND, **{kind: {**getattr(SOUND, kind), one.name: one}})


def test_a_sound_fleet_has_no_faults() -> None:
    assert faults(SOUND) == []


C1, C2, LAB, CHANNEL = SOUND.clients["c1"], SOUND.clients["c2"], SOUND.groups["lab"], SOUND.channels[STABLE]


@pytest.mark.parametrize(
    ("fleet", "about", "says"),
    [
        (changed("clients", replace(C1, macs=("5254.0000.0002",))), "address 52:54:00:00:00:02", "2 clients: c1, c2"),
        (changed("clients", replace(C1, macs=("52-54-00-00-00-02",))), "address 52:54:00:00:00:02", "2 clients"),
        (
            changed("clients", replace(C1, macs=("x\x1b[2J",))),
            "client c1",
            r"has the MAC address x\x1b[2J, which is none",
        ),
        (changed("clients", replace(C1, channel="desktop/none")), "client c1", "follows desktop/none, which is no"),
        (changed("clients", replace(C1, pin=GONE)), "client c1", f"is pinned to {GONE}, which is not there"),
        (changed("clients", Client("c3", "live")), "client c3", "has nothing to run: c3 has no pin"),
        (changed("clients", Client("C3", "thick")), "client C3", "has a name that none of ours can be"),
        (changed("clients", Client("t1", "thick", reference=GONE)), "client t1", f"is compared with {GONE}"),
        (changed("groups", replace(LAB, members=frozenset({"c9"}))), "group lab", "has the member c9, which is no"),
        (
            changed("groups", Group("a", frozenset({"c2"}), pin=ONE, priority=5)),
            "client c2",
            "groups of equal priority 5",
        ),
        (changed("groups", Group("a", frozenset(), nested=frozenset({"lab"}))), "group a", "has the group lab as a"),
        (
            changed("groups", replace(LAB, strangers=frozenset({"o=x"}))),
            "group lab",
            "has the member o=x, which is neither",
        ),
        (changed("channels", replace(CHANNEL, snapshot=None)), f"channel {STABLE}", "points at no snapshot"),
        (changed("channels", replace(CHANNEL, snapshot=GONE)), f"channel {STABLE}", f"points at {GONE}, which is not"),
        (changed("channels", replace(CHANNEL, snapshot=OTHER)), f"channel {STABLE}", "of another prototype"),
        (changed("channels", replace(CHANNEL, previous=GONE)), f"channel {STABLE}", f"pointed at {GONE} before"),
        (changed("channels", replace(CHANNEL, snapshot=ONE)), f"channel {STABLE}", f"its history says {TWO}"),
        (changed("channels", replace(CHANNEL, record="r9")), f"channel {STABLE}", f"its history says {TWO}"),
        (changed("channels", replace(CHANNEL, serial=2)), f"channel {STABLE}", "is at serial 2, and was at 3"),
        (changed("channels", replace(CHANNEL, serial=10)), f"channel {STABLE}", "for serial 4, 5, 6, 7, 8 and 1 more"),
        (changed("snapshots", replace(SOUND.snapshots[TWO], state="revoked")), f"channel {STABLE}", "which is revoked"),
        (
            changed("snapshots", replace(SOUND.snapshots[TWO], parent=GONE)),
            f"snapshot {TWO}",
            f"was taken after {GONE}",
        ),
        (replace(SOUND, channels={}), f"channel {STABLE}", "has a history, but is not there"),
        (replace(SOUND, prototypes={}), f"channel {STABLE}", "is one of desktop, which is no prototype here"),
        (replace(SOUND, pushes=()), f"channel {STABLE}", "has no line in its history for serial 3"),
        (
            replace(SOUND, pushes=(Push(STABLE, 2, GONE, ONE, "a", AT, "r"), SOUND.pushes[1])),
            f"push {STABLE} serial 2",
            GONE,
        ),
    ],
)
def test_every_fault_is_named(fleet: Fleet, about: str, says: str) -> None:
    found = faults(fleet)
    assert any(one == about and says in text for one, text in found), found
    assert all(text.isprintable() for row in found for text in row)


def test_what_was_deleted_in_good_order_is_no_fault() -> None:
    fleet = changed("snapshots", replace(SOUND.snapshots[TWO], parent=GONE))
    fleet = replace(fleet, pushes=(Push(STABLE, 2, GONE, ONE, "a", AT, "r"), SOUND.pushes[1]))
    assert faults(fleet, GONE) == []
    gone = Push("desktop/old", 7, ONE, None, "anna", AT, "r7")
    assert faults(replace(SOUND, pushes=(*SOUND.pushes, gone))) == []


@given(st.text(), st.text(), st.text(), st.integers())
def test_hostile_text_breaks_nothing(name: str, pointer: str, mac: str, serial: int) -> None:
    client = Client(name, pointer, (mac,), pointer, name)
    group = Group(
        name, frozenset({pointer}), pointer, None, serial, nested=frozenset({name}), strangers=frozenset({mac})
    )
    channel = Channel(name, pointer, pointer, name, serial, mac, None, None)
    push = Push(name, serial // 2, pointer, mac, name, None, None)
    fleet = Fleet({}, {}, {name: channel}, {name: client}, {name: group}, (), (push,))
    for one in find_faults(fleet, frozenset()):
        assert (one.object + one.finding + one.hint).isprintable()
