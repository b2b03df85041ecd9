"""Everything a directory server may refuse or fail at, on a real one: said in our words, and nothing half changed."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from statelesskit.config import Site
from statelesskit.directory import Client, Directory, open_directory, slapd, tls
from statelesskit.directory.session import verify_tls
from statelesskit.errors import (
    DirectoryAwayError,
    DirectoryUnavailableError,
    NoSpaceError,
    RefusedError,
    StatelessError,
)
from tests.conftest import free_port
from tests.existing import BASE, SUFFIX, Existing, existing_server, site_on, small_site

pytestmark = pytest.mark.slapd

NOTE = "x" * 4000


def opened(server: Existing, folder: Path, uri: str = "", **keys: str) -> Directory:
    site = site_on(server, folder / "site", uri, **keys)
    return open_directory(replace(site, server=replace(site.server, patience_s=1)))


def fill(directory: Directory, upto: int = 2000) -> int:
    """Add clients until the server will not take one more; return how many it took."""
    for number in range(upto):
        try:
            directory.add_client(Client(f"c{number}", "live", note=NOTE))
        except NoSpaceError:
            return number
    raise AssertionError("it never was full")


# --- full -----------------------------------------------------------------------------------------


def test_a_full_database_keeps_what_it_has_and_takes_nothing(tmp_path: Path) -> None:
    with existing_server(tmp_path, ours=True, extra="maxsize 400000") as server, opened(server, tmp_path) as directory:
        directory.bootstrap()
        taken = fill(directory)
        assert [client.name for client in directory.clients()] == sorted(f"c{number}" for number in range(taken))
        assert {client.note for client in directory.clients()} == {NOTE}


@pytest.mark.root
def test_a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "none", disk], check=True)
    try:
        with existing_server(disk / "server", ours=True) as server, opened(server, tmp_path) as directory:
            directory.bootstrap()
            taken = fill(directory)
            assert len(directory.clients()) == taken
            with pytest.raises(NoSpaceError):
                directory.add_client(Client("more", "live", note=NOTE))
            subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
            directory.add_client(Client("more", "live", note=NOTE))
            assert len(directory.clients()) == taken + 1
    finally:
        subprocess.run(["umount", disk], check=True)


# --- not the server it should be ------------------------------------------------------------------


def test_a_server_without_our_schema_is_told_nothing(tmp_path: Path) -> None:
    with existing_server(tmp_path) as server, opened(server, tmp_path) as directory:
        with pytest.raises(DirectoryUnavailableError, match="does not have our schema") as caught:
            directory.bootstrap()
        assert "statelesskit directory schema" in caught.value.hint


def test_a_server_that_is_read_only_says_so(tmp_path: Path) -> None:
    with (
        existing_server(tmp_path, ours=True, extra="readonly on") as server,
        opened(server, tmp_path) as directory,
        pytest.raises(RefusedError, match="makes no changes") as caught,
    ):
        directory.bootstrap()
    assert "one provider" in caught.value.hint


@pytest.mark.parametrize("limit", ["size=3", "size.unchecked=3", "size.prtotal=3", "size.prtotal=disabled"])
def test_a_limit_never_makes_a_part_look_like_all(tmp_path: Path, limit: str) -> None:
    rules = f"limits * {limit}\naccess to * by * read"
    with existing_server(tmp_path, ours=True, extra=rules) as server:
        with opened(server, tmp_path) as directory:
            directory.bootstrap()
            for number in range(9):
                directory.add_client(Client(f"c{number}", "live"))
        identity = str(tls.server_identity(server.issuer))
        keys = {"bind_dn": "", "password_file": "", "certificate_file": identity, "key_file": identity}
        with opened(server, tmp_path, **keys) as directory, pytest.raises(StatelessError):
            directory.clients()


# --- TLS ------------------------------------------------------------------------------------------


@contextmanager
def with_certificate_of(site: Site, now: datetime) -> Iterator[Site]:
    """Run the private server with a certificate that was made at another time."""
    slapd.prepare(site)
    tls.make_identity(site, tls.server_identity(site), "localhost", now=now)
    slapd._spawn(site, 15)
    try:
        yield site
    finally:
        slapd.stop(site)


@pytest.mark.parametrize(("years", "why"), [(-2, "has expired"), (2, "not yet valid")])
def test_a_certificate_of_another_time_is_refused(site: Site, years: int, why: str) -> None:
    with (
        with_certificate_of(site, datetime.now(UTC) + timedelta(days=years * 365)),
        pytest.raises(DirectoryUnavailableError, match=why) as caught,
    ):
        verify_tls(site)
    assert not isinstance(caught.value, DirectoryAwayError)  # it will not pass by waiting
    assert "(_ssl" not in caught.value.message
    assert verify_restarted(site)


def verify_restarted(site: Site) -> str:
    """Do what the hint says."""
    slapd.start(site)
    try:
        return verify_tls(site)
    finally:
        slapd.stop(site)


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Listen on a port, and give whoever comes these bytes."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            try:
                while True:
                    caller, _ = listener.accept()
                    with caller:
                        caller.recv(4096)
                        caller.sendall(answer)
            except OSError:
                pass

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


REFUSED = bytes.fromhex("300c020101780702010204000400")  # an answer to StartTLS: protocolError
SSH, HTTP, NONSENSE = b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(range(256))


@pytest.mark.parametrize("scheme", ["ldap", "ldaps"])
@pytest.mark.parametrize("answer", [REFUSED, SSH, HTTP, NONSENSE, b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"0\0"])
def test_what_is_no_directory_server_gets_nothing_and_is_named(tmp_path: Path, scheme: str, answer: bytes) -> None:
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o600)
    with answering(answer) as port:
        uri = f"{scheme}://127.0.0.1:{port}"
        keys = {"uri": uri, "bind_dn": f"cn=admin,{SUFFIX}", "password_file": str(tmp_path / "password")}
        site = small_site(tmp_path / "site", port=1, base_dn=BASE, server=keys)
        with pytest.raises(DirectoryUnavailableError, match=f"{scheme}://127.0.0.1:{port}"):
            open_directory(replace(site, server=replace(site.server, patience_s=0)))


def test_nobody_there(tmp_path: Path) -> None:
    keys = {"uri": f"ldaps://127.0.0.1:{free_port()}", "bind_dn": "cn=x", "password_file": "password"}
    site = small_site(tmp_path, port=1, server=keys)
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o600)
    with pytest.raises(DirectoryAwayError, match="Connection refused") as caught:
        open_directory(replace(site, server=replace(site.server, patience_s=1)))
    assert "reached" in caught.value.hint
