"""Which snapshot a client gets, and what it is told about why."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelesskit.directory import Assignment, Channel, Client, Group, SnapshotEntry, resolve
from statelesskit.directory.otherwise import otherwise
from statelesskit.directory.resolution import groups_by_client

AT = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
ONE, TWO, BAD = "desktop-20261101T000000Z", "desktop-20261102T000000Z", "desktop-20261103T000000Z"


def snapshot(name: str, state: str = "released") -> SnapshotEntry:
    return SnapshotEntry(name, "desktop", f"sha256:{name}", state, AT)


def channel(name: str, to: str | None, by: str = "anna") -> Channel:
    return Channel(name, "desktop", to, None, 2, by, AT if by else None, "r1" if by else None)


SNAPSHOTS = {one.name: one for one in (snapshot(ONE), snapshot(TWO, "staged"), snapshot(BAD, "revoked"))}
CHANNELS = {
    one.name: one
    for one in (
        channel("desktop/stable", ONE),
        channel("desktop/testing", TWO),
        channel("desktop/same", ONE),
        channel("desktop/empty", None),
        channel("desktop/bad", BAD),
        channel("desktop/dangling", "desktop-20000101T000000Z"),
        channel("desktop/by-hand", ONE, by=""),
    )
}


def ask(client: Client, *groups: Group) -> Assignment:
    return resolve(client, CHANNELS, groups, SNAPSHOTS)


def group(name: str, channel: str | None = None, pin: str | None = None, priority: int = 10) -> Group:
    return Group(name, frozenset({"c1"}), channel, pin, priority)


def client(channel: str | None = None, pin: str | None = None, mode: str = "diskless") -> Client:
    return Client("c1", mode, channel=channel, pin=pin)


POINTS = f"channel desktop/stable points at {ONE} (serial 2, moved by anna at 2026-11-23T07:30:00Z, record r1)"


@pytest.mark.parametrize(
    ("who", "groups", "expected", "because"),
    [
        (client("desktop/stable"), [], ONE, ["c1 follows channel desktop/stable (client entry)", POINTS]),
        (client("desktop/stable", TWO), [], TWO, [f"c1 is pinned to {TWO} (client entry)"]),
        (client("desktop/stable"), [group("lab", "desktop/testing")], ONE, ["c1 follows", "channel desktop/stable"]),
        (
            client(),
            [group("lab", "desktop/stable")],
            ONE,
            ["c1 is in group lab, which follows channel desktop/stable (priority 10)", POINTS],
        ),
        (
            client(),
            [group("lab", "desktop/stable", priority=20), group("vip", pin=TWO, priority=5)],
            TWO,
            ["group vip"],
        ),
        (client(), [group("lab", "desktop/stable", pin=TWO)], TWO, [f"pinned to {TWO} (priority 10)"]),
        (client(), [group("a", "desktop/stable"), group("b", "desktop/stable")], ONE, ["group a", POINTS]),
        (client(), [group("idle", priority=1), group("lab", "desktop/stable")], ONE, ["group lab", POINTS]),
        (client(), [Group("other", frozenset({"c2"}), "desktop/stable", priority=1)], None, ["it does not boot"]),
        (client(), [], None, ["c1 has no pin and no channel, and is in no group with one: it does not boot from us"]),
        (client("desktop/empty"), [], None, ["c1 follows", "points at no snapshot yet"]),
        (client("desktop/none"), [], None, ["c1 follows", "there is no channel desktop/none in the directory"]),
        (client("desktop/dangling"), [], None, ["", "", "there is no snapshot desktop-20000101T000000Z in the"]),
        (client("desktop/bad"), [], None, ["", "", f"snapshot {BAD} is revoked, so it is not given out"]),
        (client("desktop/stable", BAD), [], None, ["pinned", "revoked"]),
        (client("desktop/by-hand"), [], ONE, ["", "(serial 2, no record)"]),
        (client("desktop/stable", mode="thick"), [], None, ["c1 is thick: it has its own installation"]),
    ],
)
def test_resolution(who: Client, groups: list[Group], expected: str | None, because: list[str]) -> None:
    found = ask(who, *groups)
    assert found.snapshot == expected
    assert found.digest == (f"sha256:{expected}" if expected else None)
    assert len(found.because) == len(because)
    for sentence, part in zip(found.because, because, strict=True):
        assert part in sentence


def test_equal_groups_that_disagree_give_nothing_though_they_point_at_the_same_today() -> None:
    found = ask(client(), group("b", "desktop/same"), group("a", "desktop/stable"))
    assert found.snapshot is None
    claims = "a follows channel desktop/stable; b follows channel desktop/same"
    assert found.because == (f"c1 is in groups of equal priority 10 that disagree: {claims}",)


def test_a_dangling_pin_does_not_fall_through_to_the_channel() -> None:
    found = ask(client("desktop/stable", "desktop-20000101T000000Z"))
    assert found.snapshot is None


def test_hostile_text_is_made_visible() -> None:
    found = resolve(Client("c1\x1b[2J\n", "diskless", channel="x\x07"), {}, (), {})
    assert found.snapshot is None
    assert all(sentence.isprintable() for sentence in found.because)


# --- nested groups --------------------------------------------------------------------------------


def nest(name: str, inner: str, channel: str | None = None, priority: int = 5) -> Group:
    return Group(name, frozenset(), channel, priority=priority, nested=frozenset({inner}))


@pytest.mark.parametrize(
    ("groups", "expected", "says"),
    [
        # Where the outer one would decide nobody knows what was meant.
        (
            [group("lab"), nest("hall", "lab", "desktop/stable")],
            None,
            "c1 is in group lab, which is itself a member of",
        ),
        ([group("lab", "desktop/testing"), nest("hall", "lab", "desktop/stable")], None, "nested groups are not"),
        # Where it would not, it changes nothing.
        ([group("lab", "desktop/testing"), nest("hall", "lab", "desktop/stable", 20)], TWO, "c1 is in group lab"),
        ([group("lab", "desktop/testing"), nest("hall", "lab")], TWO, "c1 is in group lab"),
        ([group("lab", "desktop/stable"), nest("hall", "lab", "desktop/stable")], ONE, "c1 is in group lab"),
        ([group("lab", "desktop/stable"), nest("hall", "other", "desktop/testing")], ONE, "c1 is in group lab"),
        ([Group("hall", frozenset({"c1"}), "desktop/stable", nested=frozenset({"lab", "hall"}))], ONE, "group hall"),
    ],
)
def test_nested_groups_are_not_followed(groups: list[Group], expected: str | None, says: str) -> None:
    found = ask(client(), *groups)
    assert found.snapshot == expected
    assert says in found.because[0]


def test_its_own_channel_comes_before_nested_groups() -> None:
    assert ask(client("desktop/stable"), group("lab"), nest("hall", "lab", "desktop/testing")).snapshot == ONE


# --- what would have to change ----------------------------------------------------------------------


def ways(who: Client, *groups: Group) -> list[str]:
    return list(otherwise(who, CHANNELS, groups, SNAPSHOTS))


@pytest.mark.parametrize(
    ("who", "groups", "says"),
    [
        (client("desktop/stable", TWO), [], f"its pin (statelesskit client unpin c1) it would run {ONE}"),
        (
            client("desktop/stable"),
            [],
            "for all who follow desktop/stable: statelesskit push apply desktop/stable SNAP",
        ),
        (client("desktop/stable"), [], f"client change c1 --channel desktop/same; it would run {ONE}"),
        (client("desktop/stable"), [], "--clear channel) it would run nothing: c1 has no pin"),
        (client("desktop/stable"), [group("lab", pin=TWO)], f"--clear channel) it would run {TWO}"),
        (client("desktop/none"), [], f"to make the channel it follows: statelesskit channel create desktop/none {TWO}"),
        (client("desktop/bad"), [], f"something to run: statelesskit push apply desktop/bad {TWO}"),
        (client("desktop/empty"), [], f"something to run: statelesskit push apply desktop/empty {TWO}"),
        (client(), [group("lab", "desktop/stable")], "(statelesskit group remove lab c1) it would run nothing"),
        (
            client(),
            [group("a", "desktop/stable"), group("b", "desktop/testing")],
            f"the tie ends when b comes first (statelesskit group change b --priority 9): it would run {TWO}",
        ),
        (
            client(),
            [group("lab"), nest("hall", "lab", "desktop/stable")],
            "(statelesskit group remove hall lab) it would run nothing",
        ),
        (client(mode="thick"), [], "client change c1 --mode caching) it would run nothing"),
        (client(), [], "client pin c1 SNAPSHOT"),
        (Client("c 1\n", "diskless", pin=ONE), [], r"statelesskit client unpin 'c 1\n'"),
    ],
)
def test_the_ways_to_another_answer(who: Client, groups: list[Group], says: str) -> None:
    found = ways(who, *groups)
    assert any(says in way for way in found), found
    assert all(way.isprintable() for way in found)


MODES = st.sampled_from(["diskless", "caching", "live", "thick"])
CHANNEL = st.sampled_from([None, *CHANNELS, "desktop/none"])
PIN = st.sampled_from([None, *SNAPSHOTS, "desktop-20000101T000000Z"])
GROUPS = st.lists(
    st.builds(
        Group,
        st.sampled_from(["a", "b", "c"]),
        st.frozensets(st.sampled_from(["c1", "c2"])),
        CHANNEL,
        PIN,
        st.integers(1, 2),
        nested=st.frozensets(st.sampled_from(["a", "b", "c"])),
    ),
    unique_by=lambda one: one.name,
)


@given(st.builds(Client, st.just("c1"), MODES, channel=CHANNEL, pin=PIN), GROUPS)
def test_any_fleet_has_an_answer_and_a_way_to_another(who: Client, groups: list[Group]) -> None:
    found = ask(who, *groups)
    assert (found.snapshot is None) == (found.digest is None)
    assert found.because
    if found.snapshot:
        assert SNAPSHOTS[found.snapshot].state != "revoked"
    if who.mode == "thick":
        assert found.snapshot is None
    elif who.pin:
        assert found.snapshot in (who.pin, None)
    assert ways(who, *groups)
    # A group that neither has the client nor one of its groups has no say.
    without = [one for one in groups if "c1" in one.members or any(
        other.name in one.nested and "c1" in other.members for other in groups)]  # fmt: skip
    assert ask(who, *without) == found
    assert ask(who, *groups_by_client(groups)(who.name)) == found
