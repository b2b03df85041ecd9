"""The private server's certificate, and what a stranger on the network side gets to see."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from statelesskit.config import Site
from statelesskit.directory import Client, conf, open_directory, slapd, tls
from statelesskit.directory.session import verify_tls
from statelesskit.errors import ConfigError, DirectoryUnavailableError
from statelesskit.site import server_rows

pytestmark = pytest.mark.slapd


@pytest.fixture
def running(site: Site) -> Iterator[Site]:
    slapd.start(site)
    try:
        yield site
    finally:
        slapd.stop(site)


def ask_openssl(site: Site, *words: str) -> str:
    files = (str(tls.ca_certificate(site)), *words, str(tls.server_identity(site)))
    argv = ["openssl", "verify", "-x509_strict", "-CAfile", *files]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


def test_certificates_are_made_once(site: Site) -> None:
    tls.ensure_certificates(site)
    files = (tls.ca_key(site), tls.ca_certificate(site), tls.server_identity(site))
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    tls.ensure_certificates(site)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o644, 0o600]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_openssl_accepts_it_for_each_of_its_names(site: Site, name: str) -> None:
    tls.ensure_certificates(site)
    kind = "-verify_hostname" if name == "localhost" else "-verify_ip"
    assert ask_openssl(site, "-purpose", "sslserver", kind, name).endswith("OK\n")


def test_the_server_certificate_is_renewed_in_time_and_the_ca_is_kept(site: Site) -> None:
    tls.ensure_certificates(site)
    ca, server = tls.ca_certificate(site).read_bytes(), tls.server_identity(site).read_bytes()
    now = datetime.now(UTC)
    tls.ensure_certificates(site, now=now + timedelta(days=tls.SERVER_DAYS - tls.RENEW_DAYS - 1))
    assert tls.server_identity(site).read_bytes() == server
    tls.ensure_certificates(site, now=now + timedelta(days=tls.SERVER_DAYS - tls.RENEW_DAYS + 1))
    assert tls.server_identity(site).read_bytes() != server
    assert tls.ca_certificate(site).read_bytes() == ca


def signer(site: Site) -> str:
    return ask_issuer(site, str(tls.server_identity(site)))


def ask_issuer(site: Site, path: str) -> str:
    argv = ["openssl", "x509", "-noout", "-issuer", "-in", path]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


def at(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def test_a_ca_gets_a_successor_that_is_known_before_it_signs(site: Site) -> None:
    """The whole life of a CA, a start each 20 days: whoever has the file of a year before knows the server."""
    tls.ensure_certificates(site)
    first, bundle = signer(site), {0: tls.ca_certificate(site).read_bytes()}
    seen = [1]
    for day in range(20, tls.CA_DAYS + 500, 20):
        tls.ensure_certificates(site, now=at(day))
        bundle[day] = tls.ca_certificate(site).read_bytes()
        count = bundle[day].count(b"BEGIN CERT")
        seen += [count] if count != seen[-1] else []
        old = site.root / "old.pem"
        old.write_bytes(bundle[max(0, day - 360)])
        seconds = str(int(at(day + 19).timestamp()))  # until the next start
        argv = ["openssl", "verify", "-x509_strict", "-attime", seconds, "-CAfile", str(old)]
        done = subprocess.run([*argv, str(tls.server_identity(site))], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (day, done.stderr)
    assert seen == [1, 2]
    assert signer(site) != first
    assert (site.keys / "directory-ca-2.key").exists()
    files = [tls.ca_certificate(site), tls.server_identity(site)]
    before = [file.read_bytes() for file in files]
    tls.ensure_certificates(site, now=at(tls.CA_DAYS + 490))
    assert [file.read_bytes() for file in files] == before


def test_a_crash_in_the_renewal_is_mended(site: Site) -> None:
    tls.ensure_certificates(site)
    before, late = tls.ca_certificate(site).read_bytes(), at(tls.CA_DAYS - tls.SUCCEED_DAYS + 1)
    tls.ensure_certificates(site, now=late)
    key = (site.keys / "directory-ca-2.key").read_bytes()
    tls.ca_certificate(site).write_bytes(before)  # as if the key were all that was written
    tls.ensure_certificates(site, now=late)
    assert (site.keys / "directory-ca-2.key").read_bytes() == key
    assert not (site.keys / "directory-ca-3.key").exists()
    assert tls.ca_certificate(site).read_bytes().count(b"BEGIN CERT") == 2


def test_a_site_that_slept_through_it_all_has_a_server_again(site: Site) -> None:
    tls.ensure_certificates(site)
    for days in (tls.CA_DAYS - 10, tls.CA_DAYS * 3):
        tls.ensure_certificates(site, now=at(days))
        argv = ["openssl", "verify", "-attime", str(int(at(days).timestamp())), "-CAfile"]
        files = [str(tls.ca_certificate(site)), str(tls.server_identity(site))]
        subprocess.run([*argv, *files], check=True, timeout=60, capture_output=True)


def test_the_doctor_says_that_the_file_must_be_copied(running: Site) -> None:
    def row() -> dict[str, str]:
        return next(row for row in server_rows(running) if row["check"] == "CA")

    assert row()["state"] == "ok"
    tls.ca_certificate(running).unlink()
    tls.ca_key(running).unlink()
    tls.ensure_certificates(running, now=at(-tls.CA_DAYS + 1000))
    tls.ensure_certificates(running)
    assert row()["state"] == "warning"
    assert "copy the file" in row()["fix"]
    slapd.stop(running)
    slapd.start(running)
    assert verify_tls(running) == "TLSv1.3"


def test_a_crash_between_two_files_is_mended(site: Site) -> None:
    tls.ensure_certificates(site)
    key = tls.ca_key(site).read_bytes()
    tls.ca_certificate(site).unlink()
    tls.server_identity(site).unlink()
    tls.ensure_certificates(site)
    assert tls.ca_key(site).read_bytes() == key
    ask_openssl(site)
    tls.server_identity(site).write_bytes(b"half a f")
    tls.ensure_certificates(site)
    ask_openssl(site)


def test_the_ca_key_may_be_away_until_it_is_needed(site: Site) -> None:
    tls.ensure_certificates(site)
    key = tls.ca_key(site).read_bytes()
    tls.ca_key(site).unlink()
    tls.ensure_certificates(site)
    tls.server_identity(site).unlink()
    with pytest.raises(ConfigError, match=r"directory-ca\.key"):
        tls.ensure_certificates(site)
    other = tls.ca_certificate(site).read_bytes()
    tls.ca_certificate(site).unlink()
    tls.ensure_certificates(site)  # a new pair
    tls.ca_certificate(site).write_bytes(other)
    tls.server_identity(site).unlink()
    with pytest.raises(ConfigError, match="is not the key of"):
        tls.ensure_certificates(site)
    tls.ca_key(site).write_bytes(key)
    tls.ensure_certificates(site)
    ask_openssl(site)


def test_clients_agree_on_tls_with_the_sites_ca(running: Site) -> None:
    assert verify_tls(running) == "TLSv1.3"


def test_another_ca_is_refused(running: Site) -> None:
    tls.ca_certificate(running).unlink()
    tls.ca_key(running).unlink()
    tls.ensure_certificates(running)
    with pytest.raises(DirectoryUnavailableError, match=r"no certificate we trust .*nothing was sent"):
        verify_tls(running)
    slapd.stop(running)
    slapd.start(running)  # takes the new one
    assert verify_tls(running) == "TLSv1.3"


def test_nothing_there_or_no_tls_is_told_apart(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"directory-ca\.pem holds no certificate of a CA"):
        verify_tls(site)
    tls.ensure_certificates(site)
    with pytest.raises(DirectoryUnavailableError, match="does not answer"):
        verify_tls(site)


def test_old_tls_is_refused(running: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", running.port)) as plain, pytest.raises(OSError):
        context.wrap_socket(plain).close()


def test_tls_1_2_is_accepted(running: Site) -> None:
    context = ssl.create_default_context(cafile=str(tls.ca_certificate(running)))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", running.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        assert secured.version() == "TLSv1.2"


def test_it_listens_on_loopback_only(running: Site) -> None:
    listeners = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, timeout=60, check=True).stdout
    ours = [line.split()[3] for line in listeners.splitlines() if line.split()[3].endswith(f":{running.port}")]
    assert ours == [f"127.0.0.1:{running.port}"]


def test_a_stranger_sees_nothing(running: Site) -> None:
    with open_directory(running) as directory:
        directory.bootstrap()
        directory.add_client(Client("c1", "live"))
    env = {**os.environ, "LDAPTLS_CACERT": str(tls.ca_certificate(running))}
    for base in (running.base_dn, "", "cn=Subschema"):
        argv = ["ldapsearch", "-x", "-LLL", "-H", conf.ldaps_uri(running), "-b", base, "-s", "base"]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == ""
        assert "anonymous bind disallowed" in done.stderr


def test_a_stranger_who_does_not_bind_sees_nothing(running: Site) -> None:
    """RFC 4511 allows a search before any bind; the programs above never do that."""
    search = bytes.fromhex("30 25 02 01 01 63 20 04 00 0a 01 00 0a 01 00 02 01 00 02 01 00 01 01 00 87 0b")
    search += b"objectClass" + bytes.fromhex("30 00")
    context = ssl.create_default_context(cafile=str(tls.ca_certificate(running)))
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(search)
        answer = secured.recv(4096)
    assert bytes.fromhex("65") in answer[5:8]  # searchResultDone comes first: no entry
    assert answer.endswith(b"authentication required")
