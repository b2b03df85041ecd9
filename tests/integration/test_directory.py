"""The fleet directory against a real slapd, with OpenLDAP's own programs as witnesses."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

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
    session,
    slapd,
)
from statelesskit.directory.layout import FOLDERS
from statelesskit.directory.mapping import Entry
from statelesskit.directory.operations import Operations
from statelesskit.directory.schema import VERSION
from statelesskit.errors import (
    ConflictError,
    DirectoryAwayError,
    DirectoryUnavailableError,
    ExistsError,
    FormatError,
    NameInvalidError,
    NotFoundError,
    ParameterError,
    StatelessError,
    UsageError,
)
from tests.weather import freeze

pytestmark = pytest.mark.slapd

AT = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
BASE = "ou=stateless"
ONE, TWO, THREE = (f"desktop-2026112{day}T073000Z" for day in (1, 2, 3))


@pytest.fixture
def directory(site: Site) -> Iterator[Directory]:
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            yield directory
    finally:
        slapd.stop(site)


@pytest.fixture
def fleet(directory: Directory) -> Directory:
    directory.add_prototype(PrototypeEntry("desktop"))
    for name, digit in ((ONE, "1"), (TWO, "2"), (THREE, "3")):
        directory.add_snapshot(snapshot(name, digit))
    directory.add_channel("desktop/stable", ONE, moved_by="anna", moved_at=AT, record="r1")
    directory.ldap.counts.clear()
    return directory


def snapshot(name: str, digit: str = "a") -> SnapshotEntry:
    return SnapshotEntry(name, "desktop", f"sha256:{digit * 64}", "released", AT)


def move(directory: Directory, to: str, *, serial: int, by: str = "ben", record: str = "r2") -> Channel:
    return directory.move_channel("desktop/stable", serial=serial, to=to, moved_by=by, moved_at=LATER, record=record)


def tool(site: Site, name: str, *words: str, stdin: str = "", ok: bool = True) -> str:
    argv = [name, "-Q", "-Y", "EXTERNAL", "-H", slapd.status(site).ldapi_uri, *words]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) is ok, done.stderr
    return done.stdout if ok else done.stderr


def look_up(site: Site, base: str, attribute: str, scope: str = "base", rule: str = "objectClass=*") -> list[str]:
    lines = tool(site, "ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-b", base, "-s", scope, f"({rule})", attribute)
    return [line.partition(": ")[2] for line in lines.splitlines() if line.startswith(f"{attribute}: ")]


# --- the tree -----------------------------------------------------------------------------------


def test_bootstrap_makes_the_folders_once(site: Site, directory: Directory) -> None:
    directory.bootstrap()
    places = [BASE, f"cn=attributes,{BASE}", *(f"ou={name},{BASE}" for name in FOLDERS)]
    assert sorted(look_up(site, BASE, "dn", "sub")) == sorted(places)
    assert look_up(site, BASE, "skSchemaVersion") == [str(VERSION)]


def test_a_directory_without_folders_says_so(site: Site) -> None:
    slapd.start(site)
    try:
        with open_directory(site) as directory, pytest.raises(DirectoryUnavailableError, match="site start"):
            directory.clients()
    finally:
        slapd.stop(site)


@pytest.mark.parametrize("base", ["dc=example,dc=org", "o=Größe\\, Ltd,c=DE", "OU = Stateless , o=Café"])
def test_other_bases(site: Site, base: str) -> None:
    import dataclasses

    site = dataclasses.replace(site, base_dn=base)
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            directory.bootstrap()
            directory.add_prototype(PrototypeEntry("desktop"))
            directory.add_snapshot(snapshot(ONE))
            directory.add_channel("desktop/stable", ONE, moved_by="anna", moved_at=AT, record="r1")
            directory.add_client(Client("c1", "diskless", ("52:54:00:00:00:01",), "desktop/stable"))
            with pytest.raises(ExistsError, match="belongs to client c1"):
                directory.add_client(Client("c2", "diskless", ("52:54:00:00:00:01",)))
            [(_, found)] = assignments(directory)
            assert found.snapshot == ONE
    finally:
        slapd.stop(site)


def test_a_newer_schema_is_left_alone(site: Site, directory: Directory) -> None:
    change = f"dn: {BASE}\nchangetype: modify\nreplace: skSchemaVersion\nskSchemaVersion: 99\n"
    tool(site, "ldapmodify", stdin=change)
    with pytest.raises(FormatError, match="schema version 99"):
        open_directory(site)


def test_a_server_that_goes_away_is_named(site: Site, directory: Directory) -> None:
    slapd.stop(site)
    with pytest.raises(DirectoryAwayError, match="ldapi://"):
        directory.clients()
    with pytest.raises(DirectoryUnavailableError, match="statelesskit site start"):
        open_directory(site)


def test_a_server_that_falls_silent_may_have_made_the_change(
    site: Site, fleet: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = fleet.channel("desktop/stable").serial
    monkeypatch.setitem(session.connect.__kwdefaults__, "answer_within_s", 1)
    pid = slapd.status(site).pid
    assert pid

    def frozen(self: Operations, dn: str, changes: Any) -> bool:
        freeze(pid)
        return modify(self, dn, changes)

    modify = Operations.modify
    monkeypatch.setattr(Operations, "modify", frozen)
    try:
        with open_directory(site) as directory, pytest.raises(DirectoryUnavailableError, match="may have made it"):
            directory.move_channel("desktop/stable", serial=serial, to=TWO, moved_by="ann", moved_at=LATER, record="r2")
    finally:
        os.kill(pid, signal.SIGCONT)
    # It was told, so it may do it when it wakes, soon or never; but never by half.
    deadline = time.monotonic() + 3
    while (found := fleet.channel("desktop/stable")).record != "r2" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (found.record, found.serial, found.snapshot == TWO) in (("r1", serial, False), ("r2", serial + 1, True))


def test_a_server_that_goes_away_after_the_change_has_made_it(
    fleet: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Directory, name: str) -> Client:
        raise DirectoryUnavailableError("away")

    monkeypatch.setattr(Directory, "client", away)
    with pytest.raises(DirectoryUnavailableError, match="late was written, but could not be read again"):
        fleet.add_client(Client("late", "live"))
    monkeypatch.undo()
    assert fleet.client("late").mode == "live"


# --- prototypes and snapshots ---------------------------------------------------------------------


def test_prototypes_and_snapshots_come_back(directory: Directory) -> None:
    desktop, server = PrototypeEntry("desktop", "for desks"), PrototypeEntry("server")
    directory.add_prototype(server)
    directory.add_prototype(desktop)
    assert directory.prototypes() == [desktop, server]
    first = SnapshotEntry(ONE, "desktop", f"sha256:{'1' * 64}", "staged", AT)
    second = SnapshotEntry(f"{ONE}-2", "desktop", f"sha256:{'2' * 64}", "tested", LATER, ONE, 1 << 40, 99, "second")
    other = SnapshotEntry("server-20261123T073000Z", "server", f"sha256:{'3' * 64}", "released", AT)
    for one in (other, second, first):
        directory.add_snapshot(one)
    assert directory.snapshots() == [first, second, other]
    assert directory.snapshots("server") == [other]
    assert directory.snapshot(f"{ONE}-2") == second


def test_a_state_changes_only_from_what_was_seen(fleet: Directory) -> None:
    fleet.set_snapshot_state(ONE, "released", "revoked")
    assert fleet.snapshot(ONE).state == "revoked"
    with pytest.raises(ConflictError, match=f"{ONE} is revoked, not released"):
        fleet.set_snapshot_state(ONE, "released", "tested")
    assert fleet.snapshot(ONE).state == "revoked"
    with pytest.raises(NotFoundError):
        fleet.set_snapshot_state("desktop-20000101T000000Z", "released", "revoked")
    with pytest.raises(ParameterError, match="staged, tested"):
        fleet.set_snapshot_state(ONE, "revoked", "fine")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.add_prototype(PrototypeEntry("desktop")), ExistsError),
        (lambda d: d.add_snapshot(snapshot(ONE)), ExistsError),
        (lambda d: d.add_channel("desktop/stable", ONE, moved_by="x", moved_at=AT, record="r"), ExistsError),
        (lambda d: d.add_channel("desktp/stable", None, moved_by="x", moved_at=AT, record="r"), NotFoundError),
        (lambda d: d.add_channel("desktop/new", f"{ONE}-9", moved_by="x", moved_at=AT, record="r"), NotFoundError),
        (lambda d: d.add_channel("desktop", None, moved_by="x", moved_at=AT, record="r"), NameInvalidError),
        (lambda d: d.snapshot("desktop-20261121T073001Z"), NotFoundError),
        (lambda d: d.snapshot("desktop"), NameInvalidError),
        (lambda d: d.snapshots("nothing"), NotFoundError),
        (lambda d: d.channel("desktop/stabel"), NotFoundError),
        (lambda d: d.client("c1"), NotFoundError),
        (lambda d: d.remove_client("c1"), NotFoundError),
        (lambda d: d.add_client(Client("c1", "diskless", channel="desktop/stabel")), NotFoundError),
        (lambda d: d.add_client(Client("c1", "diskless", pin=f"{ONE}-9")), NotFoundError),
        (lambda d: d.add_client(Client("c1", "livecd")), ParameterError),
        (lambda d: d.add_client(Client("c1", "live", ("52:54",))), NameInvalidError),
        (lambda d: d.add_client(Client("c1", "live", note="x" * 5000)), ParameterError),
        (lambda d: d.add_client(Client("c1", "live", note="\ud800")), ParameterError),
        (lambda d: d.add_snapshot(SnapshotEntry(ONE, "server", "sha256:" + "0" * 64, "tested", AT)), ParameterError),
        (lambda d: d.add_snapshot(SnapshotEntry(f"{ONE}-2", "desktop", "md5:0", "tested", AT)), ParameterError),
        (lambda d: d.add_snapshot(SnapshotEntry("tv-20261123T073000Z", "tv", "sha256:" + "0" * 64, "tested", AT)),
         NotFoundError),
        (lambda d: move(d, "server-20261123T073000Z", serial=1), ParameterError),
        (lambda d: move(d, f"{ONE}-9", serial=1), NotFoundError),
    ],
)  # fmt: skip
def test_what_cannot_be_right_changes_nothing(
    site: Site, fleet: Directory, change: Callable[[Directory], object], error: type[UsageError]
) -> None:
    before = look_up(site, BASE, "dn", "sub")
    with pytest.raises(UsageError) as caught:
        change(fleet)
    assert type(caught.value) is error
    assert look_up(site, BASE, "dn", "sub") == before


def test_the_nearest_name_is_offered(fleet: Directory) -> None:
    with pytest.raises(NotFoundError, match="did you mean desktop/stable"):
        fleet.channel("desktop/stabel")
    with pytest.raises(NotFoundError, match=f"did you mean {ONE}"):
        fleet.snapshot(f"{ONE}-2")


# --- channels ------------------------------------------------------------------------------------


def test_a_channel_is_moved_by_one_modify(fleet: Directory) -> None:
    for number in range(20):
        fleet.add_client(Client(f"c{number}", "diskless", channel="desktop/stable"))
    fleet.ldap.counts.clear()
    moved = move(fleet, TWO, serial=1)
    assert moved == Channel("desktop/stable", "desktop", TWO, ONE, 2, "ben", LATER, "r2")
    assert {kind: count for kind, count in fleet.ldap.counts.items() if kind != "search"} == {"modify": 1, "add": 1}
    assert fleet.channels() == [moved]
    assert {found.snapshot for _, found in assignments(fleet)} == {TWO}


def test_a_channel_may_begin_empty_and_stay_where_it_is(fleet: Directory) -> None:
    empty = fleet.add_channel("desktop/empty", None, moved_by="anna", moved_at=AT, record="r1")
    assert empty == Channel("desktop/empty", "desktop", None, None, 1, "anna", AT, "r1")
    moved = fleet.move_channel("desktop/empty", serial=1, to=ONE, moved_by="anna", moved_at=AT, record="r2")
    assert (moved.snapshot, moved.previous, moved.serial) == (ONE, None, 2)
    again = fleet.move_channel("desktop/empty", serial=2, to=ONE, moved_by="anna", moved_at=AT, record="r3")
    assert (again.snapshot, again.previous, again.serial) == (ONE, ONE, 3)


def test_who_comes_late_is_told_who_was_first(fleet: Directory) -> None:
    move(fleet, TWO, serial=1)
    with pytest.raises(ConflictError) as caught:
        move(fleet, THREE, serial=1, by="carla")
    for fact in ("by ben", "2026-11-23T08:30:00Z", f"from {ONE} to {TWO}", "expected serial 1, found 2"):
        assert fact in str(caught.value)
    assert fleet.channel("desktop/stable").snapshot == TWO


@pytest.mark.parametrize("movers", [2, 8])
def test_of_many_at_once_exactly_one_wins(
    site: Site, fleet: Directory, monkeypatch: pytest.MonkeyPatch, movers: int
) -> None:
    """All have read the channel before any of them writes, so only the server can tell them apart."""
    everybody = threading.Barrier(movers)
    read = Directory._channel_entry

    def read_together(self: Directory, name: str) -> Entry:
        entry = read(self, name)
        if self.ldap.counts["modify"] == 0:
            everybody.wait(timeout=30)
        return entry

    def mover(number: int) -> Channel | ConflictError:
        with open_directory(site) as mine:
            try:
                return move(mine, (TWO, THREE)[number % 2], serial=1, by=f"mover{number}", record=f"r{number}")
            except ConflictError as error:
                return error

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "_channel_entry", read_together)
        with ThreadPoolExecutor(movers) as pool:
            results = list(pool.map(mover, range(movers)))
    winners = [result for result in results if isinstance(result, Channel)]
    assert winners == [fleet.channel("desktop/stable")]
    assert winners[0].serial == 2
    for result in results:
        assert isinstance(result, Channel) or f"was moved by {winners[0].moved_by} " in result.message


@pytest.mark.parametrize("together", [True, False])
def test_a_change_by_hand_is_noticed(
    site: Site, fleet: Directory, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Somebody uses ldapmodify and leaves the serial alone, while we move or before."""
    dn = f"cn=stable,cn=desktop,ou=prototypes,{BASE}"
    target = f"cn={THREE},cn=desktop,ou=prototypes,{BASE}"
    change = f"dn: {dn}\nchangetype: modify\nreplace: skSnapshotDN\nskSnapshotDN: {target}\n"
    if not together:
        tool(site, "ldapmodify", stdin=change)
        assert move(fleet, TWO, serial=1).previous == THREE
        return
    read = Directory._channel_entry

    def read_and_lose(self: Directory, name: str) -> Entry:
        entry = read(self, name)
        tool(site, "ldapmodify", stdin=change)
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "_channel_entry", read_and_lose)
        with pytest.raises(ConflictError, match=f"without a push: it points at {THREE}"):
            move(fleet, TWO, serial=1)
    assert fleet.channel("desktop/stable").snapshot == THREE


# --- clients and groups ----------------------------------------------------------------------------


def test_clients_come_back_as_stored(fleet: Directory) -> None:
    given = Client(
        "c1", "caching", ("52-54-00-AA-00-02", "525400aa0001", "52:54:00:aa:00:02"), "desktop/stable", ONE, "x"
    )
    stored = fleet.add_client(given)
    assert stored.macs == ("52:54:00:aa:00:01", "52:54:00:aa:00:02")
    assert (stored.name, stored.mode, stored.channel, stored.pin) == ("c1", "caching", "desktop/stable", ONE)
    bare = fleet.add_client(Client("c0", "thick"))
    assert fleet.clients() == [bare, stored]
    assert fleet.client("c1") == stored
    fleet.remove_client("c1")
    assert fleet.clients() == [bare]


def test_a_name_and_a_mac_address_belong_to_one_client(fleet: Directory) -> None:
    fleet.add_client(Client("c1", "diskless", ("52:54:00:00:00:01",)))
    with pytest.raises(ExistsError, match="already a client c1"):
        fleet.add_client(Client("c1", "diskless"))
    with pytest.raises(ExistsError, match="already a client c1"):
        fleet.add_client(Client("c1", "diskless", ("52:54:00:00:00:01",)))
    with pytest.raises(ExistsError, match="52:54:00:00:00:01 belongs to client c1"):
        fleet.add_client(Client("c2", "diskless", ("52:54:00:00:00:02", "5254.0000.0001")))
    assert [client.name for client in fleet.clients()] == ["c1"]


def test_one_mac_address_added_at_once_is_given_once(site: Site, fleet: Directory) -> None:
    def add(number: int) -> bool:
        with open_directory(site) as mine:
            try:
                mine.add_client(Client(f"c{number}", "diskless", ("52:54:00:00:00:01",)))
            except ExistsError:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1


@pytest.mark.parametrize(
    "line", ["macAddress: 52-54-00-00-00-01", "skClientMode: livecd", "macAddress: 52:54:00:00:00:0A"]
)
def test_the_server_too_refuses_what_other_tools_write_wrong(site: Site, fleet: Directory, line: str) -> None:
    mode = "" if "skClientMode" in line else "skClientMode: live\n"
    entry = f"dn: cn=x,ou=clients,{BASE}\nobjectClass: device\nobjectClass: ieee802Device\nobjectClass: skClient\n"
    assert "breaks constraint" in tool(site, "ldapadd", stdin=f"{entry}{mode}{line}\n", ok=False)


def test_groups_that_others_made(site: Site, fleet: Directory) -> None:
    for name in ("c1", "c2"):
        fleet.add_client(Client(name, "diskless"))
    tool(
        site,
        "ldapadd",
        stdin=(
            f"dn: cn=Lab,ou=groups,{BASE}\nobjectClass: groupOfNames\nobjectClass: skAssignment\n"
            f"member: CN=C1 , ou=Clients,{BASE}\nmember: cn=\\63\\32,ou=clients,{BASE}\nmember: cn=nobody,ou=people\n"
            f"skChannelDN: CN=Stable,cn=DESKTOP,ou=prototypes,{BASE}\nskPriority: 7\n\n"
            f"dn: cn=empty,ou=groups,{BASE}\nobjectClass: groupOfNames\nmember: {BASE}\n"
        ),
    )
    empty, lab = fleet.groups()
    strangers = frozenset({"cn=nobody,ou=people"})
    assert lab == Group("lab", frozenset({"c1", "c2"}), "desktop/stable", priority=7, strangers=strangers)
    assert empty == Group("empty", frozenset(), priority=1000)
    for client, found in assignments(fleet):
        assert found.snapshot == ONE
        assert found.because[0] == f"{client.name} is in group lab, which follows channel desktop/stable (priority 7)"


# --- hostile text ----------------------------------------------------------------------------------

HOSTILE = [
    "*)(cn=*",
    "a\0b",
    "a\nb: c",
    "a,ou=clients",
    "a+b=c",
    " a",
    "#a",
    "\\",
    "é",
    "ＡＢ",
    "a" * 5000,
    "",
    "..",
    "A",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_reach_no_server(fleet: Directory, text: str) -> None:
    fleet.ldap.counts.clear()
    for ask in (
        lambda: fleet.client(text),
        lambda: fleet.remove_client(text),
        lambda: fleet.add_client(Client(text, "live")),
        lambda: fleet.add_prototype(PrototypeEntry(text)),
        lambda: fleet.snapshots(text),
        lambda: fleet.snapshot(text),
        lambda: fleet.channel(f"desktop/{text}"),
        lambda: fleet.channel(f"{text}/stable"),
        lambda: fleet.add_client(Client("c1", "live", channel=text or "/")),
        lambda: fleet.add_client(Client("c1", "live", pin=text or "-")),
        lambda: fleet.add_client(Client("c1", "live", macs=(text,))),
        lambda: fleet.set_snapshot_state(text, "staged", "tested"),
    ):
        with pytest.raises(NameInvalidError):
            ask()
    assert fleet.ldap.counts.total() == 0


@pytest.mark.parametrize("text", [text[:4000] for text in HOSTILE] + [" ", "\n", "<x>", "=cmd", "\x1b[2J"])
def test_hostile_text_is_kept_as_it_is(fleet: Directory, text: str) -> None:
    fleet.add_client(Client("c1", "live", note=text))
    fleet.add_client(Client("c2", "live"))
    assert [client.note for client in fleet.clients()] == [text, ""]
    moved = move(fleet, TWO, serial=1, by=text, record=text)
    assert (moved.moved_by, moved.record) == (text, text or None)


def test_hostile_entries_of_others_are_borne(site: Site, fleet: Directory) -> None:
    classes = "objectClass: device\nobjectClass: skClient\nskClientMode: live\n"
    odd = ["cn=*)(cn=*", "cn=a\\2Cb\\00\\0A", "cn=\\23x\\3D", "cn=X+description=y", "cn=Größe"]
    pointer = f"skChannelDN: ou=people,dc=elsewhere\nskSnapshotDN: cn=stable,cn=desktop,ou=prototypes,{BASE}\n"
    ldif = "\n".join(f"dn: {rdn},ou=clients,{BASE}\n{classes}{pointer}" for rdn in odd)
    tool(site, "ldapadd", stdin=ldif.replace("cn=Größe", "cn=Gr\\C3\\B6\\C3\\9Fe"))
    found = assignments(fleet)
    assert len(found) == len(odd)
    for _, assignment in found:
        assert assignment.snapshot is None
        assert "there is no snapshot" in assignment.because[-1]
        assert all(line.isprintable() for line in assignment.because)


# --- the whole, seen from outside ------------------------------------------------------------------


def test_ldapsearch_agrees_about_who_runs_what(site: Site, fleet: Directory) -> None:
    fleet.add_channel("desktop/testing", THREE, moved_by="anna", moved_at=AT, record="r1")
    fleet.add_client(Client("c1", "diskless", channel="desktop/stable"))
    fleet.add_client(Client("c2", "diskless", channel="desktop/testing"))
    fleet.add_client(Client("c3", "diskless", channel="desktop/stable", pin=THREE))
    move(fleet, TWO, serial=1)
    for client, found in assignments(fleet):
        dn = f"cn={client.name},ou=clients,{BASE}"
        target = look_up(site, dn, "skSnapshotDN") or look_up(site, look_up(site, dn, "skChannelDN")[0], "skSnapshotDN")
        assert look_up(site, target[0], "cn") == [found.snapshot]
        assert look_up(site, target[0], "skManifestDigest") == [found.digest]


def test_many_clients_take_four_searches(site: Site, fleet: Directory) -> None:
    ldif = "".join(
        f"dn: cn=c{number:04},ou=clients,{BASE}\nobjectClass: device\nobjectClass: skClient\nskClientMode: live\n"
        f"skChannelDN: cn=stable,cn=desktop,ou=prototypes,{BASE}\n\n"
        for number in range(2500)
    )
    tool(site, "ldapadd", stdin=ldif)
    found = assignments(fleet)
    assert fleet.ldap.counts == {"search": 4}
    assert [client.name for client, _ in found] == [f"c{number:04}" for number in range(2500)]
    assert {assignment.snapshot for _, assignment in found} == {ONE}


def test_any_other_refusal_is_ours_too(fleet: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statelesskit.directory.fleet.text_values", lambda text, _: [text])
    with pytest.raises(StatelessError, match="invalidAttributeSyntax"):
        move(fleet, TWO, serial=1, by="")
