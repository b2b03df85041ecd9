"""Which snapshot a client gets, and what it is told about why."""

from datetime import UTC, datetime

import pytest

from statelesskit.directory import Assignment, Channel, Client, Group, SnapshotEntry, resolve

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
