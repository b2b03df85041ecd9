"""Backup and restore of a real directory: exact, refused when damaged, whole or not at all."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.config import Site
from statelesskit.directory import open_directory, slapd
from statelesskit.directory.backup import make_backup, read_backup
from statelesskit.directory.changelog import changes
from statelesskit.directory.past import State, read_state, state_at
from statelesskit.directory.replica import init_replica
from statelesskit.directory.restoring import restored_folder
from statelesskit.errors import (
    ConflictError,
    DamagedError,
    ExistsError,
    FormatError,
    NotFoundError,
    RefusedError,
)
from statelesskit.site import start_site, stop_site
from statelesskit.unrecorded import unrecorded_changes
from tests.conftest import free_port
from tests.fleet import perform
from tests.integration.test_history import BASE, essence, ldap, names, running

pytestmark = pytest.mark.slapd
__all__ = ["running"]


def backup(site: Site, path: Path) -> Path:
    with open_directory(site) as directory:
        make_backup(site, directory, path)
    return path


def state(site: Site) -> State:
    with open_directory(site) as directory:
        return read_state(directory)


def restore(site: Site, path: Path, *, move_clients: bool = True) -> dict[str, object]:
    return perform(site, "site restore", backup=str(path), move_clients=move_clients)


def spoil(site: Site) -> None:
    """Change the directory in all ways: by the product and past it."""
    perform(site, "push apply", channel="desktop/stable", snapshot=names(site)[1])
    perform(site, "client add", name="c2", mode="thick", note="a\nb: ü")
    perform(site, "channel create", channel="desktop/testing", snapshot=names(site)[1])
    ldap(site, "ldapdelete", f"cn=c1,ou=clients,{BASE}")
    ldap(site, "ldapmodrdn", "-r", f"cn=c2,ou=clients,{BASE}", "cn=c3")


def test_a_backup_is_whole_private_and_readable_by_others(running: Site, tmp_path: Path) -> None:
    truth = essence(state(running))
    path = backup(running, tmp_path / "one.ldif")
    assert path.stat().st_mode & 0o777 == 0o600
    read = read_backup(path)
    assert essence(read.state) == truth
    assert len(read.changes) == len(logged(running))
    with pytest.raises(ExistsError):
        backup(running, path)
    # OpenLDAP's own tool loads the directory's part of it.
    text = path.read_bytes().partition(b"# The change log begins here")[0]
    stop_site(running)
    shutil.rmtree(running.directory / "data")
    (running.directory / "data").mkdir(mode=0o700)
    conf = str(running.directory / "slapd.conf")
    done = subprocess.run(["/usr/sbin/slapadd", "-f", conf, "-b", BASE], input=text, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    slapd.start(running)
    assert essence(state(running)) == truth


def logged(site: Site) -> list[str]:
    with open_directory(site) as directory:
        return [change.csn for change in changes(directory.ldap)]


def test_every_cut_and_every_flipped_byte_is_refused(running: Site, tmp_path: Path) -> None:
    data = backup(running, tmp_path / "one.ldif").read_bytes()
    broken = tmp_path / "broken.ldif"
    for size in {*range(0, len(data), max(1, len(data) // 150)), len(data) - 1}:
        broken.write_bytes(data[:size])
        with pytest.raises(DamagedError):
            read_backup(broken)
    for at in range(0, len(data), max(1, len(data) // 150)):
        broken.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(DamagedError):
            read_backup(broken)
    before = state(running)
    with pytest.raises(DamagedError):
        restore(running, broken)
    assert essence(state(running)) == essence(before)
    with pytest.raises(NotFoundError):
        restore(running, tmp_path / "none.ldif")
    broken.write_text("dn: ou=stateless\n")
    with pytest.raises(FormatError):
        restore(running, broken)


def test_a_restore_puts_all_back_and_no_serial_down(running: Site, tmp_path: Path) -> None:
    one = names(running)[0]
    old = state(running)
    path = backup(running, tmp_path / "one.ldif")
    spoil_at = datetime.now(UTC)
    spoil(running)
    spoiled = essence(state(running))
    between = datetime.now(UTC)
    with pytest.raises(RefusedError, match="clients would be told"):
        restore(running, path, move_clients=False)
    assert essence(state(running)) == spoiled
    done = restore(running, path)
    with open_directory(running) as directory:
        channel = directory.channel("desktop/stable")
        assert (channel.snapshot, channel.serial, channel.previous) == (one, 3, None)
        assert "site-restore" in str(channel.record)
        now = read_state(directory)
        assert clients(running) == ["c1"]
        # The past is still the past: before the restore, and before what it undid.
        assert essence(state_at(directory, between)) == spoiled
        assert essence(state_at(directory, spoil_at)) == essence(old)
        unrecorded = list(unrecorded_changes(running, directory))
    assert {row.object for row in unrecorded} == {"client c1", "client c2"}  # removed and renamed by hand
    assert now.entries.keys() > old.entries.keys()
    assert all("ou=pushes" in now.entries[number].dn for number in now.entries.keys() - old.entries.keys())
    left = {"entryCSN", "modifyTimestamp", "modifiersName", "skSerial", "skMovedAt", "skMovedBy", "skRecord"}
    for number, was in old.entries.items():
        will = now.entries[number]
        assert {n: sorted(v) for n, v in was.values.items() if n not in left} == {
            n: sorted(v) for n, v in will.values.items() if n not in left
        }
        if "stable" not in was.dn and "cn=c1" not in was.dn:
            assert was.csn == will.csn
    for path in running.directory.glob("*/data.mdb"):
        assert path.stat().st_size < 64 << 20  # not as large as it may become
    # And back again: what was there before the restore is a backup too.
    restore(running, Path(str(done["before"])))
    with open_directory(running) as directory:
        assert directory.channel("desktop/stable").serial == 4
        assert directory.channel("desktop/testing").serial == 2
    assert clients(running) == ["c3"]
    assert restore(running, Path(str(done["before"])))["changed"] is False


def clients(site: Site) -> list[str]:
    with open_directory(site) as directory:
        return [client.name for client in directory.clients()]


def test_what_is_revoked_stays_so_and_reports_stay(running: Site, tmp_path: Path) -> None:
    two = names(running)[1]
    path = backup(running, tmp_path / "one.ldif")
    perform(running, "snapshot state", snapshot=two, state="revoked")
    status = f"dn: cn=status,cn=c1,ou=clients,{BASE}\nobjectClass: skClientStatus\nskLastSeen: 20261124120000Z\n\n"
    push = f"dn: cn=p1,ou=pushes,{BASE}\nobjectClass: skPush\nskCreated: 20261124120000Z\n"
    ldap(running, "ldapadd", stdin=status + push)
    ldap(running, "ldapdelete", f"cn=stable,cn=desktop,ou=prototypes,{BASE}")
    restore(running, path)
    with open_directory(running) as directory:
        assert directory.snapshot(two).state == "revoked"
        assert [report.client for report in directory.reports()] == ["c1"]
        assert directory.ldap.read(f"cn=p1,ou=pushes,{BASE}", "skPush")
        assert directory.channel("desktop/stable").serial == 2


def test_a_lost_directory_comes_back_with_serials_from_the_records(running: Site, tmp_path: Path) -> None:
    path = backup(running, tmp_path / "one.ldif")
    perform(running, "push apply", channel="desktop/stable", snapshot=names(running)[1])
    perform(running, "push rollback", channel="desktop/stable")
    stop_site(running)
    shutil.rmtree(running.directory / "data")
    shutil.rmtree(running.directory / "changelog")
    start_site(running)
    assert clients(running) == []
    restore(running, path)
    assert clients(running) == ["c1"]
    with open_directory(running) as directory:
        assert directory.channel("desktop/stable").serial == 4
        assert list(unrecorded_changes(running, directory)) == []


def test_a_change_after_the_plan_is_a_conflict(running: Site, tmp_path: Path) -> None:
    path = backup(running, tmp_path / "one.ldif")
    ldap(running, "ldapdelete", f"cn=c1,ou=clients,{BASE}")
    action = ACTIONS["site restore"].check({"backup": str(path), "move_clients": True})
    digest = service.plan(running, action).digest
    perform(running, "client add", name="c9", mode="thick")
    with pytest.raises(ConflictError):
        service.perform(running, action, digest)
    with pytest.raises(RefusedError):
        service.perform(running, action, service.AUTO)
    assert clients(running) == ["c9"]


KILLED = """
import os, signal, sys
from pathlib import Path
from statelesskit import fs, service
from statelesskit.actions import ACTIONS
from statelesskit.config import load_site
from statelesskit.directory import restoring

calls = 0
def dying(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

for name in ("rename_durably", "remove_tree"):
    setattr(fs, name, dying(getattr(fs, name)))
restoring.run = dying(restoring.run)
site = load_site(Path(sys.argv[1]))
action = ACTIONS["site restore"].check({"backup": sys.argv[2], "move_clients": True})
service.perform(site, action, service.AT_ONCE)
"""


def test_killed_anywhere_it_is_the_old_state_or_the_new(running: Site, tmp_path: Path) -> None:
    old = backup(running, tmp_path / "old.ldif")
    ldap(running, "ldapdelete", f"cn=c1,ou=clients,{BASE}")
    perform(running, "client add", name="c2", mode="thick")
    new = backup(running, tmp_path / "new.ldif")
    seen = set()
    for step in range(1, 40):
        argv = [sys.executable, "-W", "ignore", "-c", KILLED, str(running.root), str(old), str(step)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        slapd.start(running)
        assert not restored_folder(running).exists()
        found = clients(running)
        assert found in (["c1"], ["c2"])
        seen.add(found[0])
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        if found == ["c1"]:
            with open_directory(running) as directory:
                assert [row.object for row in unrecorded_changes(running, directory)] == ["client c1"]
                assert state_at(directory).gaps == []
            restore(running, new)
    else:
        pytest.fail("it never came to its end")
    assert seen == {"c1", "c2"}


def test_replicas_follow_a_restore(running: Site, tmp_path: Path) -> None:
    path = backup(running, tmp_path / "one.ldif")
    replica = init_replica(running, tmp_path / "replica", port=free_port(), provider=slapd.status(running).ldaps_uri)

    def come_to(wanted: list[str]) -> None:
        deadline = time.monotonic() + 20
        while (seen := seen_by(replica)) != wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        assert seen == wanted

    slapd.start(replica)
    try:
        perform(running, "client add", name="c2", mode="thick")
        come_to(["c1", "c2"])
        restore(running, path)  # takes away only
        come_to(["c1"])
        ldap(running, "ldapdelete", f"cn=c1,ou=clients,{BASE}")
        restore(running, path)
        come_to(["c1"])
    finally:
        slapd.stop(replica)


def seen_by(replica: Site) -> list[str]:
    argv = ["ldapsearch", "-LLL", "-Q", "-Y", "EXTERNAL", "-H", slapd.status(replica).ldapi_uri]
    argv += ["-b", f"ou=clients,{BASE}", "(objectClass=skClient)", "cn"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    return sorted(line.removeprefix("cn: ") for line in done.stdout.splitlines() if line.startswith("cn: "))
