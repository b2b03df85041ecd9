"""The directory with many clients, many pushers and hostile text, on a real slapd."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ldap3.core.exceptions import LDAPCommunicationError
from ldap3.utils.conv import escape_filter_chars

from statelesskit.clients import discovered
from statelesskit.clients.changes import Change, Changes, make
from statelesskit.config import Site
from statelesskit.directory import (
    Channel,
    Client,
    Directory,
    Group,
    PrototypeEntry,
    SnapshotEntry,
    assignments,
    open_directory,
    wire,
)
from statelesskit.directory.groups import add_group
from statelesskit.directory.lookup import look_up
from statelesskit.directory.mapping import TEXT_LIMIT, client_attributes
from statelesskit.errors import ConflictError, ExistsError, NameInvalidError, ParameterError
from statelesskit.names import normalise_mac
from statelesskit.progress import SILENT
from statelesskit.site import init_site, start_site, stop_site
from tests.conftest import free_port

pytestmark = pytest.mark.slapd

AT = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
ONE, TWO, THREE = (f"desktop-2026112{day}T073000Z" for day in (1, 2, 3))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site, _ = init_site(tmp_path_factory.mktemp("bulk") / "site", name="bulk", port=free_port())
    start_site(site)
    try:
        with open_directory(site) as directory:
            directory.add_prototype(PrototypeEntry("desktop"))
            for name, state in ((ONE, "released"), (TWO, "released"), (THREE, "revoked")):
                directory.add_snapshot(SnapshotEntry(name, "desktop", f"sha256:{'1' * 64}", state, AT))
            for channel in ("stable", "testing", "old"):
                target = THREE if channel == "old" else ONE
                directory.add_channel(f"desktop/{channel}", target, moved_by="anna", moved_at=AT, record="r1")
        yield site
    finally:
        stop_site(site)


@pytest.fixture
def directory(site: Site) -> Iterator[Directory]:
    with open_directory(site) as directory:
        yield directory
        clear(directory)


def clear(directory: Directory) -> None:
    made = tuple(
        Change(client.name, client_attributes(client, directory.layout), None) for client in directory.clients()
    )
    make(directory, Changes(made), SILENT.advance)
    for group in directory.groups():
        directory.ldap.delete(directory.layout.group(group.name))


def enter(directory: Directory, clients: list[Client]) -> None:
    added = tuple(Change(one.name, None, client_attributes(one, directory.layout)) for one in clients)
    make(directory, Changes(added), SILENT.advance)


def test_a_look_at_some_gives_what_a_look_at_all_gives(directory: Directory) -> None:
    chance = random.Random(1)
    names = [f"c{number:03}" for number in range(300)]
    pointers = [("desktop/stable", None), ("desktop/old", None), ("desktop/gone", None), (None, TWO), (None, None)]
    clients = []
    for name in names:
        channel, pin = chance.choice([*pointers, (None, None), (None, None)])
        clients.append(Client(name, chance.choice(["live", "live", "live", "thick"]), (), channel, pin))
    enter(directory, clients)
    for number in range(12):
        channel, pin = chance.choice(pointers)
        members = frozenset(chance.sample(names, 40))
        add_group(directory, Group(f"g{number}", members, channel, pin, chance.choice([1, 2, 3])))
    outer = {"member": [("MODIFY_ADD", [directory.layout.group("g3"), directory.layout.group("g4")])]}
    assert directory.ldap.modify(directory.layout.group("g5"), outer)
    told = {client.name: (client, assignment) for client, assignment in assignments(directory)}
    for some in (names[:1], names[100:300]):
        directory.ldap.counts.clear()
        found = look_up(directory, some).assignments()
        assert directory.ldap.counts.total() <= 3
        assert found == [told[name] for name in some]
    assert len({assignment.because[0].partition(" ")[2] for _, assignment in told.values()}) > 20
    assert look_up(directory, ["nobody"]).assignments() == []


@pytest.mark.parametrize("amount", [10, 1000])
def test_a_push_costs_the_same_whatever_the_fleet(directory: Directory, amount: int) -> None:
    enter(directory, [Client(f"c{number:04}", "live", (), "desktop/testing") for number in range(amount)])
    serial = directory.channel("desktop/testing").serial
    directory.ldap.counts.clear()
    move(directory, serial, TWO, "ben")
    assert {kind: directory.ldap.counts[kind] for kind in ("add", "modify", "delete", "change")} == {
        "add": 1, "modify": 1, "delete": 0, "change": 0,
    }  # fmt: skip
    assert directory.ldap.counts["search"] < 6
    assert {told.snapshot for _, told in assignments(directory)} == {TWO}
    move(directory, serial + 1, ONE, "ben")


def move(directory: Directory, serial: int, to: str, by: str) -> Channel:
    at = AT + timedelta(seconds=serial)
    return directory.move_channel(
        "desktop/testing", serial=serial, to=to, moved_by=by, moved_at=at, record=f"r-{serial}-{by}"
    )


def test_of_fifty_who_push_at_once_one_wins_each_round(site: Site) -> None:
    rounds, pushers = 20, 50
    with open_directory(site) as directory:
        first = directory.channel("desktop/testing").serial
    barrier, told = Barrier(pushers), []

    def push(number: int) -> list[str]:
        came_of_it = []
        with open_directory(site) as directory:
            for serial in range(first, first + rounds):
                barrier.wait(60)
                try:
                    moved = move(directory, serial, (ONE, TWO)[number % 2], f"p{number}")
                    came_of_it.append(f"{moved.moved_by} {moved.record} {moved.snapshot}")
                except ConflictError as error:
                    came_of_it.append("")
                    told.append(f"expected serial {serial}, found {serial + 1}" in error.message)
                barrier.wait(60)
        return came_of_it

    with ThreadPoolExecutor(pushers) as pool:
        results = list(pool.map(push, range(pushers)))
    with open_directory(site) as directory:
        channel = directory.channel("desktop/testing")
        assert channel.serial == first + rounds
        assert told == [True] * rounds * (pushers - 1)
        for turn in range(rounds):
            [winner] = [result[turn] for result in results if result[turn]]
            by, record, snapshot = winner.split(" ")
            assert record == f"r-{first + turn}-{by}"
            assert snapshot == (ONE, TWO)[int(by[1:]) % 2]
        assert (channel.moved_by, channel.record, channel.snapshot) == (by, record, snapshot)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
hostile = st.sampled_from(
    ["*", "a*", "*)(cn=*", "c1)(cn=*", "\0", "a\0b", "(", "\\2a", "..", "a..b", "cn=admin,ou=stateless", ",ou=x", "C1",
     "ä", "a" * 65536, "", " ", "a ", "#a", "a+b", '"a"', "a;b", "\u202eevil", "ﬁ", "K"]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts | hostile, texts | hostile)
@example("c1", "x" * 65536)
@example("c1", "\0")
def test_what_goes_in_comes_out_or_is_refused(directory: Directory, name: str, note: str) -> None:
    before = {client.name for client in directory.clients()}
    try:
        made = directory.add_client(Client(name, "live", note=note))
    except (NameInvalidError, ParameterError, ExistsError):
        assert name in before or not name.isascii() or len(note) > TEXT_LIMIT or not _is_a_name(name)
        assert {client.name for client in directory.clients()} == before
        return
    assert made == Client(name, "live", note=note)
    assert look_up(directory, [name]).clients == {name: made}
    assert {client.name for client in directory.clients()} == before | {name}
    directory.remove_client(name)


def _is_a_name(text: str) -> bool:
    from statelesskit.names import check_name

    try:
        return bool(check_name(text, "client"))
    except NameInvalidError:
        return False


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts | hostile)
@example("x" * 65536)
def test_no_filter_says_more_than_its_value(directory: Directory, text: str) -> None:
    if not look_up(directory, ["c1"]).clients:
        enter(directory, [Client("c1", "live", note="one")])
    for kind in ("cn", "description", "macAddress"):
        found = directory.ldap.search(directory.layout.base, f"{kind}={escape_filter_chars(text)}")
        assert all(text.strip().casefold() in entry.text(kind).casefold() for entry in found)


addresses = st.binary(min_size=6, max_size=6).filter(lambda raw: any(raw) and not raw[0] & 1)


@given(addresses, st.integers(0, 4), st.booleans())
def test_every_notation_of_a_mac_is_the_same(raw: bytes, how: int, upper: bool) -> None:
    digits, colons = raw.hex(), raw.hex(":")
    dotted = ".".join((digits[:4], digits[4:8], digits[8:]))
    text = (colons, raw.hex("-"), dotted, digits, f" {colons}\t")[how]
    assert normalise_mac(text.upper() if upper else text) == colons


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x30\x03\x02\x01",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x05\x02\x01\x07\xff\x00",
        bytes(range(256)) * 8,
    ],
)
def test_what_is_no_ldap_ends_the_connection_with_an_error(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(2)
    closed: list[bool] = []
    connection: Any = SimpleNamespace(
        socket=ours,
        closed=False,
        server=SimpleNamespace(next_message_id=lambda: 7),
        strategy=SimpleNamespace(close=lambda: closed.append(True)),
    )
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(LDAPCommunicationError):
            list(wire.pages(connection, "", "(cn=*)", "BASE", ["cn"]))
    assert closed


# --- who asked to boot ----------------------------------------------------------------------------


def test_unknown_machines_are_listed_until_they_are_added(site: Site, directory: Directory) -> None:
    directory.add_client(Client("known", "live", ("52:54:00:00:00:01",)))
    assert discovered.note(site, "52-54-00-00-00-01", "10.0.0.1", AT)
    assert discovered.note(site, "5254.0000.0002", "10.0.0.2", AT)
    assert discovered.note(site, "525400000003", "\x1b[31m", AT)
    assert not discovered.note(site, "52:54:00:00:00:02", "10.0.0.9", AT + timedelta(seconds=5))
    assert discovered.note(site, "52:54:00:00:00:02", "10.0.0.9", AT + timedelta(hours=1))
    found = discovered.unknown(site, directory)
    assert [(one.mac, one.address, one.asked) for one in found] == [
        ("52:54:00:00:00:02", "10.0.0.9", 2), ("52:54:00:00:00:03", "", 1),
    ]  # fmt: skip
    assert "client add pc-525400000002 --mode diskless --mac 52:54:00:00:00:02" in found[0].as_row()["add"]
    with pytest.raises(NameInvalidError):
        discovered.note(site, "01:00:5e:00:00:01", "10.0.0.1", AT)


def test_a_flood_of_made_up_machines_stays_small_and_pushes_no_real_one_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovered, "KEPT", 100)
    monkeypatch.setattr(discovered, "NEW_A_MINUTE", 20)
    real = "52:54:00:aa:aa:aa"
    for hour in range(3):
        discovered.note(site, real, "10.0.0.7", AT + timedelta(hours=hour))
    later = AT + timedelta(days=1)
    written = [discovered.note(site, f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", "", later) for n in range(50)]
    assert sum(written) == discovered.NEW_A_MINUTE
    for minute in range(1, 12):
        for n in range(discovered.NEW_A_MINUTE):
            discovered.note(site, f"02:00:00:{minute:02x}:00:{n:02x}", "", later + timedelta(minutes=minute))
    found = discovered.listed(site)
    assert len(found) == discovered.KEPT
    assert real in {one.mac for one in found}
    path = site.directory / "unknown.jsonl"
    path.write_bytes(path.read_bytes() + b"garbage\n{}\n[]\n\xff\n")
    assert len(discovered.listed(site)) == discovered.KEPT
