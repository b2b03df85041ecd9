"""A directory of version 1, made with the schema of then, becomes one of today's; cut off anywhere, too."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.audit.keys import create_record_key
from statelesskit.audit.listing import list_records
from statelesskit.config import Site
from statelesskit.directory import Directory, access, conf, open_directory, slapd
from statelesskit.directory.migration import STEPS, migrate, steps_from
from statelesskit.directory.operations import Operations
from statelesskit.directory.pushes import pushes
from statelesskit.directory.schema import VERSION
from statelesskit.errors import ConflictError, FormatError, NotFoundError, RefusedError
from statelesskit.progress import SILENT, Progress
from tests.weather import killed_after

pytestmark = pytest.mark.slapd

BASE = "ou=stateless"
DESKTOP = f"cn=desktop,ou=prototypes,{BASE}"
SNAPSHOT = "desktop-20261121T073000Z"
PINNED = f"skSnapshotDN: cn={SNAPSHOT},{DESKTOP}\n"
# As version 1 wrote it: no roles, no accounts, no history, references of thick clients in the pin.
FLEET = (
    f"dn: {BASE}\nobjectClass: skDirectory\nskSchemaVersion: 1\n\n"
    + "".join(
        f"dn: ou={name},{BASE}\nobjectClass: organizationalUnit\n\n"
        for name in ("prototypes", "clients", "groups", "pushes")
    )
    + f"dn: {DESKTOP}\nobjectClass: skPrototype\n\n"
    f"dn: cn={SNAPSHOT},{DESKTOP}\nobjectClass: skSnapshot\nskManifestDigest: sha256:{'a' * 64}\n"
    "skCreated: 20261121073000Z\nskSnapshotState: released\n\n"
    f"dn: cn=stable,{DESKTOP}\nobjectClass: skChannel\nskSerial: 3\n{PINNED}"
    "skMovedBy: anna\nskMovedAt: 20261123073000Z\nskRecord: r1\n\n"
    + "".join(
        f"dn: cn=t{number},ou=clients,{BASE}\nobjectClass: device\nobjectClass: skClient\n"
        f"skClientMode: thick\n{PINNED}\n"
        for number in range(3)
    )
    + f"dn: cn=d1,ou=clients,{BASE}\nobjectClass: device\nobjectClass: skClient\nskClientMode: diskless\n{PINNED}"
)


def load(site: Site, text: str, tool: str = "ldapadd") -> None:
    argv = [tool, "-Q", "-Y", "EXTERNAL", "-H", conf.ldapi_uri(site)]
    subprocess.run(argv, input=text, text=True, check=True, timeout=60, capture_output=True)


def version_of(site: Site) -> str:
    argv = ["ldapsearch", "-Q", "-LLL", "-Y", "EXTERNAL", "-H", conf.ldapi_uri(site), "-b", BASE, "-s", "base"]
    done = subprocess.run([*argv, "skSchemaVersion"], text=True, check=True, timeout=60, capture_output=True)
    return done.stdout.partition("skSchemaVersion: ")[2].split()[0]


@pytest.fixture
def old(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose directory was made by version 1 and is served with its schema, and rules that know no more."""
    create_record_key(site.keys)
    schema = (Path(__file__).parent.parent / "version-1.schema").read_text()
    monkeypatch.setattr(conf, "openldap_schema", lambda: schema)
    monkeypatch.setattr(access, "REPORTED", "skRunningSnapshotDN,skCachedSnapshotDN,skLastSeen,skLastResult,skSerial")
    slapd.start(site)
    monkeypatch.undo()
    try:
        load(site, FLEET)
        yield site
    finally:
        slapd.stop(site)


def restart(site: Site) -> Site:
    """Stop it and start it again, which loads today's schema."""
    slapd.stop(site)
    slapd.start(site)
    return site


def check_migrated(site: Site) -> None:
    with open_directory(site) as directory:
        clients = {one.name: one for one in directory.clients()}
        assert {(clients[name].reference, clients[name].pin) for name in ("t0", "t1", "t2")} == {(SNAPSHOT, None)}
        assert (clients["d1"].reference, clients["d1"].pin) == (None, SNAPSHOT)
        (push,) = pushes(directory, "desktop/stable")
        assert (push.serial, push.after, push.moved_by, push.record) == (3, SNAPSHOT, "anna", "r1")
        assert push.moved_at == datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
        assert not [step.what for step in STEPS if step.pending(directory)]
    assert version_of(site) == str(VERSION)


def test_an_old_directory_is_refused_until_it_is_migrated(old: Site) -> None:
    with pytest.raises(FormatError, match="schema version 1") as refused:
        open_directory(old)
    assert "site migrate" in refused.value.hint
    with pytest.raises(RefusedError, match="has not loaded the schema") as unloaded:
        service.plan(old, ACTIONS["site migrate"].check({}))
    assert "site stop, then site start" in unloaded.value.hint
    restart(old)
    run = [sys.executable, "-m", "statelesskit", "--site", str(old.root), "site", "migrate"]
    planned = subprocess.run([*run, "--plan"], capture_output=True, text=True, check=True, timeout=60)
    assert "from version 1 to 2" in planned.stdout
    assert version_of(old) == "1"
    for changed in (6, None):  # two folders, three clients, one channel; then nothing
        done = subprocess.run([*run, "--json"], capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(done.stdout).get("entries_changed") == changed
        check_migrated(old)
    (record,) = list(old.records.glob("*site-migrate*"))[:1]
    assert (record / "statement.dsse.json").exists()


class CutOffError(Exception):
    """As kill -9: nothing is cleaned up."""


@pytest.mark.parametrize("after", range(8))
def test_cut_off_between_any_two_changes(old: Site, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    restart(old)
    done = 0

    def limited(change: Any) -> Any:
        def cut(self: Operations, *given: Any) -> Any:
            nonlocal done
            if done == after:
                raise CutOffError
            done += 1
            return change(self, *given)

        return cut

    for name in ("add", "modify"):
        monkeypatch.setattr(Operations, name, limited(getattr(Operations, name)))
    with open_directory(old, any_version=True) as directory:
        if after == 7:  # two folders, three clients, a channel, the version: that is all
            assert migrate(directory, 1, SILENT) == 6
        else:
            with pytest.raises(CutOffError):
                migrate(directory, 1, SILENT)
            assert version_of(old) == "1"
            check_both_rules(directory)
    monkeypatch.undo()
    service.perform(old, ACTIONS["site migrate"].check({}), service.AT_ONCE)
    check_migrated(old)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_slapd_killed_in_the_middle_of_it(old: Site, part: float) -> None:
    thick = f"objectClass: device\nobjectClass: skClient\nskClientMode: thick\n{PINNED}\n"
    load(restart(old), "".join(f"dn: cn=u{number},ou=clients,{BASE}\n{thick}" for number in range(100)))
    done = 0

    class Counted(Progress):
        def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
            nonlocal done
            done += amount
            if done == part * 100:
                reached.set()

    def migrate() -> None:
        service.perform(old, ACTIONS["site migrate"].check({}), service.AT_ONCE, progress=Counted())

    reached = threading.Event()
    error = killed_after(old, 0, migrate, when=reached)
    assert error is not None
    assert list_records(old.records)[-1].state == "failed"
    with open_directory(old, any_version=True) as directory:
        assert directory.version() == 1
        check_both_rules(directory)
        assert {one.reference or one.pin for one in directory.clients() if one.mode == "thick"} == {SNAPSHOT}
    service.perform(old, ACTIONS["site migrate"].check({}), service.AT_ONCE)
    check_migrated(old)


def check_both_rules(directory: Directory) -> None:
    """What the half-migrated directory says is the same to either version: who runs what has not changed."""
    clients = {one.name: one for one in directory.clients()}
    assert all(SNAPSHOT in (clients[name].reference, clients[name].pin) for name in ("t0", "t1", "t2"))
    assert clients["d1"].pin == SNAPSHOT
    assert directory.channel("desktop/stable").serial == 3


def test_what_others_change_meanwhile_is_not_passed_over(old: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    restart(old)
    modify = Operations.modify

    def with_an_older_tool_beside(self: Operations, dn: str, changes: Any) -> bool:
        late = (
            f"dn: cn=late,ou=clients,{BASE}\nobjectClass: device\nobjectClass: skClient\nskClientMode: thick\n{PINNED}"
        )
        monkeypatch.setattr(Operations, "modify", modify)
        load(old, late)
        return modify(self, dn, changes)

    monkeypatch.setattr(Operations, "modify", with_an_older_tool_beside)
    with open_directory(old, any_version=True) as directory:
        with pytest.raises(ConflictError, match="changed meanwhile"):
            migrate(directory, 1, SILENT)
        assert version_of(old) == "1"
        migrate(directory, 1, SILENT)
        with pytest.raises(ConflictError):  # somebody else has raised it
            migrate(directory, 1, SILENT)
    check_migrated(old)


def test_newer_and_empty_directories(old: Site) -> None:
    load(old, f"dn: {BASE}\nchangetype: modify\nreplace: skSchemaVersion\nskSchemaVersion: 99\n", "ldapmodify")
    with pytest.raises(FormatError, match="schema version 99"):
        service.plan(old, ACTIONS["site migrate"].check({}))
    argv = ["ldapdelete", "-r", "-Q", "-Y", "EXTERNAL", "-H", conf.ldapi_uri(old), BASE]
    subprocess.run(argv, check=True, timeout=60, capture_output=True)
    with pytest.raises(NotFoundError, match="no directory"):
        service.plan(old, ACTIONS["site migrate"].check({}))


def test_every_version_has_its_steps() -> None:
    assert [step.version for step in STEPS] == sorted(step.version for step in STEPS)
    assert {step.version for step in STEPS} == set(range(2, VERSION + 1))
    assert steps_from(VERSION) == []
