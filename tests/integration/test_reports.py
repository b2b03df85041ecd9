"""The report door against a real slapd: who is believed, what is kept, and that nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector, web

from statelesskit.actions import ACTIONS
from statelesskit.audit.keys import create_record_key
from statelesskit.config import Site, load_site
from statelesskit.directory import Client, PrototypeEntry, SnapshotEntry, assignments, open_directory, slapd, wire
from statelesskit.directory.accounts import add_account, grant
from statelesskit.directory.conf import ldapi_uri, pid_file
from statelesskit.directory.reported import DOOR
from statelesskit.errors import ConfigError, LockedError
from statelesskit.fleet import fleet_rows, reports_by_client
from statelesskit.reports.door import Door
from statelesskit.reports.judging import VALID, enrolment_text, milliseconds
from statelesskit.reports.message import LIMIT_BYTES, NAMESPACE
from statelesskit.reports.spool import Spool
from statelesskit.reports.writer import Writer
from statelesskit.service import AT_ONCE, perform
from statelesskit.unrecorded import unrecorded_changes
from tests.conftest import free_port
from tests.existing import small_site

pytestmark = pytest.mark.slapd

SNAPSHOT = "desktop-20261121T073000Z"
DIGEST = "sha256:" + "b" * 64
CLIENTS = 200
ROOT = Path(__file__).parents[2]
Told = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A directory with a fleet that has not reported yet, and the door's account."""
    site = small_site(tmp_path_factory.mktemp("reports") / "site", port=free_port(), base_dn="ou=stateless")
    create_record_key(site.keys)
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            directory.add_prototype(PrototypeEntry("desktop"))
            directory.add_snapshot(SnapshotEntry(SNAPSHOT, "desktop", DIGEST, "released", datetime.now(UTC)))
            for number in range(CLIENTS):
                directory.add_client(Client(f"c{number}", "diskless"))
            directory.add_client(Client("status", "diskless"))  # as a status entry is named
            add_account(directory, DOOR, site.keys / f"account-{DOOR}")
            grant(directory, "reporter", DOOR)
        yield site
    finally:
        slapd.stop(site)


@pytest.fixture
def site(made: Site) -> Iterator[Site]:
    """The same, with what the test before it told forgotten."""
    yield made
    with open_directory(made) as directory:
        for entry in directory.ldap.search(directory.layout.folder("clients"), "objectClass=skClientStatus"):
            directory.ldap.delete(entry.dn)
    if Spool(made).path.exists():
        Spool(made).empty()


def said(client: str, **fields: object) -> dict[str, object]:
    return {
        "format": 1,
        "client": client,
        "snapshot": SNAPSHOT,
        "digest": DIGEST,
        "boot_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "counter": milliseconds(datetime.now(UTC)),
        "result": "ok",
        "overlay_bytes": 1 << 20,
        "overlay_limit_bytes": 4 << 20,
        **fields,
    }


def body(client: str, key: Path | None = None, **fields: object) -> bytes:
    """Return a report as a client sends it, signed by OpenSSH itself."""
    line = json.dumps(said(client, **fields)).encode()
    return line if key is None else line + b"\n" + signed(line, key)


def signed(line: bytes, key: Path, namespace: str = NAMESPACE) -> bytes:
    argv = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace]
    return subprocess.run(argv, input=line, capture_output=True, check=True, timeout=30).stdout


def new_key(path: Path) -> tuple[Path, str]:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    return path, path.with_suffix(".pub").read_text().strip()


Ask = Callable[[str, bytes], Awaitable[Told]]


@asynccontextmanager
async def listening(writer: Writer, port: int = 0) -> AsyncIterator[str]:
    """Serve the door on loopback; yields the URL of its folder."""
    app = web.Application()
    app.add_routes(Door(writer).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def opened(writer: Writer) -> AsyncIterator[Ask]:
    """Yield how the door is asked."""
    async with listening(writer) as url, ClientSession() as session:

        async def ask(path: str, data: bytes) -> Told:
            async with session.post(url + path, data=data) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if text.startswith("{") else {"text": text}

        yield ask


def told(site: Site, *requests: tuple[str, bytes]) -> list[Told]:
    """Ask a door one after the other."""

    async def all_of_them() -> list[Told]:
        async with opened(writer) as ask:
            return [await ask(*request) for request in requests]

    writer = Writer(site)
    try:
        return asyncio.run(all_of_them())
    finally:
        writer.close()


def codes(site: Site, *bodies: bytes) -> list[int]:
    return [code for code, _ in told(site, *(("report", one) for one in bodies))]


def status(site: Site, client: str) -> dict[str, list[str]]:
    """Return a client's status entry as ldapsearch shows it."""
    argv = ["ldapsearch", "-LLL", "-o", "ldif-wrap=no", "-Y", "EXTERNAL", "-Q", "-H", ldapi_uri(site)]
    argv += ["-b", f"cn={client},ou=clients,ou=stateless", "(objectClass=skClientStatus)"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            found.setdefault(name, []).append(value)
    return found


def enrolled(site: Site, client: str, folder: Path) -> Path:
    """Enrol a client as a person and a machine would; return its private key."""
    key, public = new_key(folder / client)
    token = perform(site, ACTIONS["client enrol"].check({"name": client}), AT_ONCE).result["token"]
    assert [code for code, _ in told(site, asked(client, token, public))] == [200]
    return key


# --- who is believed --------------------------------------------------------------------------


def test_a_report_stands_in_the_directory_and_in_the_fleet_table(site: Site) -> None:
    counter = milliseconds(datetime.now(UTC))
    assert codes(site, body("c1", counter=counter)) == [200]
    entry = status(site, "c1")
    assert entry["skRunningSnapshotDN"] == [f"cn={SNAPSHOT},cn=desktop,ou=prototypes,ou=stateless"]
    assert (entry["skLastResult"], entry["skLevel"], entry["skSerial"]) == (["ok"], ["network"], [str(counter)])
    with open_directory(site) as directory:
        rows = {row["client"]: row for row in fleet_rows(assignments(directory), reports_by_client(directory))}
    assert (rows["c1"]["running"], rows["c1"]["level"], rows["c1"]["overlay_percent"]) == (SNAPSHOT, "network", 25)
    assert rows["c1"]["seen_at"] is not None
    assert (rows["c2"]["running"], rows["c2"]["level"], rows["c2"]["seen_at"]) == (None, None, None)


def test_a_later_report_replaces_the_earlier_one_whole(site: Site) -> None:
    first = body("c1", counter=10)
    second = body("c1", counter=11, snapshot=None, digest=None, overlay_bytes=None, overlay_limit_bytes=None)
    assert codes(site, first, second) == [200, 200]
    entry = status(site, "c1")
    assert entry["skSerial"] == ["11"]
    assert not entry.keys() & {"skRunningSnapshotDN", "skManifestDigest", "skOverlayBytes", "skOverlayLimit"}


def test_a_replay_is_refused_and_the_client_is_told_what_it_must_be_above(site: Site) -> None:
    now = milliseconds(datetime.now(UTC))
    answers = told(
        site,
        ("report", body("c1", counter=now)),
        ("report", body("c1", counter=now, result="failed")),
        ("report", body("c1", counter=now - 5)),
        ("report", body("c1", counter=now + 10 * 86_400_000)),
    )
    assert answers[1:] == [(409, {"after": now})] * 3
    assert codes(site, body("c1", counter=now)) == [409]  # a door that was restarted knows too
    assert status(site, "c1")["skLastResult"] == ["ok"]


def test_unknown_unsigned_and_forged_are_refused_alike(site: Site, tmp_path: Path) -> None:
    key = enrolled(site, "c1", tmp_path)
    other, _ = new_key(tmp_path / "other")
    line = json.dumps(said("c1")).encode()
    good = body("c1", key)
    answers = told(
        site,
        ("report", body("nobody", key)),
        ("report", body("c1")),
        ("report", body("c1", other)),
        ("report", line + b"\n" + signed(line, key, "git")),
        ("report", line.replace(b'"ok"', b'"ko"') + b"\n" + signed(line, key)),
        ("report", line + b"\ngarbage"),
        ("report", body("c1", key)[:-40]),
    )
    assert {code for code, _ in answers} == {403}
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert "skRunningSnapshotDN" not in status(site, "c1")
    assert codes(site, good) == [200]
    assert status(site, "c1")["skLevel"] == ["token"]


def test_the_client_whose_name_a_status_entry_has_is_one_of_many(site: Site) -> None:
    assert codes(site, body("c1"), body("status"), body("c2")) == [200, 200, 200]
    assert status(site, "status")["cn"] == ["status", "status/status"]


def test_a_status_entry_that_somebody_else_made_is_taken_over(site: Site) -> None:
    with open_directory(site) as directory:
        directory.ldap.add(directory.layout.status("c1"), {"objectClass": ["skClientStatus"]}, "report", "c1")
    assert codes(site, body("c1", counter=10), body("c1", counter=11)) == [503, 200]


def test_what_is_no_report_is_refused_before_anything_is_asked(site: Site) -> None:
    bodies = [b"", b"{}", b"[" * 16000, b'{"format": 2}', body("C1"), body("c1", counter=True), b"\xff" * 10]
    assert codes(site, *bodies) == [400] * len(bodies)
    assert codes(site, b"{" + b" " * LIMIT_BYTES) == [413]


# --- enrolment --------------------------------------------------------------------------------


def asked(client: str, token: str, key: str) -> tuple[str, bytes]:
    return "enrol", json.dumps({"format": 1, "client": client, "token": token, "key": key}).encode()


def test_a_token_works_once_for_its_client_alone(site: Site, tmp_path: Path) -> None:
    _, one = new_key(tmp_path / "one")
    _, two = new_key(tmp_path / "two")
    outcome = perform(site, ACTIONS["client enrol"].check({"name": "c1"}), AT_ONCE)
    token = outcome.result["token"]
    answers = told(
        site,
        asked("c2", token, one),
        asked("nobody", token, one),
        asked("c1", token + "x", one),
        asked("c1", "", one),
        asked("c1", token, "no key"),
        asked("c1", token, one),
        asked("c1", token, two),
    )
    assert [code for code, _ in answers] == [403, 403, 403, 403, 403, 200, 403]
    assert len({json.dumps(answer) for code, answer in answers if code == 403}) == 1
    assert status(site, "c1")["skKey"] == [" ".join(one.split()[:2])]
    assert "skEnrolment" not in status(site, "c1")


def test_the_old_key_stands_until_another_token_is_used(site: Site, tmp_path: Path) -> None:
    key = enrolled(site, "c1", tmp_path)
    perform(site, ACTIONS["client enrol"].check({"name": "c1"}), AT_ONCE)
    assert codes(site, body("c1", key, counter=1)) == [200]
    (tmp_path / "again").mkdir()
    other = enrolled(site, "c1", tmp_path / "again")
    assert codes(site, body("c1", key, counter=2), body("c1", other, counter=3)) == [403, 200]


def test_an_old_token_is_worth_nothing(site: Site, tmp_path: Path) -> None:
    _, public = new_key(tmp_path / "key")
    with open_directory(site) as directory:
        for kept in (enrolment_text("t", datetime.now(UTC) - VALID), "sha256:" + "0" * 64 + " 99999999T999999Z", "x"):
            dn = directory.layout.status("c1")
            directory.ldap.add(
                dn, {"objectClass": ["skClientStatus"], "cn": ["c1/status"], "skEnrolment": [kept]}, "", ""
            )
            assert [code for code, _ in told(site, asked("c1", "t", public))] == [403]
            directory.ldap.delete(dn)


def test_a_token_is_in_no_file_and_no_directory(site: Site) -> None:
    outcome = perform(site, ACTIONS["client enrol"].check({"name": "c1"}), AT_ONCE)
    token = outcome.result["token"].encode()
    held = [path for path in site.root.rglob("*") if path.is_file() and token in path.read_bytes()]
    assert held == []
    assert (site.records / outcome.record).is_dir()


def test_one_address_has_not_many_tries(site: Site) -> None:
    answers = told(site, *(asked("c1", f"{number}", "k") for number in range(15)))
    assert [code for code, _ in answers[:10]] == [403] * 10
    assert 429 in [code for code, _ in answers]


# --- what the door may, and what is seen of it ------------------------------------------------


def test_what_the_door_writes_is_no_change_past_the_product_and_what_others_write_is(site: Site) -> None:
    with open_directory(site) as directory:
        before = list(unrecorded_changes(site, directory))
        assert codes(site, body("c7", counter=1), body("c7", counter=2)) == [200, 200]
        assert list(unrecorded_changes(site, directory)) == before
        directory.ldap.modify(directory.layout.status("c7"), {"skLastResult": [("MODIFY_REPLACE", ["fine"])]})
        assert len(list(unrecorded_changes(site, directory))) == len(before) + 1


def test_there_is_one_door_and_it_has_an_account(site: Site) -> None:
    writer = Writer(site)
    try:
        with pytest.raises(LockedError, match="taking reports"):
            Writer(site)
    finally:
        writer.close()
    with pytest.raises(ConfigError, match="account"):
        Writer(replace(site, root=site.root / "elsewhere"))


# --- many, and trouble ------------------------------------------------------------------------


async def at_once(ask: Ask, counter: int, clients: int = CLIENTS) -> list[tuple[int, float]]:
    async def one(number: int) -> tuple[int, float]:
        began = time.perf_counter()
        code, _ = await ask("report", body(f"c{number}", counter=counter))
        return code, time.perf_counter() - began

    return await asyncio.gather(*(one(number) for number in range(clients)))


def test_all_of_many_at_once_are_kept_in_few_operations(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []  # of each batch the operations, and before the first what is asked of the server
    tell, pages = wire.tell, wire.pages

    def told_of(connection: Any, requests: Any) -> Any:
        sent[-1] += 1
        return tell(connection, requests)

    def asked_for(*args: Any) -> Any:
        sent[-1] += 1
        return pages(*args)

    def kept(writer: Writer, batch: Any) -> Any:
        sent.append(0)
        return keep(writer, batch)

    keep = Writer._keep
    monkeypatch.setattr(Writer, "_keep", kept)
    monkeypatch.setattr(wire, "tell", told_of)
    monkeypatch.setattr(wire, "pages", asked_for)
    writer = Writer(site)
    try:

        async def twice() -> None:
            async with opened(writer) as ask:
                for counter in (1, 2):
                    assert {code for code, _ in await at_once(ask, counter)} == {200}

        asyncio.run(twice())
    finally:
        writer.close()
    connecting, *others = sent
    assert connecting <= 4  # the first asks for the schema's version too
    assert max(others) <= 3
    with open_directory(site) as directory:
        found = directory.ldap.search(directory.layout.folder("clients"), "objectClass=skClientStatus")
    assert [entry.text("skSerial") for entry in found] == ["2"] * CLIENTS


def kill(site: Site) -> None:
    os.kill(int(pid_file(site).read_text()), signal.SIGKILL)


def test_none_is_lost_when_the_directory_is_killed_while_they_come(site: Site) -> None:
    writer = Writer(site)
    try:

        async def storm() -> list[int]:
            async with opened(writer) as ask:
                first = asyncio.ensure_future(at_once(ask, 1))
                await asyncio.sleep(0.15)
                kill(site)
                answers = [code for code, _ in await first]
                return answers + [code for code, _ in await at_once(ask, 2)]

        answers = asyncio.run(storm())
        assert set(answers) == {200}
        assert Spool(site)
        slapd.start(site)
        for _ in range(200):
            if not Spool(site):
                break
            time.sleep(0.1)
    finally:
        slapd.start(site)
        writer.close()
    with open_directory(site) as directory:
        found = directory.ldap.search(directory.layout.folder("clients"), "objectClass=skClientStatus")
    assert [entry.text("skSerial") for entry in found] == ["2"] * CLIENTS


def test_what_waits_outlives_the_door_and_a_forged_report_gets_nowhere(site: Site, tmp_path: Path) -> None:
    key = enrolled(site, "c1", tmp_path)
    slapd.stop(site)
    try:
        assert codes(site, body("c1", key), body("c1"), body("nobody"), body("c2")) == [200] * 4
        with Spool(site).path.open("ab") as file:
            file.write(b'{"at": "2026-')  # as a crash leaves it
        assert codes(site, body("c3")) == [200]
    finally:
        slapd.start(site)
    assert codes(site, body("c4")) == [200]  # the next door writes those too
    assert not Spool(site)
    assert [status(site, name).get("skLevel") for name in ("c1", "c2", "c3", "c4")] == [["token"], *[["network"]] * 3]


def test_a_full_disk_sends_clients_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statelesskit.reports.spool.LIMIT_BYTES", 1500)
    slapd.stop(site)
    try:
        assert codes(site, *(body(f"c{number}") for number in range(8))) == [200, 200, 200, 503, 503, 503, 503, 503]
    finally:
        slapd.start(site)
    assert codes(site, body("c9")) == [200]


async def serve(root: str) -> None:
    """Be the door of a site until killed; what the next test runs in a process of its own."""
    async with listening(Writer(load_site(Path(root)))) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


@pytest.mark.parametrize("away", [False, True], ids=["directory there", "directory away"])
def test_what_was_promised_outlives_a_door_that_is_killed(site: Site, away: bool) -> None:
    code = f"import asyncio; from {__name__} import serve; asyncio.run(serve({str(site.root)!r}))"
    door = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert door.stdout
    try:
        url = door.stdout.readline().strip() + "report"
        if away:
            slapd.stop(site)
        promised: list[int] = []

        async def storm() -> None:
            async with ClientSession(connector=TCPConnector(limit=0)) as session:

                async def one(number: int) -> None:
                    with suppress(ClientError):
                        async with session.post(url, data=body(f"c{number}", counter=1)) as answer:
                            assert answer.status == 200
                            promised.append(number)
                            door.kill()

                await asyncio.gather(*map(one, range(CLIENTS)))

        asyncio.run(storm())
    finally:
        door.kill()
        door.communicate()
        slapd.start(site)
    assert promised
    codes(site, body("status"))  # the next door writes what waited
    assert not Spool(site)
    with open_directory(site) as directory:
        reported = {one.client for one in directory.reports()}
    assert {f"c{number}" for number in promised} <= reported
