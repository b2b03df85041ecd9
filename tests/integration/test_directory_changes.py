"""Clients, groups and channels that change, and the history of channels, against a real slapd."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from statelesskit.config import Site
from statelesskit.directory import (
    Client,
    Directory,
    Group,
    PrototypeEntry,
    assignments,
    open_directory,
    slapd,
)
from statelesskit.directory.groups import add_group, add_members, change_group, group_named, groups_of, remove_members
from statelesskit.directory.groups import remove_group as remove_the_group
from statelesskit.directory.model import Push
from statelesskit.directory.operations import Operations
from statelesskit.directory.pushes import complete_history, pushes, ways_back
from statelesskit.errors import ConflictError, ExistsError, NotFoundError, StatelessError
from tests.integration.test_directory import AT, BASE, LATER, ONE, THREE, TWO, look_up, move, snapshot, tool

pytestmark = pytest.mark.slapd


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from statelesskit.config import FOLDERS, TEMPLATE, load_site
    from tests.conftest import free_port

    root = tmp_path_factory.mktemp("site")
    for name, mode in FOLDERS.items():
        (root / name).mkdir(mode=mode)
    (root / "site.toml").write_text(TEMPLATE.format(format=1, name="test", base_dn=BASE, port=free_port()))
    site = load_site(root)
    slapd.start(site)
    try:
        yield site
    finally:
        slapd.stop(site)


@pytest.fixture
def fleet(running: Site) -> Iterator[Directory]:
    """Three snapshots, a channel, three clients, in a directory that was emptied for each test."""
    with open_directory(running) as directory:
        directory.bootstrap()
        found = sorted(look_up(running, BASE, "dn", "sub"), key=lambda dn: -dn.count(","))
        for dn in found:
            if not dn.startswith("ou="):
                directory.ldap.delete(dn)
        directory.add_prototype(PrototypeEntry("desktop"))
        for name, digit in ((ONE, "1"), (TWO, "2"), (THREE, "3")):
            directory.add_snapshot(snapshot(name, digit))
        directory.add_channel("desktop/stable", ONE, moved_by="anna", moved_at=AT, record="r1")
        for number in (1, 2, 3):
            directory.add_client(Client(f"c{number}", "diskless", (f"52:54:00:00:00:0{number}",)))
        directory.ldap.counts.clear()
        yield directory


# --- clients ---------------------------------------------------------------------------------------


def test_a_client_changes_whole(running: Site, fleet: Directory) -> None:
    before = fleet.client("c1")
    after = Client("c1", "caching", ("52:54:00:00:00:0a", "52:54:00:00:00:01"), "desktop/stable", ONE, "in the hall")
    assert fleet.change_client(before, after) == replace(after, macs=tuple(sorted(after.macs)))
    dn = f"cn=c1,ou=clients,{BASE}"
    assert look_up(running, dn, "skClientMode") == ["caching"]
    assert sorted(look_up(running, dn, "macAddress")) == sorted(after.macs)
    bare = Client("c1", "thick", reference=TWO)
    assert fleet.change_client(fleet.client("c1"), bare) == bare
    assert look_up(running, dn, "skChannelDN") == look_up(running, dn, "macAddress") == []


def test_a_client_that_changed_meanwhile_is_left(fleet: Directory) -> None:
    before = fleet.client("c1")
    fleet.change_client(before, replace(before, note="by another"))
    with pytest.raises(ConflictError, match="client c1 was changed by somebody else"):
        fleet.change_client(before, replace(before, channel="desktop/stable"))
    assert fleet.client("c1") == replace(before, note="by another")


def test_of_two_who_pin_at_once_one_wins(running: Site, fleet: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read the client before either writes, so only the server can tell them apart."""
    before = fleet.change_client(fleet.client("c1"), replace(fleet.client("c1"), pin=ONE))
    both = threading.Barrier(2)
    read = Directory._client_entry

    def read_together(self: Directory, name: str) -> object:
        entry = read(self, name)
        if not self.ldap.counts["modify"]:
            both.wait(timeout=30)
        return entry

    def pin(to: str) -> Client | ConflictError:
        with open_directory(running) as mine:
            try:
                return mine.change_client(before, replace(before, pin=to))
            except ConflictError as error:
                return error

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(Directory, "_client_entry", read_together)
        found = list(pool.map(pin, (TWO, THREE)))
    assert [one for one in found if isinstance(one, Client)] == [fleet.client("c1")]


def test_a_mac_address_of_another_is_not_taken(fleet: Directory) -> None:
    before = fleet.client("c1")
    with pytest.raises(ExistsError, match="52:54:00:00:00:02 belongs to client c2"):
        fleet.change_client(before, replace(before, macs=("52:54:00:00:00:01", "52:54:00:00:00:02"), note="x"))
    assert fleet.client("c1") == before


def test_pointers_others_wrote_can_be_taken_away(running: Site, fleet: Directory) -> None:
    dn = f"cn=c1,ou=clients,{BASE}"
    change = "changetype: modify\nadd: skChannelDN\nskChannelDN: OU=people , dc=elsewhere\n"
    tool(running, "ldapmodify", stdin=f"dn: {dn}\n{change}")
    before = fleet.client("c1")
    assert before.channel is not None
    fleet.change_client(before, replace(before, channel=None, pin=ONE))
    assert (fleet.client("c1").channel, fleet.client("c1").pin) == (None, ONE)


def test_a_removed_client_leaves_nothing(running: Site, fleet: Directory) -> None:
    add_group(fleet, Group("lab", frozenset({"c1", "c2"}), "desktop/stable"))
    tool(running, "ldapadd", stdin=f"dn: cn=status,cn=c1,ou=clients,{BASE}\nobjectClass: skClientStatus\n")
    fleet.remove_client("c1")
    assert look_up(running, BASE, "dn", "sub", "cn=c1") == look_up(running, BASE, "dn", "sub", "cn=status") == []
    assert group_named(fleet, "lab").members == {"c2"}
    with pytest.raises(NotFoundError):
        fleet.remove_client("c1")


# --- groups ----------------------------------------------------------------------------------------


def test_a_group_is_made_filled_emptied_and_removed(running: Site, fleet: Directory) -> None:
    made = add_group(fleet, Group("lab", frozenset(), "desktop/stable", priority=7, note="the lab"))
    assert made == Group("lab", frozenset(), "desktop/stable", priority=7, note="the lab")
    assert add_members(fleet, "lab", ["c1", "c2"]).members == {"c1", "c2"}
    assert add_members(fleet, "lab", ["c2", "c3"]).members == {"c1", "c2", "c3"}
    assert [one.name for one in groups_of(fleet, "c3")] == ["lab"]
    assert {client.name: told.snapshot for client, told in assignments(fleet)} == {"c1": ONE, "c2": ONE, "c3": ONE}
    assert remove_members(fleet, "lab", ["c1", "c2", "c3", "c9"]).members == set()
    assert remove_members(fleet, "lab", ["c1"]).members == set()
    with pytest.raises(ExistsError):
        add_group(fleet, Group("lab", frozenset()))
    remove_the_group(fleet, "lab")
    assert look_up(running, f"ou=groups,{BASE}", "dn", "one") == []
    with pytest.raises(NotFoundError):
        remove_the_group(fleet, "lab")


def test_a_group_changes_and_keeps_its_members(fleet: Directory) -> None:
    before = add_group(fleet, Group("lab", frozenset({"c1"}), "desktop/stable"))
    add_members(fleet, "lab", ["c2"])  # which is no reason for a conflict
    after = change_group(fleet, before, replace(before, channel=None, pin=TWO, priority=3))
    assert after == Group("lab", frozenset({"c1", "c2"}), None, TWO, 3)
    with pytest.raises(ConflictError, match="group lab was changed by somebody else"):
        change_group(fleet, before, replace(before, priority=1))
    assert group_named(fleet, "lab") == after


def test_the_last_member_can_leave_a_group_that_others_made(running: Site, fleet: Directory) -> None:
    entry = f"dn: cn=lab,ou=groups,{BASE}\nobjectClass: groupOfNames\n"
    tool(running, "ldapadd", stdin=f"{entry}member: CN=C1,ou=clients,{BASE}\nmember: cn=hall,ou=groups,{BASE}\n")
    assert group_named(fleet, "lab") == Group("lab", frozenset({"c1"}), nested=frozenset({"hall"}))
    assert remove_members(fleet, "lab", ["c1"]) == Group("lab", frozenset(), nested=frozenset({"hall"}))
    assert remove_members(fleet, "lab", ["hall"]) == Group("lab", frozenset())


# --- the history of channels -----------------------------------------------------------------------


def test_every_serial_has_its_line(running: Site, fleet: Directory) -> None:
    move(fleet, TWO, serial=1)
    move(fleet, ONE, serial=2, by="carla", record="r3")
    assert (
        pushes(fleet, "desktop/stable")
        == pushes(fleet)
        == [
            Push("desktop/stable", 1, None, ONE, "anna", AT, "r1"),
            Push("desktop/stable", 2, ONE, TWO, "ben", LATER, "r2"),
            Push("desktop/stable", 3, TWO, ONE, "carla", LATER, "r3"),
        ]
    )
    assert ways_back(pushes(fleet), ONE) == [TWO]
    (dn,) = look_up(running, f"ou=pushes,{BASE}", "dn", "one", "skSerial=3")
    assert look_up(running, dn, "skSnapshotDN") == [f"cn={ONE},cn=desktop,ou=prototypes,{BASE}"]


def test_a_push_that_loses_its_line_is_a_push_and_gets_it_later(
    fleet: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Operations, *_: object) -> None:
        raise StatelessError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "add", away)
        assert move(fleet, TWO, serial=1).serial == 2
    assert [one.serial for one in pushes(fleet)] == [1]
    assert complete_history(fleet) == ["desktop/stable"]
    assert pushes(fleet)[1] == Push("desktop/stable", 2, ONE, TWO, "ben", LATER, "r2")
    assert complete_history(fleet) == []


def test_of_many_who_push_in_rounds_each_round_has_one_line(running: Site, fleet: Directory) -> None:
    """Whoever wins, the history is whole: every serial once, each from where the one before went."""
    rounds, movers = 6, 6
    begin = threading.Barrier(movers)

    def mover(number: int) -> list[int]:
        won = []
        with open_directory(running) as mine:
            for serial in range(1, rounds + 1):
                begin.wait(timeout=30)
                to = (ONE, TWO, THREE)[(number + serial) % 3]
                with suppress(ConflictError):
                    record = f"r{serial}-{number}"
                    moved = mine.move_channel(
                        "desktop/stable", serial=serial, to=to, moved_by=str(number), moved_at=LATER, record=record
                    )
                    assert (moved.serial, moved.snapshot, moved.record) == (serial + 1, to, record)
                    won.append(serial)
        return won

    with ThreadPoolExecutor(movers) as pool:
        won = [serial for serials in pool.map(mover, range(movers)) for serial in serials]
    assert sorted(won) == list(range(1, rounds + 1))
    lines = pushes(fleet, "desktop/stable")
    assert [one.serial for one in lines] == list(range(1, rounds + 2))
    assert [one.before for one in lines[1:]] == [one.after for one in lines[:-1]]
    assert lines[-1].record == fleet.channel("desktop/stable").record


def test_channels_of_others_do_not_stop_the_history(running: Site, fleet: Directory) -> None:
    odd = "cn=*)(x\\2C,cn=desktop,ou=prototypes,ou=stateless"
    entry = "objectClass: skChannel\nskSerial: 1\nskMovedAt: 20261124000000Z\n"
    tool(
        running,
        "ldapadd",
        stdin=f"dn: {odd}\n{entry}\ndn: {odd.replace('*)(x', 'by-hand')}\n{entry}".replace("by-hand\\2C", "by-hand"),
    )
    assert complete_history(fleet) == ["desktop/by-hand"]
    assert complete_history(fleet) == []


def test_a_name_that_is_used_again_goes_on_counting(fleet: Directory) -> None:
    move(fleet, TWO, serial=1)
    last = fleet.remove_channel("desktop/stable", serial=2, moved_by="carla", moved_at=LATER, record="r3")
    assert (last.serial, last.snapshot, last.previous) == (3, None, TWO)
    assert fleet.channels() == []
    again = fleet.add_channel("desktop/stable", THREE, moved_by="dan", moved_at=LATER, record="r4")
    assert again.serial == 4
    assert [(one.serial, one.after) for one in pushes(fleet, "desktop/stable")] == [
        (1, ONE), (2, TWO), (3, None), (4, THREE),
    ]  # fmt: skip


def test_of_a_push_and_a_removal_at_once_one_wins(fleet: Directory) -> None:
    move(fleet, TWO, serial=1)
    with pytest.raises(ConflictError, match=f"moved by ben .* from {ONE} to {TWO}"):
        fleet.remove_channel("desktop/stable", serial=1, moved_by="carla", moved_at=LATER, record="r3")
    assert fleet.channel("desktop/stable").snapshot == TWO


def test_who_names_a_channel_is_found(fleet: Directory) -> None:
    fleet.change_client(fleet.client("c2"), replace(fleet.client("c2"), channel="desktop/stable"))
    add_group(fleet, Group("lab", frozenset({"c1"}), "desktop/stable"))
    clients, groups = fleet.followers("desktop/stable")
    assert ([one.name for one in clients], [one.name for one in groups]) == (["c2"], ["lab"])


@pytest.mark.parametrize("clients", [3, 60])
def test_a_push_is_two_operations_however_many_follow(fleet: Directory, clients: int) -> None:
    for number in range(4, clients + 1):
        fleet.add_client(Client(f"c{number}", "diskless", channel="desktop/stable"))
    fleet.ldap.counts.clear()
    move(fleet, TWO, serial=1)
    assert {kind: count for kind, count in fleet.ldap.counts.items() if kind != "search"} == {"modify": 1, "add": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: add_group(d, Group("*)(cn=*", frozenset())),
        lambda d: group_named(d, "a,ou=groups"),
        lambda d: add_members(d, "é", ["c1"]),
        lambda d: remove_the_group(d, "a\0b"),
        lambda d: groups_of(d, "*"),
        lambda d: pushes(d, "desktop/*"),
        lambda d: d.followers("*)(cn=*/x"),
        lambda d: d.report_of("c1,ou=clients"),
    ],
)
def test_hostile_names_reach_no_server(fleet: Directory, change: Callable[[Directory], object]) -> None:
    from statelesskit.errors import NameInvalidError

    with pytest.raises(NameInvalidError):
        change(fleet)
    assert fleet.ldap.counts.total() == 0
