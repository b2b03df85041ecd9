"""Clients by the table: imported, exported, taken back, with a real slapd; ldapsearch looks on."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.config import Site
from statelesskit.directory import Client, PrototypeEntry, SnapshotEntry, open_directory, slapd
from statelesskit.errors import ConflictError, StatelessError, UsageError
from statelesskit.site import init_site, start_site, stop_site
from tests.conftest import free_port

pytestmark = pytest.mark.slapd

AT = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
ONE, TWO = "desktop-20261121T073000Z", "desktop-20261122T073000Z"
HEADER = "name,mode,mac,channel,pin,groups,note\n"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site, _ = init_site(tmp_path_factory.mktemp("table") / "site", name="table", port=free_port())
    start_site(site)
    try:
        with open_directory(site) as directory:
            directory.add_prototype(PrototypeEntry("desktop"))
            for name, state in ((ONE, "released"), (TWO, "revoked")):
                directory.add_snapshot(SnapshotEntry(name, "desktop", f"sha256:{'1' * 64}", state, AT))
            directory.add_channel("desktop/stable", ONE, moved_by="anna", moved_at=AT, record="r1")
            for group in ("lab", "library"):
                members = {"objectClass": ["groupOfNames", "skAssignment"], "member": [site.base_dn]}
                directory.ldap.add(directory.layout.group(group), members, "group", group)
        yield site
    finally:
        stop_site(site)


@pytest.fixture
def site(started: Site) -> Iterator[Site]:
    start_site(started)
    yield started
    start_site(started)
    with open_directory(started) as directory:
        for client in directory.clients():
            directory.ldap.delete(directory.layout.client(client.name))
        for group in directory.groups():
            change = {"member": [("MODIFY_REPLACE", [directory.layout.base])]}
            assert directory.ldap.modify(directory.layout.group(group.name), change)


def perform(site: Site, verb: str, **parameters: object) -> service.Outcome:
    return service.perform(site, ACTIONS[verb].check(parameters), service.AT_ONCE)


def import_text(site: Site, text: str | bytes, **parameters: object) -> service.Outcome:
    path = site.root / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return perform(site, "client import", table=str(path), **parameters)


def entries(site: Site, rule: str = "(objectClass=skClient)") -> dict[str, dict[str, set[str]]]:
    """Return what ldapsearch finds, by DN: the independent witness."""
    argv = ["ldapsearch", "-Q", "-Y", "EXTERNAL", "-H", slapd.status(site).ldapi_uri, "-LLL", "-o", "ldif-wrap=no"]
    done = subprocess.run([*argv, "-b", site.base_dn, rule], capture_output=True, text=True, check=True)
    found = {}
    for block in done.stdout.strip().split("\n\n"):
        values: dict[str, set[str]] = {}
        for line in block.splitlines():
            kind, _, value = line.partition(":")
            values.setdefault(kind, set()).add(value.strip(": "))
        if values:
            found[values.pop("dn").pop()] = values
    return found


def test_a_table_is_entered(site: Site) -> None:
    table = (
        "\ufeffName;Mode;MAC;Channel;Groups;Note\r\n"
        "c1;diskless;52-54-00-12-34-56 5254.0012.3457;desktop/stable;lab library;by the window\r\n"
        'c2;caching;"525400123458;52:54:00:AB:CD:EF";desktop/stable;;"Größe, 2"\r\n'
        "\r\n"
        "c3;thick;;;lab;\r\n"
    )
    done = import_text(site, table)
    assert done.result == {"added": 3, "updated": 0, "removed": 0, "unchanged": 0, "skipped": 0, "changed": True}
    found = entries(site)
    assert found["cn=c1,ou=clients,ou=stateless"] == {
        "objectClass": {"device", "ieee802Device", "skClient"},
        "cn": {"c1"},
        "skClientMode": {"diskless"},
        "macAddress": {"52:54:00:12:34:56", "52:54:00:12:34:57"},
        "skChannelDN": {"cn=stable,cn=desktop,ou=prototypes,ou=stateless"},
        "description": {"by the window"},
    }
    assert found["cn=c2,ou=clients,ou=stateless"]["macAddress"] == {"52:54:00:12:34:58", "52:54:00:ab:cd:ef"}
    groups = entries(site, "(objectClass=groupOfNames)")
    assert groups["cn=lab,ou=groups,ou=stateless"]["member"] == {
        "ou=stateless", "cn=c1,ou=clients,ou=stateless", "cn=c3,ou=clients,ou=stateless",
    }  # fmt: skip
    assert all(row["ok"] for row in done.checks)
    again = import_text(site, table)
    assert again.result["unchanged"] == 3
    assert not again.plan.changes


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_entered(site: Site) -> None:
    import_text(site, HEADER + "old,live,52:54:00:00:00:01,,,,\n")
    table = (
        HEADER + "a,diskless,52:54:00:00:00:02,,,,\n"  # the one good row
        "A b,diskless,,,,,\n"
        "c,disk,52:54:00:00:00:02,,,,\n"
        "a,diskless,,,,,\n"
        "d,diskless,52:54:00:00:00:01,,,,\n"
        "e,diskless,52:54:00:00:00,desktop/stabel,,,\n"
        f"f,thick,,desktop/stable,{TWO},labor,\n"
        "g,,01:00:5e:00:00:01,,nothing,,\n"
        f'h,live,,,,,"{"x" * 65536}"\n'
        "i,live\n"
        "old,diskless,52:54:00:00:00:01,,,lab,\n"
        "=cmd|' /C calc'!A0,live,,,,,\n"
        "\0,live,,,,,\n"
    )
    with pytest.raises(UsageError) as error:
        import_text(site, table.encode() + b"k,live,,,,,caf\xe9\n")
    assert error.value.message.splitlines() == [
        "13 of 14 rows are not right, so nothing is entered:",
        "line 3: name: 'A b' is no name for a client",
        "line 4: mac: 52:54:00:00:00:02 is also in line 2",
        "line 4: mode: there is no mode 'disk', did you mean diskless?",
        "line 5: name: a is also in line 2",
        "line 6: mac: 52:54:00:00:00:01 belongs to client old",
        "line 7: channel: there is no channel 'desktop/stabel', did you mean desktop/stable?",
        "line 7: mac: '52:54:00:00:00' is no MAC address",
        "line 8: channel: a thick client is told nothing to run; leave it empty",
        "line 8: groups: there is no group 'labor', did you mean lab?",
        f"line 8: pin: {TWO} is revoked",
        "line 9: mac: '01:00:5e:00:00:01' is no single machine's MAC address",
        "line 9: mode: a new client needs one: diskless, caching, live, thick",
        "line 9: pin: there is no snapshot 'nothing'",
        "line 10: note: the note has 65536 characters, at most 4096 are kept",
        "line 11: it has 2 cells, the header has 7",
        "line 12: name: there is such a client with another mode, groups; --update changes it",
        "line 13: name: \"=cmd|' /C calc'!A0\" is no name for a client",
        "line 14: name: it holds a NUL",
        "line 15: note: 'caf\\\\udce9' is no UTF-8",
    ]
    assert set(entries(site)) == {"cn=old,ou=clients,ou=stateless"}
    done = import_text(site, table, skip_bad=True)
    assert (done.result["added"], done.result["skipped"]) == (1, 12)
    assert set(entries(site)) == {"cn=old,ou=clients,ou=stateless", "cn=a,ou=clients,ou=stateless"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("nam,mode\n", "no column 'nam', did you mean 'name'"),
        ("mode\nlive\n", "no column 'name'"),
        ("name,name\na,a\n", "there twice"),
        ('name,note\na,"never closed\n', "from line 2 on"),
        ("\ufeffname\n".encode("utf-16"), "UTF-16"),
        ("name\0,mode\n", "no column"),
        ("name,note\na," + "x" * (2 << 20), "from line 2 on"),
        ("PK\x03\x04\x14\x00\x06\x00", "no column"),
    ],
)
def test_what_is_no_table_is_refused(site: Site, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        import_text(site, text)


def test_what_is_there_is_changed_only_when_asked(site: Site) -> None:
    import_text(site, HEADER + "a,live,52:54:00:00:00:01,desktop/stable,,lab,old\nb,live,,,,,\n")
    table = f"name,mac,channel,pin,groups\na,52:54:00:00:00:09,,{ONE},lab library\nb,,,,\n"
    with pytest.raises(UsageError, match="line 2: name: there is such a client with another mac, channel, pin, groups"):
        import_text(site, table)
    done = import_text(site, table, update=True)
    assert (done.result["updated"], done.result["unchanged"]) == (1, 1)
    assert entries(site)["cn=a,ou=clients,ou=stateless"] == {
        "objectClass": {"device", "ieee802Device", "skClient"},
        "cn": {"a"},
        "skClientMode": {"live"},
        "macAddress": {"52:54:00:00:00:09"},
        "skSnapshotDN": {f"cn={ONE},cn=desktop,ou=prototypes,ou=stateless"},
        "description": {"old"},  # no column says otherwise
    }
    with pytest.raises(UsageError, match="groups: it is in library; an import takes nobody out"):
        import_text(site, "name,groups\na,lab\n", update=True)


def test_an_import_is_taken_back_but_for_what_was_changed_since(site: Site) -> None:
    before = import_text(site, HEADER + "a,live,52:54:00:00:00:01,desktop/stable,,lab,old\nb,live,,,,lab,\n")
    was = entries(site, "(|(objectClass=skClient)(objectClass=groupOfNames))")
    rows = "a,thick,52:54:00:00:00:02,,,lab library,new\nc,live,,,,lab,\nd,live,,,,,\n"
    done = import_text(site, HEADER + rows, update=True)
    with open_directory(site) as directory:
        directory.ldap.modify(directory.layout.client("d"), {"description": [("MODIFY_REPLACE", ["mine now"])]})
    undone = perform(site, "client undo", record=done.record)
    assert undone.plan.facts["alone"] == ["d"]
    assert undone.result == {"added": 0, "updated": 1, "removed": 1, "left alone": 1, "changed": True}
    now = entries(site, "(|(objectClass=skClient)(objectClass=groupOfNames))")
    assert now.pop("cn=d,ou=clients,ou=stateless")["description"] == {"mine now"}
    assert now == was
    again = perform(site, "client undo", record=done.record)
    assert not again.plan.changes
    redone = perform(site, "client undo", record=undone.record)  # which is an import of its own
    assert redone.result["added"] == 1
    assert entries(site)["cn=a,ou=clients,ou=stateless"]["description"] == {"new"}
    with pytest.raises(UsageError, match="changed nothing"):
        perform(site, "client undo", record=again.record)
    assert before.record != done.record


def test_only_the_plan_that_was_recorded_is_taken_back(site: Site) -> None:
    done = import_text(site, HEADER + "a,live,,,,,\n")
    plan = site.records / done.record / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"a"', b'"b"'))
    with pytest.raises(StatelessError, match="was changed since"):
        perform(site, "client undo", record=done.record)


def test_what_another_did_meanwhile_is_named_and_all_else_is_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from statelesskit.actions.import_clients import ImportClients

    rows = "".join(f"c{number:03},live,52:54:00:00:01:{number:02x},,,,\n" for number in range(250))
    apply = ImportClients.apply

    def raced(self: ImportClients, site: Site, plan: object, work: object) -> dict[str, object]:
        with open_directory(site) as directory:
            directory.add_client(Client("c120", "thick"))
            directory.add_client(Client("other", "live", ("52:54:00:00:01:ff", "52:54:00:00:01:0a")))
        return apply(self, site, plan, work)

    monkeypatch.setattr(ImportClients, "apply", raced)
    with pytest.raises(ConflictError, match="2 changes were refused") as error:
        import_text(site, HEADER + rows)
    assert "c120: entryAlreadyExists" in error.value.message
    assert "c010: constraintViolation: non-unique attributes" in error.value.message
    found = entries(site)
    assert len(found) == 250
    assert found["cn=c120,ou=clients,ou=stateless"]["skClientMode"] == {"thick"}


KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.config import load_site
from statelesskit.directory import operations, slapd, wire
site = load_site(Path(sys.argv[1]))
commit, left = wire.tell, [4]
def counted(connection, requests):
    left[0] -= 1
    if not left[0]:
        if sys.argv[3] == "server":
            pid = slapd.status(site).pid
            threading.Timer(0.005, os.kill, (pid, signal.SIGKILL)).start()  # while it works on it
            commit(connection, requests)
            time.sleep(0.1)
        elif sys.argv[3] == "us in the midst":
            threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGKILL)).start()
            commit(connection, requests)
            time.sleep(1)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return commit(connection, requests)
wire.tell = counted
service.perform(site, ACTIONS["client import"].check({"table": sys.argv[2]}), service.AT_ONCE)
"""


@pytest.mark.parametrize("whom", ["us", "us in the midst", "server"])
@pytest.mark.parametrize("then", ["again", "undo"])
def test_a_kill_in_the_middle_leaves_what_can_be_gone_on_with_or_undone(site: Site, whom: str, then: str) -> None:
    import_text(site, HEADER + "old,live,52:54:00:00:00:01,,,,\n")
    was, records = entries(site), {path.name for path in site.records.iterdir()}
    table = site.root / "many.csv"
    rows = "".join(f"c{number:03},live,52:54:00:00:01:{number:02x},,,lab,\n" for number in range(250))
    table.write_text(HEADER + rows)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, site.root, table, whom], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == (1 if whom == "server" else -signal.SIGKILL), done.stderr
    time.sleep(0.2)
    assert slapd.status(site).running is (whom != "server")  # a client that dies takes no server with it
    start_site(site)
    left = entries(site)
    assert len(left) == 1 + 200 if whom == "us" else 1 + 200 <= len(left) <= 1 + 250
    [record] = {path.name for path in site.records.glob("*client-import*")} - records
    if then == "again":
        done = perform(site, "client import", table=str(table))
        assert done.result["added"] == 1 + 250 - len(left)
        assert len(entries(site)) == 251
        lab = entries(site, "(cn=lab)")["cn=lab,ou=groups,ou=stateless"]["member"]
        assert len(lab) == 1 + 250
    else:
        perform(site, "client undo", record=record)
        assert entries(site) == was


def test_an_export_comes_back_as_it_was(site: Site, tmp_path: Path) -> None:
    notes = [
        "plain",
        "=1+1",
        "'quoted",
        "'=x",
        "-5",
        "@a",
        "two\nlines",
        'a "word", and; more',
        " space ",
        "\ttab",
        "Größe 🖥",
    ]
    with open_directory(site) as directory:
        for number, note in enumerate(notes):
            macs = (f"52:54:00:00:02:{number:02x}", f"52:54:00:00:03:{number:02x}")
            directory.add_client(Client(f"c{number:02}", "live", macs, "desktop/stable", ONE, note))
        change = {"member": [("MODIFY_ADD", [directory.layout.client("c03"), directory.layout.client("c00")])]}
        assert directory.ldap.modify(directory.layout.group("lab"), change)
        was = directory.clients()
    groups = entries(site, "(cn=lab)")
    table = tmp_path / "table.csv"
    cli(site, "client", "export", str(table))
    with table.open(newline="") as file:
        assert not [
            cell for row in csv.reader(file) for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        ]
    done = perform(site, "client import", table=str(table))
    assert done.result["unchanged"] == len(notes)
    with open_directory(site) as directory:
        for client in was:
            directory.remove_client(client.name)
        directory.ldap.modify(directory.layout.group("lab"), {"member": [("MODIFY_REPLACE", [directory.layout.base])]})
    piped = subprocess.run(
        [sys.executable, "-m", "statelesskit", "--site", site.root, "client", "import", "-", "--json"],
        input=table.read_bytes(), capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(piped.stdout)["added"] == len(notes)
    with open_directory(site) as directory:
        assert directory.clients() == was
    assert entries(site, "(cn=lab)") == groups
    assert cli(site, "client", "export", "-") == table.read_text()
    rows = [json.loads(line) for line in cli(site, "client", "export", "-", "--json").splitlines()]
    assert [row["note"] for row in rows] == notes


def cli(site: Site, *words: str) -> str:
    argv = [sys.executable, "-m", "statelesskit", "--site", str(site.root), *words]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()
