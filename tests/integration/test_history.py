"""The change log of a real slapd: the past rebuilt exactly, and what was done past the product."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ldap3
import pytest
from ldap3.core.exceptions import LDAPOperationResult

from statelesskit import service, unrecorded
from statelesskit.actions import ACTIONS
from statelesskit.config import Site
from statelesskit.directory import Directory, authorship, ber, open_directory, slapd
from statelesskit.directory.changelog import changes, reaches_back_to
from statelesskit.directory.conf import CHANGELOG, slapd_conf
from statelesskit.directory.consistency import Finding
from statelesskit.directory.layout import split_dn
from statelesskit.directory.past import State, moment, read_state, state_at
from statelesskit.errors import NotFoundError, RefusedError, UsageError
from statelesskit.site import init_site, start_site, stop_site
from statelesskit.snapshot import list_snapshots
from statelesskit.unrecorded import unrecorded_changes
from tests.conftest import free_port
from tests.fleet import perform, small_root

pytestmark = pytest.mark.slapd

BASE = "ou=stateless"
CONTROL = re.compile('controlValue "([0-9A-F]+)"')
# Of an entry that was removed, slapo-accesslog keeps all but these two.
NOT_KEPT = {"modifiersName", "modifyTimestamp"}


@pytest.fixture
def directory(site: Site) -> Iterator[Directory]:
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            yield directory
    finally:
        slapd.stop(site)


def essence(state: State) -> dict[str, tuple[tuple[str, ...], dict[str, frozenset[bytes]]]]:
    return {
        uuid: (
            tuple(rdn.lower() for rdn in split_dn(one.dn)),
            {name: frozenset(values) for name, values in one.values.items() if name not in NOT_KEPT and values},
        )
        for uuid, one in state.entries.items()
    }


class Chaos:
    """Random changes of all kinds, some of them absurd."""

    TEXTS = ("", "a\nb: c", "é\0", " x ", "y" * 3000, "plain", "#", "a,b+c=d", "<&>", "\x1b[2J")

    def __init__(self, directory: Directory, seed: int) -> None:
        self.random = random.Random(seed)
        self.raw = directory.ldap._link.connection
        self.dns: list[str] = []
        self.made = 0

    def step(self) -> None:
        with suppress(LDAPOperationResult):  # what the server refuses leaves nothing, in the log neither
            self._step()

    def _step(self) -> None:
        pick = self.random.choice
        doing = pick(["add", "add", "modify", "modify", "modify", "rename", "delete", "move", "tree"])
        if doing == "add" or not self.dns:
            self.made += 1
            rdn = pick([f"cn=c{self.made}", f"CN=C{self.made}\\,x", f"cn=m{self.made}+description=d{self.made}"])
            dn = f"{rdn},ou={pick(['clients', 'groups'])},{BASE}"
            self.raw.add(dn, ["device", "skClient"], {"skClientMode": "live", "description": self.texts(dn)})
            self.dns.append(dn)
        elif doing == "modify":
            dn = pick(self.dns)
            changes = {
                "serialNumber": [(ldap3.MODIFY_REPLACE, [str(self.random.random()) for _ in range(pick([0, 1, 3]))])],
                "skKernelArg": [(ldap3.MODIFY_ADD, [f"a={self.random.random()}"])],
                "description;lang-de": [(ldap3.MODIFY_REPLACE, self.texts(dn))],
                "commonName": [(ldap3.MODIFY_ADD, [f"also-{self.random.random()}"])],
                "skClientMode": [(ldap3.MODIFY_DELETE, []), (ldap3.MODIFY_ADD, [pick(["thick", "caching"])])],
            }
            chosen = self.random.sample(sorted(changes), pick([1, 2, 5]))
            self.raw.modify(dn, {name: changes[name] for name in chosen})
        elif doing == "delete":
            dn = pick(self.dns)
            self.raw.delete(dn)
            self.dns.remove(dn)
        elif doing in ("rename", "move"):
            dn = pick(self.dns)
            self.made += 1
            rdn = pick([f"cn=r{self.made}", f"cn=also{self.made}+serialNumber={self.made}"])
            folder, above = f"ou={pick(['clients', 'groups', 'pushes'])},{BASE}", ",".join(split_dn(dn)[1:])
            target = folder if doing == "move" else None
            self.raw.modify_dn(dn, rdn, delete_old_dn=pick([True, False]), new_superior=target)
            self.dns.remove(dn)
            self.dns.append(f"{rdn},{target or above}")
        else:
            self.made += 1
            top = f"cn=p{self.made},ou=prototypes,{BASE}"
            self.raw.add(top, ["skPrototype"], {})
            self.raw.add(f"cn=stable,{top}", ["skChannel"], {"skSerial": "1"})
            self.raw.modify(f"cn=stable,{top}", {"skSerial": [(ldap3.MODIFY_INCREMENT, ["4"])]})
            self.raw.modify_dn(top, f"cn=q{self.made}")
            if pick([True, False]):
                self.raw.delete(f"cn=stable,cn=q{self.made},ou=prototypes,{BASE}")
                self.raw.delete(f"cn=q{self.made},ou=prototypes,{BASE}")

    def texts(self, dn: str) -> list[str]:
        return self.random.sample([text for text in self.TEXTS if text], self.random.choice([1, 2]))


@pytest.mark.parametrize("seed", range(4))
def test_the_past_is_rebuilt_exactly(directory: Directory, seed: int) -> None:
    chaos = Chaos(directory, seed)
    known = []
    for _ in range(12):
        for _ in range(chaos.random.choice([1, 5, 15])):
            chaos.step()
        truth = essence(read_state(directory))
        known.append((datetime.now(UTC), truth))
        time.sleep(0.002)
    for at, truth in chaos.random.sample(known, len(known)):
        found = state_at(directory, at)
        assert found.gaps == []
        assert essence(found) == truth


def test_what_changes_meanwhile_does_not_blur_the_past(site: Site, directory: Directory) -> None:
    chaos = Chaos(directory, 99)
    for _ in range(60):
        chaos.step()
    at, truth = datetime.now(UTC), essence(read_state(directory))
    done = threading.Event()

    def disturb(seed: int) -> None:
        with open_directory(site) as mine:
            other = Chaos(mine, seed)
            other.dns, other.made = list(chaos.dns), seed * 1000
            while not done.is_set():
                other.step()

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(disturb, seed) for seed in (1, 2, 3)]
        try:
            for _ in range(8):
                found = state_at(directory, at)
                assert found.gaps == []
                assert essence(found) == truth
                # The present too is of one moment, though it is read page by page.
                found = state_at(directory)
                assert found.gaps == []
        finally:
            done.set()
        for one in running:
            one.result(timeout=30)


def test_the_log_says_how_far_back_it_reaches(site: Site, directory: Directory) -> None:
    with pytest.raises(NotFoundError, match="the change log reaches back to"):
        state_at(directory, datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(UsageError, match="still to come"):
        state_at(directory, datetime.now(UTC) + timedelta(seconds=5))
    slapd.stop(site)
    purging = dataclasses.replace(site, keep_changes_days=7)
    assert "logpurge 7+00:00 1+00:00\n" in slapd_conf(purging)
    slapd.start(purging)  # slapd takes it
    with open_directory(site) as again:
        assert essence(state_at(again)) == essence(read_state(again))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-23T07:30:00", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("2026-11-23T07:30:00Z", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("2026-11-23T08:30:00+01:00", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("2020-11-23", datetime(2020, 11, 23, 23, 59, 59, 999999, tzinfo=UTC)),
    ],
)
def test_times_people_write(text: str, at: datetime) -> None:
    assert moment(text) == at


# --- past the product ---------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Site]:
    """A site of its own, with a prototype of two snapshots, a channel and a client, all made by actions."""
    tree = small_root(tmp_path / "tree")
    site, _ = init_site(tmp_path / "site", name="test", port=free_port())
    start_site(site)
    try:
        perform(site, "prototype create", name="desktop", source=f"at:{tree}")
        for motd in ("one", "two"):
            (tree / "etc/motd").write_text(motd)
            perform(site, "snapshot take", prototype="desktop")
        perform(site, "channel create", channel="desktop/stable", snapshot=names(site)[0])
        perform(site, "client add", name="c1", mode="diskless", mac="52:54:00:00:00:01", channel="desktop/stable")
        yield site
    finally:
        stop_site(site)


def names(site: Site) -> list[str]:
    return [snapshot.name for snapshot in list_snapshots(site)]


def ldap(site: Site, program: str, *words: str, stdin: str = "") -> None:
    argv = [program, "-Q", "-Y", "EXTERNAL", "-H", slapd.status(site).ldapi_uri, *words]
    subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=True)


def found(site: Site) -> list[Finding]:
    with open_directory(site) as directory:
        return list(unrecorded_changes(site, directory))


def test_what_the_product_does_is_never_named(running: Site) -> None:
    perform(running, "push apply", channel="desktop/stable", snapshot=names(running)[1])
    perform(running, "push rollback", channel="desktop/stable")
    perform(running, "snapshot state", snapshot=names(running)[1], state="revoked")
    assert found(running) == []
    with open_directory(running) as directory:
        assert len(changes(directory.ldap)) >= 12


def test_two_hundred_changes_past_the_product_are_all_named(running: Site) -> None:
    two = names(running)[1]
    clients, stable = f"ou=clients,{BASE}", f"cn=stable,cn=desktop,ou=prototypes,{BASE}"
    add = "".join(
        f"dn: cn=x{n},{clients}\nobjectClass: device\nobjectClass: skClient\nskClientMode: live\n\n" for n in range(80)
    )
    modify = "".join(
        f"dn: cn=x{n},{clients}\nchangetype: modify\nreplace: description\ndescription: {n}\n\n" for n in range(40)
    )
    ldap(running, "ldapadd", stdin=add)
    perform(running, "push apply", channel="desktop/stable", snapshot=two)
    ldap(running, "ldapmodify", stdin=modify)
    perform(running, "client add", name="c2", mode="thick")
    for number in range(37):
        ldap(running, "ldapmodrdn", "-r", f"cn=x{number},{clients}", f"cn=y{number}")
    ldap(running, "ldapdelete", *(f"cn=y{number},{clients}" for number in range(37)))
    perform(running, "push rollback", channel="desktop/stable")
    with open_directory(running) as directory:
        channel = directory.channel("desktop/stable")
    change = f"dn: {stable}\nchangetype: modify\nreplace: "
    target = f"cn={two},cn=desktop,ou=prototypes,{BASE}"
    ldap(running, "ldapmodify", stdin=f"{change}skSnapshotDN\nskSnapshotDN: {target}\n")
    ldap(running, "ldapmodify", stdin=f"{change}skSerial\nskSerial: 9\n")
    ldap(running, "ldapmodify", stdin=f"{change}skRecord\nskRecord: {channel.record}\n")
    ldap(
        running,
        "ldapmodify",
        stdin=f"dn: cn=c1,{clients}\nchangetype: modify\nadd: skSnapshotDN\nskSnapshotDN: {target}\n",
    )
    ldap(running, "ldapdelete", f"cn=c2,{clients}")
    ldap(running, "ldapadd", stdin=f"dn: cn=lab,ou=groups,{BASE}\nobjectClass: groupOfNames\nmember: {BASE}\n")
    rows = found(running)
    assert len(rows) == 200
    assert {row.finding.partition(": ")[2] for row in rows} == {"no record made it; somebody used another tool"}
    named = {row.object for row in rows}
    assert {
        "channel desktop/stable",
        "client c1",
        "client c2",
        "group lab",
        *(f"client x{n}" for n in range(80)),
    } < named


def test_what_is_acknowledged_is_named_no_more(running: Site) -> None:
    ldap(running, "ldapdelete", f"cn=c1,ou=clients,{BASE}")
    [row] = found(running)
    assert row.object == "client c1"
    with pytest.raises(RefusedError):
        service.perform(running, ACTIONS["directory acknowledge"].check({"reason": "x"}), service.AUTO)
    perform(running, "directory acknowledge", reason="the machine went up in smoke")
    assert found(running) == []
    statelesskit(running, "directory", "check", "--json", code=0)
    ldap(running, "ldapmodify", stdin=f"dn: {BASE}\nchangetype: modify\nadd: description\ndescription: x\n")
    assert [row.object for row in found(running)] == [BASE]
    assert perform(running, "directory acknowledge", reason="again")["changed"] is True
    assert perform(running, "directory acknowledge", reason="again")["changed"] is False


def test_a_borrowed_record_is_told_apart(running: Site) -> None:
    two = names(running)[1]
    dn = f"cn=c1,ou=clients,{BASE}"
    perform(running, "push apply", channel="desktop/stable", snapshot=two)
    with open_directory(running) as directory:
        logged = directory.ldap.search(CHANGELOG, "reqType=modify", attributes=("reqControls",))
        values = [match[1] for entry in logged for match in [CONTROL.search(entry.text("reqControls"))] if match]
        raw = directory.ldap._link.connection

        def forge(control: authorship.Control) -> None:
            raw.modify(dn, {"serialNumber": [(ldap3.MODIFY_REPLACE, [str(random.random())])]}, controls=[control])

        [claim] = [change.claim for change in changes(directory.ldap) if change.kind == "modify"]
        assert claim
        [key] = unrecorded._made_by(running, claim.record).keys  # type: ignore[union-attr]
        forge((authorship.SESSION_TRACKING, False, bytes.fromhex(values[0])))  # a mark seen in the log
        for record, number, made_with in (
            (claim.record, 77, key),  # after its end, with the key its record tells everybody then
            (claim.record, 78, b"x" * 16),
            ("20260101T000000Z-push-apply-00000000", 1, key),
            ("../keys", 1, key),
        ):
            mark = authorship.mark_of(made_with, record, number)
            texts = ("", "statelesskit", authorship.FORMAT, f"{record} {number} {mark}")
            forge((authorship.SESSION_TRACKING, False, authorship._encoded(texts)))
        for garbage in (b"", b"\x30\x80", b"\x30\x05\x04\x00\x04\x00\x04", b"\xff" * 500, b"\x30" * 3000):
            with suppress(LDAPOperationResult):
                forge((authorship.SESSION_TRACKING, False, garbage))
    faults = [row.finding.partition(": ")[2] for row in found(running)]
    assert faults[:5] == [
        f"it repeats the mark of another change of record {claim.record}, which did not make it",
        f"it names the record {claim.record}, which did not run then",
        f"it names the record {claim.record}, which did not make it",
        "it names the record 20260101T000000Z-push-apply-00000000, which is not there",
        "it names the record ../keys, which is not there",
    ]
    assert set(faults[5:]) == {"no record made it; somebody used another tool"}


def test_a_change_that_is_in_no_log_is_named(running: Site) -> None:
    stop_site(running)
    conf = str(running.directory / "slapd.conf")
    change = f"dn: cn=c1,ou=clients,{BASE}\nchangetype: modify\nreplace: skClientMode\nskClientMode: live\n"
    subprocess.run(["/usr/sbin/slapmodify", "-f", conf, "-b", BASE], input=change, text=True, check=True)
    start_site(running)
    [row] = found(running)
    assert row.object == "client c1"
    assert row.finding.endswith("the change log does not tell it")
    with open_directory(running) as directory:
        before = state_at(directory, reaches_back_to(directory.ldap))
    assert before.gaps
    assert all("cn=c1," in gap for gap in before.gaps)


def test_a_refused_transaction_spoils_nothing_and_blurs_nothing(running: Site) -> None:
    """Without the entry of all attributes, slapd would store what comes after it unreadably."""

    def client(name: str, mode: str) -> bytes:
        entry = {"objectClass": ["device", "skClient"], "skClientMode": [mode], "skKernelArg": ["quiet"]}
        return ber.add(f"cn={name},ou=clients,{BASE}", entry)

    began = datetime.now(UTC)
    with open_directory(running) as directory:
        before = essence(read_state(directory))
    for turn in range(5):
        with service.recorded_if_changed(running, "import"), open_directory(running) as directory:
            bodies = [client(f"t{turn}{number}", mode) for number, mode in enumerate(("live", "thick", "bad"))]
            assert list(directory.ldap.change_all(bodies, lambda _: None)) == [2]
    stop_site(running)
    start_site(running)
    with open_directory(running) as directory:
        assert len(directory.clients()) == 11
        assert found(running) == []
        then = state_at(directory, began)
        assert (then.gaps, essence(then)) == ([], before)


# --- the command line -----------------------------------------------------------------------------


def statelesskit(site: Site, *words: str, code: int = 0) -> list[dict[str, Any]]:
    argv = [sys.executable, "-m", "statelesskit", "--site", str(site.root), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()] if "--json" in words else []


def test_what_a_client_was_told_then(running: Site) -> None:
    one, two = names(running)
    perform(running, "client add", name="c2", mode="live", channel="desktop/stable")
    before = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    [then] = statelesskit(running, "client", "explain", "c1", "--json")
    pushed = perform(running, "push apply", channel="desktop/stable", snapshot=two)
    ldap(running, "ldapdelete", f"cn=c2,ou=clients,{BASE}")
    [told] = statelesskit(running, "directory", "at", before, "--client", "c1", "--json")
    assert all(told[name] == then[name] for name in ("snapshot", "digest", "because"))
    assert (told["snapshot"], told["gaps"]) == (one, [])
    assert [row["client"] for row in statelesskit(running, "directory", "at", before, "--json")] == ["c1", "c2"]
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert statelesskit(running, "directory", "at", today, "--client", "c1", "--json")[0]["snapshot"] == two
    statelesskit(running, "directory", "at", today, "--client", "c2", code=2)
    statelesskit(running, "directory", "at", "2020-01-01", "--client", "c1", code=2)
    statelesskit(running, "directory", "at", "2999-01-01", code=2)
    statelesskit(running, "directory", "at", "yesterday", code=2)

    channel, client, push = statelesskit(running, "directory", "diff", before, "now", "--json")
    assert (channel["object"], channel["name"], channel["change"]) == ("channel", "desktop/stable", "changed")
    assert channel["fields"]["snapshot"] == [one, two]
    assert channel["fields"]["serial"] == ["1", "2"]
    assert channel["record"] == pushed["record"]
    assert channel["by"]
    assert (client["object"], client["name"], client["change"]) == ("client", "c2", "removed")
    assert client["fields"] == {"mode": ["live", ""], "channel": ["desktop/stable", ""]}
    assert client["record"] is None
    assert (push["object"], push["name"], push["change"]) == ("push", "desktop/stable/2", "added")
    assert statelesskit(running, "directory", "diff", "now", "now", "--json") == []

    # A backup tells the same, also when the server's own log is gone.
    [made] = statelesskit(running, "site", "backup", str(running.root / "b.ldif"), "--json")
    shutil.rmtree(running.directory / "changelog")
    stop_site(running)
    again = statelesskit(
        running, "directory", "at", before, "--client", "c1", "--backup", str(made["backup"]), "--json"
    )
    assert again == [told]
