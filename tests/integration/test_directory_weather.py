"""A real slapd in bad weather: cut off, restarted, frozen, killed, full. Nothing is half done, nothing done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from statelesskit.config import Site
from statelesskit.directory import Client, Directory, PrototypeEntry, SnapshotEntry, open_directory, slapd
from statelesskit.directory.listening import socket_file
from statelesskit.errors import (
    ConflictError,
    DirectoryAwayError,
    DirectoryNotToldError,
    DirectoryUnavailableError,
    ExistsError,
)
from statelesskit.lock import held
from statelesskit.progress import Progress, shown
from tests.weather import ADD, BIND, DELETE, MODIFY, SEARCH, Gateway, freeze, gateway

pytestmark = pytest.mark.slapd

AT = datetime(2026, 11, 24, 7, 30, tzinfo=UTC)
ONE, TWO, THREE = (f"desktop-2026112{day}T073000Z" for day in (1, 2, 3))


@pytest.fixture
def running(site: Site) -> Iterator[Site]:
    """A directory with three snapshots, and a channel that points at the first."""
    site = replace(site, server=replace(site.server, patience_s=8))
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            directory.add_prototype(PrototypeEntry("desktop"))
            for name in (ONE, TWO, THREE):
                directory.add_snapshot(SnapshotEntry(name, "desktop", f"sha256:{'1' * 64}", "released", AT))
            directory.add_channel("desktop/stable", ONE, moved_by="ann", moved_at=AT, record="r1")
        yield site
    finally:
        slapd.stop(site)


@pytest.fixture
def gate(running: Site) -> Iterator[Gateway]:
    """What stands where slapd listens, and passes on to it."""
    path = socket_file(running)
    real = path.rename(path.with_name("real"))
    with gateway(path, real) as gate:
        yield gate


@pytest.fixture
def directory(running: Site, gate: Gateway) -> Iterator[Directory]:
    with open_directory(running) as directory:
        gate.seen.clear()
        yield directory


def move(directory: Directory, to: str = TWO, *, serial: int = 1, record: str = "r2") -> None:
    moved = directory.move_channel("desktop/stable", serial=serial, to=to, moved_by="ben", moved_at=AT, record=record)
    assert (moved.snapshot, moved.serial, moved.record) == (to, serial + 1, record)


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def waiting(self, line: str) -> None:
        self.lines.append(line)


# --- questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_question_whose_connection_is_cut_is_asked_again(directory: Directory, gate: Gateway, when: str) -> None:
    gate.orders = [(SEARCH, when), (SEARCH, when), (BIND, when)]
    assert directory.channel("desktop/stable").snapshot == ONE
    assert gate.orders == []


def test_a_connection_that_idled_too_long_is_made_again(directory: Directory, gate: Gateway) -> None:
    for serial in (1, 2):
        gate.cut()
        move(directory, TWO, serial=serial, record=f"r{serial + 1}")
    assert gate.seen.count(MODIFY) == 2


def test_a_restart_is_waited_for_and_said(running: Site) -> None:
    told = Told()
    with open_directory(running) as directory, shown(told):
        slapd.stop(running)
        start = threading.Timer(3, slapd.start, [running])
        start.start()
        assert [one.name for one in directory.channels()] == ["desktop/stable"]
        start.join()
        assert len(told.lines) == 1
        assert "waiting up to 8 s" in told.lines[0]
        directory.clients()
        slapd.stop(running)
        began = time.monotonic()
        with pytest.raises(DirectoryAwayError, match=r"is gone|does not answer"):
            directory.clients()
        assert time.monotonic() - began >= 8


def test_one_that_is_being_started_is_waited_for(running: Site) -> None:
    slapd.stop(running)
    with pytest.raises(DirectoryAwayError, match="does not run"):
        open_directory(running)
    ready = threading.Event()

    def start() -> None:
        with held(running.lock_file("directory"), what="the directory", doing="a slow start"):
            ready.set()
            time.sleep(0.5)
            slapd.prepare(running)
            slapd._spawn(running, 15)

    starting = threading.Thread(target=start)
    starting.start()
    ready.wait()
    with open_directory(running) as directory:
        assert directory.channel("desktop/stable").snapshot == ONE
    starting.join()


def test_a_frozen_server_is_noticed_and_awaited(running: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from statelesskit.directory import session

    monkeypatch.setitem(session.connect.__kwdefaults__, "answer_within_s", 1)
    pid = slapd.status(running).pid
    assert pid
    with open_directory(running) as directory:
        freeze(pid)
        thaw = threading.Timer(2.5, os.kill, [pid, signal.SIGCONT])
        thaw.start()
        try:
            assert directory.channel("desktop/stable").snapshot == ONE
        finally:
            thaw.join()


# --- changes --------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[int, Callable[[Directory], object], Callable[[Directory], object]]] = {
    "push": (MODIFY, move, lambda d: d.channel("desktop/stable").serial == 2),
    "push to where it is": (MODIFY, lambda d: move(d, ONE), lambda d: d.channel("desktop/stable").serial == 2),
    "state": (
        MODIFY,
        lambda d: d.set_snapshot_state(ONE, "released", "revoked"),
        lambda d: d.snapshot(ONE).state == "revoked",
    ),
    "client": (
        ADD,
        lambda d: d.add_client(Client("c1", "live", ("52:54:00:00:00:01",), "desktop/stable", ONE, "note")),
        lambda d: len(d.clients()) == 1,
    ),
    "channel": (
        ADD,
        lambda d: d.add_channel("desktop/new", ONE, moved_by="ann", moved_at=AT, record="r9"),
        lambda d: d.channel("desktop/new").record == "r9",
    ),
    "removal": (DELETE, lambda d: d.remove_snapshot(THREE), lambda d: len(d.snapshots()) == 2),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_whose_answer_is_lost_is_made_once(directory: Directory, gate: Gateway, name: str, when: str) -> None:
    kind, change, is_made = CHANGES[name]
    gate.orders = [(kind, when)]
    change(directory)
    assert gate.orders == []
    assert is_made(directory)
    history = name == "channel"  # which is noted by an entry of its own
    assert gate.seen.count(kind) - history == (2 if when == "before" else 1)  # told again only when it was not made


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_lost_twice_is_said_to_be_unknown(directory: Directory, gate: Gateway, name: str) -> None:
    kind, change, is_made = CHANGES[name]
    gate.orders = [(kind, "before"), (kind, "before")]
    with pytest.raises(DirectoryUnavailableError, match="may have made it"):
        change(directory)
    assert name == "channel" or not is_made(directory)
    assert gate.seen.count(kind) == 2


@pytest.mark.parametrize("name", CHANGES)
def test_no_change_is_told_while_the_server_is_away(running: Site, gate: Gateway, name: str) -> None:
    kind, change, _ = CHANGES[name]
    site = replace(running, server=replace(running.server, patience_s=1))
    with open_directory(site) as directory:
        gate.away = True
        gate.cut()
        with pytest.raises(DirectoryAwayError) as caught:
            change(directory)
        assert "may have" not in caught.value.message
    assert kind not in gate.seen


def test_whoever_was_first_while_we_were_cut_off_is_named(running: Site, gate: Gateway) -> None:
    """Our modify is lost on its way; before we look, somebody else pushes."""
    with open_directory(running) as ours, open_directory(running) as theirs:
        gate.orders = [(MODIFY, "before")]
        look = ours.ldap.read

        def late(dn: str, kind: str) -> object:
            if kind == "*":
                move(theirs, THREE, record="theirs")
            return look(dn, kind)

        ours.ldap.read = late  # type: ignore[method-assign,assignment]
        with pytest.raises(DirectoryUnavailableError, match="may have made it"):
            move(ours, TWO, record="ours")
        assert theirs.channel("desktop/stable").record == "theirs"
        with pytest.raises(ConflictError, match="was moved by ben"):
            move(ours, TWO, record="ours")


def test_another_entry_of_that_name_is_not_taken_for_ours(running: Site, gate: Gateway) -> None:
    with open_directory(running) as ours, open_directory(running) as theirs:
        theirs.add_client(Client("c1", "live", note="theirs"))
        gate.orders = [(ADD, "after")]  # the server answers "already there", and the answer is lost
        with pytest.raises((ExistsError, DirectoryUnavailableError)):
            ours.add_client(Client("c1", "live", note="ours"))
        assert theirs.client("c1").note == "theirs"


def test_a_busy_server_is_asked_again(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    from statelesskit.directory.session import Connection, ldap

    busy = [1, 1]
    modify = Connection.modify

    def sometimes(self: Connection, *given: object, **more: object) -> object:
        if busy and busy.pop():
            raise ldap.LDAPOperationResult(result=51, description="busy")
        return modify(self, *given, **more)

    monkeypatch.setattr(Connection, "modify", sometimes)
    move(directory)
    assert busy == []
    monkeypatch.setattr(directory.ldap._link, "_patience_s", 0.5)
    busy += [1] * 100
    with pytest.raises(DirectoryNotToldError, match="busy"):
        move(directory, THREE, serial=2, record="r3")
    assert directory.channel("desktop/stable").serial == 2


# --- kill -9 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [True, False])
def test_kill_9_in_the_middle_of_pushes(running: Site, back: bool) -> None:
    """Pushes go on while the server dies at some moment; each is made whole, not at all, or said to be unsure."""
    site = replace(running, server=replace(running.server, patience_s=8 if back else 1))
    pid = slapd.status(running).pid
    assert pid

    def die() -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if back:
            slapd.start(running)

    death = threading.Timer(0.3, die)
    death.start()
    sure = 1
    with open_directory(site) as directory:
        try:
            while sure < 5000 and (death.is_alive() or back):
                move(directory, (ONE, TWO)[sure % 2], serial=sure, record=f"r{sure + 1}")
                sure += 1
                if back and not death.is_alive():
                    break
        except DirectoryUnavailableError:
            assert not back
    death.join()
    slapd.start(running)
    with open_directory(running) as directory:
        channel = directory.channel("desktop/stable")
        assert channel.serial in ((sure,) if back else (sure, sure + 1))
        assert channel.record == f"r{channel.serial}"
        assert channel.snapshot == (ONE, TWO)[(channel.serial - 1) % 2]
        move(directory, THREE, serial=channel.serial, record="next")
