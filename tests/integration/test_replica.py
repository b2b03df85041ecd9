"""A second slapd that follows the first: what it knows, who may ask it, and what nobody decides by it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from statelesskit import doctor
from statelesskit.config import Site, load_site
from statelesskit.directory import Client, open_directory, slapd, tls
from statelesskit.directory.backup import make_backup
from statelesskit.directory.replica import init_replica, lags, load_replica, reader_identity
from statelesskit.errors import (
    DirectoryAwayError,
    ExistsError,
    NotFoundError,
    RefusedError,
)
from statelesskit.progress import Progress, shown
from statelesskit.site import init_site, site_status, start_site
from tests.conftest import free_port
from tests.existing import existing_server, site_on
from tests.fleet import Fleet, perform

pytestmark = pytest.mark.slapd

BASE = "ou=stateless"


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def waiting(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Site]:
    """A running site that names one replica."""
    site, _ = init_site(tmp_path / "site", name="here", port=free_port())
    site = replace(site, server=replace(site.server, patience_s=2, replicas=(f"ldaps://127.0.0.1:{free_port()}",)))
    start_site(site)
    try:
        with open_directory(site) as directory:
            directory.add_client(Client("c1", "live", ("52:54:00:00:00:01",)))
        yield site
    finally:
        slapd.stop(site)


@pytest.fixture
def follower(provider: Site, tmp_path: Path) -> Iterator[Site]:
    """Its replica, which has caught up."""
    made = init_replica(
        provider, tmp_path / "replica", port=port_of(provider), provider=slapd.status(provider).ldaps_uri
    )
    slapd.start(made)
    try:
        wait_until(lambda: lags(provider)[0].behind_s == 0)
        yield made
    finally:
        slapd.stop(made)


def port_of(site: Site) -> int:
    return int(site.server.replicas[0].rpartition(":")[2])


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(site: Site) -> None:
    pid = slapd.status(site).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def names(site: Site, *, or_replica: bool = True) -> list[str]:
    with open_directory(site, or_replica=or_replica) as directory:
        return [client.name for client in directory.clients()]


def test_it_answers_while_the_provider_is_dead_and_says_how_old_it_is(provider: Site, follower: Site) -> None:
    told = Told()
    with shown(told):
        assert names(provider) == ["c1"]
        assert told.lines == []
        kill(provider)
        assert names(provider) == ["c1"]
    [line] = told.lines
    assert line.startswith(f"read from the replica {provider.server.replicas[0]}, which knows all changes up to 20")
    assert "does not answer" in line
    assert [(lag.behind_s, lag.note) for lag in lags(provider)] == [(None, "")]


def test_the_doctor_looks_at_a_replica_as_at_any_server(follower: Site) -> None:
    looked = {row.check: row.state for row in doctor.examine(follower)}
    wanted = {"directory server", "directory TLS", "directory CA", "directory schema", "directory version"}
    assert {check: looked.get(check) for check in wanted} == dict.fromkeys(wanted, "ok")


def test_no_decision_is_made_by_it(provider: Site, follower: Site) -> None:
    kill(provider)
    with pytest.raises(DirectoryAwayError, match="does not run"):
        open_directory(provider)
    with open_directory(provider, or_replica=True) as directory, pytest.raises(RefusedError, match="provider"):
        directory.add_client(Client("c2", "live"))
    with open_directory(follower, or_replica=True) as directory, pytest.raises(RefusedError, match="provider"):
        directory.remove_client("c1")
    with pytest.raises(RefusedError, match="is a replica of"):
        open_directory(follower)
    assert names(provider) == ["c1"]


def test_a_reader_goes_on_at_the_replica_when_the_provider_dies_under_it(provider: Site, follower: Site) -> None:
    with open_directory(provider, or_replica=True) as directory:
        assert [client.name for client in directory.clients()] == ["c1"]
        kill(provider)
        assert [client.name for client in directory.clients()] == ["c1"]


def test_it_follows_again_after_each_was_away(provider: Site, follower: Site) -> None:
    """Also what only looks double on the way: two clients change their addresses while nobody looks."""
    with open_directory(provider) as directory:
        directory.add_client(Client("c2", "live", ("52:54:00:00:00:02",)))
    wait_until(lambda: lags(provider)[0].behind_s == 0)
    kill(follower)
    with open_directory(provider) as directory:
        for name in ("c1", "c2"):
            directory.remove_client(name)
        directory.add_client(Client("c2", "live", ("52:54:00:00:00:01",)))
        directory.add_client(Client("c1", "live", ("52:54:00:00:00:02",)))
        directory.add_client(Client("c3", "live"))
    slapd.start(follower)
    wait_until(lambda: lags(provider)[0].behind_s == 0)
    with open_directory(provider) as here, open_directory(follower, or_replica=True) as there:
        wait_until(lambda: here.clients() == there.clients())
    kill(provider)
    slapd.start(provider)
    with open_directory(provider) as directory:
        directory.add_client(Client("c4", "live"))
    wait_until(lambda: names(follower) == ["c1", "c2", "c3", "c4"])


def test_a_replica_that_is_behind_says_by_how_much(provider: Site, follower: Site) -> None:
    pid = slapd.status(follower).pid
    assert pid
    slapd.stop(follower)
    time.sleep(1.1)
    with open_directory(provider) as directory:
        directory.add_client(Client("c2", "live"))
    assert "does not answer" in lags(provider)[0].note
    # It cannot reach the provider, as that moved.
    text = (follower.root / "site.toml").read_text()
    (follower.root / "site.toml").write_text(text.replace(str(provider.port), str(free_port())))
    slapd.start(load_replica(follower.root))
    [lag] = lags(provider)
    assert lag.behind_s is not None
    assert lag.behind_s >= 1
    assert f"its last change is {lag.behind_s:.3g} s older" in str(lag)


def test_a_restored_provider_is_followed(provider: Site, follower: Site, tmp_path: Path) -> None:
    with open_directory(provider) as directory:
        make_backup(provider, directory, tmp_path / "backup")
        directory.remove_client("c1")
        directory.add_client(Client("c2", "live"))
    wait_until(lambda: names(follower) == ["c2"])
    perform(provider, "site restore", backup=str(tmp_path / "backup"), move_clients=True)
    wait_until(lambda: lags(provider)[0].behind_s == 0)
    assert names(follower) == names(provider) == ["c1"]


def test_a_replica_that_knows_more_than_its_provider_is_named(provider: Site, follower: Site) -> None:
    """Somebody put an older copy of the provider's disk back."""
    slapd.stop(provider)
    shutil.copytree(provider.directory / "data", provider.directory / "older")
    slapd.start(provider)
    with open_directory(provider) as directory:
        directory.add_client(Client("c2", "live"))
    wait_until(lambda: names(follower) == ["c1", "c2"])
    slapd.stop(provider)
    shutil.rmtree(provider.directory / "data")
    (provider.directory / "older").rename(provider.directory / "data")
    slapd.start(provider)
    assert "knows changes that its provider does not" in lags(provider)[0].note
    slapd.stop(follower)  # what it then says to do
    shutil.rmtree(follower.directory / "data")
    slapd.start(follower)
    wait_until(lambda: lags(provider)[0].behind_s == 0)
    assert names(follower) == ["c1"]


def test_one_that_has_not_caught_up_since_it_was_made_is_not_asked(provider: Site, tmp_path: Path) -> None:
    nowhere = f"ldaps://127.0.0.1:{free_port()}"
    made = init_replica(provider, tmp_path / "replica", port=port_of(provider), provider=nowhere)
    slapd.start(made)
    try:
        assert "has not caught up" in lags(provider)[0].note
        kill(provider)
        with pytest.raises(DirectoryAwayError, match="has not caught up"):
            open_directory(provider, or_replica=True)
    finally:
        slapd.stop(made)


def test_a_copied_folder_is_a_replica_too(provider: Site, follower: Site, tmp_path: Path) -> None:
    slapd.stop(follower)
    shutil.copytree(follower.root, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("ldapi"))
    slapd.start(elsewhere := load_replica(tmp_path / "elsewhere"))
    try:
        with open_directory(provider) as directory:
            directory.add_client(Client("c2", "live"))
        wait_until(lambda: names(elsewhere) == ["c1", "c2"])
    finally:
        slapd.stop(elsewhere)


def test_a_replica_of_an_existing_server_is_asked_with_the_account_there(tmp_path: Path) -> None:
    with existing_server(tmp_path, ours=True) as server:
        with open_directory(site_on(server, tmp_path / "made")) as directory:
            directory.bootstrap()
            directory.add_client(Client("c1", "live"))
        site = site_on(server, tmp_path / "site", f"ldaps://127.0.0.1:{free_port()}")
        site = replace(site, server=replace(site.server, patience_s=1, replicas=(server.ldaps,)))
        told = Told()
        with shown(told):
            assert names(site) == ["c1"]
        assert told.lines[0].startswith(f"read from the replica {server.ldaps}, which does not tell how old that is")
        with pytest.raises(DirectoryAwayError, match="Connection refused"):
            open_directory(site)


# --- who may ----------------------------------------------------------------------------------------


def ldapsearch(uri: str, site: Site, identity: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask as whoever has that certificate; OpenLDAP's own client is the witness."""
    environment = {**os.environ, "LDAPTLS_CACERT": str(tls.ca_certificate(site)), "LDAPTLS_REQCERT": "demand"}
    if identity:
        environment |= {"LDAPTLS_CERT": str(identity), "LDAPTLS_KEY": str(identity)}
    argv = ["ldapsearch", "-LLL", "-Q", "-Y", "EXTERNAL", "-H", uri, "-b", BASE, *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_each_certificate_opens_only_what_it_is_for(provider: Site, follower: Site, tmp_path: Path) -> None:
    at_provider, at_replica = slapd.status(provider).ldaps_uri, provider.server.replicas[0]
    replicator, reader = tls.server_identity(follower), reader_identity(provider)
    account = f"dn: cn=app,{BASE}\nobjectClass: device\nobjectClass: simpleSecurityObject\nuserPassword: {{SSHA}}x\n"
    argv = ["ldapadd", "-Q", "-Y", "EXTERNAL", "-H", slapd.status(provider).ldapi_uri]
    subprocess.run(argv, input=account, capture_output=True, text=True, check=True, timeout=30)
    wait_until(lambda: lags(provider)[0].behind_s == 0)
    assert "cn: c1" in ldapsearch(at_provider, provider, replicator).stdout
    assert "userPassword" in ldapsearch(at_provider, provider, replicator, "(cn=app)").stdout
    assert "cn: c1" not in ldapsearch(at_provider, provider, reader).stdout
    wait_until(lambda: "cn: app" in ldapsearch(at_replica, provider, reader).stdout)
    seen = ldapsearch(at_replica, provider, reader)
    assert "cn: c1" in seen.stdout
    assert "userPassword" not in seen.stdout
    assert "cn: c1" not in ldapsearch(at_replica, provider, None).stdout
    assert "cn: c1" not in ldapsearch(at_replica, provider, tls.server_identity(provider)).stdout


def test_neither_certificate_may_write(provider: Site, follower: Site) -> None:
    delete = ["ldapdelete", "-Q", "-Y", "EXTERNAL", f"cn=c1,ou=clients,{BASE}"]
    for uri in (slapd.status(provider).ldaps_uri, provider.server.replicas[0]):
        for identity in (tls.server_identity(follower), reader_identity(provider)):
            environment = {**os.environ, "LDAPTLS_CACERT": str(tls.ca_certificate(provider)),
                           "LDAPTLS_CERT": str(identity), "LDAPTLS_KEY": str(identity)}  # fmt: skip
            done = subprocess.run([*delete, "-H", uri], env=environment, capture_output=True, timeout=30, check=False)
            assert done.returncode != 0
    assert names(provider, or_replica=False) == ["c1"]


def test_a_false_provider_is_not_followed(provider: Site, tmp_path: Path) -> None:
    """Who has another CA's certificate at the provider's place gives the replica nothing."""
    other, _ = init_site(tmp_path / "other", name="other", port=free_port())
    start_site(other)
    with open_directory(other) as directory:
        directory.add_client(Client("false", "live"))
    made = init_replica(provider, tmp_path / "replica", port=port_of(provider), provider=slapd.status(other).ldaps_uri)
    slapd.start(made)
    try:
        time.sleep(1.5)
        assert "has not caught up" in lags(provider)[0].note
    finally:
        slapd.stop(made)
        slapd.stop(other)


# --- making one -------------------------------------------------------------------------------------


def test_what_it_cannot_be_made_of(provider: Site, follower: Site, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ExistsError, match="no replica"):
        init_replica(provider, tmp_path / "full", port=1, provider="ldaps://x")
    with pytest.raises(ExistsError, match="no replica"):
        init_replica(provider, provider.root, port=1, provider="ldaps://x")
    with pytest.raises(RefusedError, match="makes replicas"):
        init_replica(follower, tmp_path / "second", port=1, provider="ldaps://x")
    with pytest.raises(NotFoundError, match="is a site, and no replica"):
        load_replica(provider.root)
    with existing_server(tmp_path) as server, pytest.raises(RefusedError, match="makes replicas"):
        init_replica(site_on(server, tmp_path / "user"), tmp_path / "third", port=1, provider="ldaps://x")


def test_made_again_it_keeps_what_it_holds_and_gets_a_new_certificate(provider: Site, follower: Site) -> None:
    before = tls.server_identity(follower).read_bytes()
    slapd.stop(follower)
    again = init_replica(provider, follower.root, port=follower.port, provider=follower.server.provider)
    assert tls.server_identity(again).read_bytes() != before
    slapd.start(again)
    assert names(again) == ["c1"]
    wait_until(lambda: lags(provider)[0].behind_s == 0)


# --- as a person does it ----------------------------------------------------------------------------


def test_a_certificate_that_ends_soon_is_told(provider: Site, follower: Site) -> None:
    [lag] = lags(provider)
    assert lag.ends_at is not None
    assert not lag.ends_soon
    slapd.stop(follower)
    tls.make_identity(
        provider,
        tls.server_identity(follower),
        "replicator",
        now=datetime.now(UTC) - timedelta(days=tls.SERVER_DAYS - 5),
    )
    slapd.start(follower)
    [lag] = lags(provider)
    assert "its certificate ends on" in str(lag)
    assert [row.state for row in doctor.examine(provider) if row.check == "replica"] == ["warning"]


@pytest.mark.root
def test_from_the_command_line(fleet: Fleet, tmp_path: Path) -> None:
    port = free_port()
    toml = fleet.site.root / "site.toml"
    text = toml.read_text()
    folder = str(tmp_path / "replica")
    [made] = fleet.json("directory", "replica", "init", folder, "--port", str(port))
    assert (made["folder"], made["uri"]) == (folder, f"ldaps://127.0.0.1:{port}")
    assert (fleet.site.records / str(made["record"])).is_dir()
    assert f"ldaps://127.0.0.1:{port}" in (tmp_path / "replica" / "README").read_text()
    toml.write_text(text.replace("\n[policy]", f'replicas = ["ldaps://127.0.0.1:{port}"]\n\n[policy]', 1))
    try:
        assert fleet.run("directory", "replica", "start", folder).returncode == 0
        wait_until(lambda: fleet.json("directory", "replica", "status")[0]["behind_s"] == 0)
        assert {row.state for row in doctor.examine(load_site(fleet.site.root)) if row.check == "replica"} == {"ok"}
        assert "up to date" in site_status(load_site(fleet.site.root))["replicas"]
        here = fleet.json("client", "list")
        slapd.stop(fleet.site)
        away = fleet.run("client", "list", "--json")
        assert [json.loads(line) for line in away.stdout.splitlines()] == here
        assert "read from the replica" in away.stderr
        assert fleet.run("client", "explain", "pc-live").returncode == 0
        refused = fleet.run("push", "apply", "desktop/stable", fleet.two)
        assert refused.returncode == 7
        assert "the directory does not run" in refused.stderr
        assert "site start" in refused.stderr
        assert fleet.run("directory", "replica", "stop", folder).returncode == 0
        assert fleet.run("directory", "replica", "status").returncode == 1
    finally:
        toml.write_text(text)
        slapd.stop(load_site(tmp_path / "replica"))
        slapd.start(fleet.site)
