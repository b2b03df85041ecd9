"""Connecting to a directory server somebody else set up: who it is, who we are, and what is never sent."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import ldap3
import pytest

from statelesskit.config import Site
from statelesskit.directory import session, tls
from statelesskit.directory.link import Link
from statelesskit.directory.operations import Operations
from statelesskit.errors import ConfigError, DirectoryUnavailableError, StatelessError
from tests.conftest import free_port
from tests.existing import ADMIN, MISNAMED, SECRET, SUFFIX, Existing, existing_server, site_on

pytestmark = pytest.mark.slapd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Existing]:
    with existing_server(tmp_path_factory.mktemp("server"), extra=CERTIFICATE_IS_ADMIN) as server:
        yield server


# slapd gives the subject of a client's certificate in its own, reversed order: cn=NAME.
CERTIFICATE_IS_ADMIN = 'access to * by dn.exact="cn=localhost" write by * read'


def who_are_we(site: Site, **how: str) -> str:
    connection = session.connect(site, **how)  # type: ignore[arg-type]
    try:
        return str(connection.extend.standard.who_am_i()).lower()
    finally:
        session.disconnect(connection)


@pytest.mark.parametrize("uri", ["ldaps", "ldap"])
def test_a_password_goes_only_over_tls(server: Existing, tmp_path: Path, uri: str) -> None:
    site = site_on(server, tmp_path, getattr(server, uri))
    assert who_are_we(site) == f"dn:{ADMIN}".lower()
    assert session.verify_tls(site) in ("TLSv1.2", "TLSv1.3")


def test_a_certificate_says_who_we_are(server: Existing, tmp_path: Path) -> None:
    identity = str(tls.server_identity(server.issuer))
    keys = {"bind_dn": "", "password_file": "", "certificate_file": identity, "key_file": identity}
    for uri in (server.ldap, server.ldaps):
        assert who_are_we(site_on(server, tmp_path, uri, **keys)) == "dn:cn=localhost"


def test_a_key_others_may_read_or_of_another_certificate_is_refused(server: Existing, tmp_path: Path) -> None:
    identity = tls.server_identity(server.issuer)
    key = tmp_path / "key.pem"
    keys = {"bind_dn": "", "password_file": "", "certificate_file": str(identity), "key_file": str(key)}
    with pytest.raises(ConfigError, match="cannot be read"):
        session.connect(site_on(server, tmp_path / "site", **keys))
    key.write_bytes(identity.read_bytes())
    key.chmod(0o640)
    with pytest.raises(ConfigError, match=r"others may read the key .* \(mode 640\)"):
        session.connect(site_on(server, tmp_path / "site", **keys))
    key.write_bytes(tls.ca_key(server.issuer).read_bytes())
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="are no certificate and its key"):
        session.connect(site_on(server, tmp_path / "site", **keys))


@pytest.mark.parametrize("uri", ["ldaps", "ldap"])
def test_the_wrong_ca_or_name_is_refused_before_anything_is_sent(server: Existing, tmp_path: Path, uri: str) -> None:
    site = site_on(server, tmp_path, getattr(server, uri))
    other = site_on(server, tmp_path / "other")
    tls.ensure_certificates(other)
    wrong = dataclasses.replace(site, server=dataclasses.replace(site.server, ca_file=tls.ca_certificate(other)))
    with pytest.raises(DirectoryUnavailableError, match=r"no certificate we trust .*nothing was sent"):
        session.connect(wrong)
    misnamed = site_on(server, tmp_path, getattr(server, uri).replace("127.0.0.1", MISNAMED))
    with pytest.raises(DirectoryUnavailableError, match=r"no certificate we trust \(.*mismatch.*nothing was sent"):
        session.connect(misnamed)


def test_a_wrong_password_raises(server: Existing, tmp_path: Path) -> None:
    site = site_on(server, tmp_path)
    (tmp_path / "password").write_text("another\n")
    with pytest.raises(DirectoryUnavailableError, match="does not let us in: invalidCredentials") as refused:
        session.connect(site)
    assert "another" not in f"{refused.value}{refused.value.__cause__!r}"


def test_a_server_without_tls_gets_no_password(tmp_path: Path, server: Existing) -> None:
    with Recorder() as recorder:
        for scheme in ("ldap", "ldaps"):
            with pytest.raises(DirectoryUnavailableError):
                session.connect(site_on(server, tmp_path, f"{scheme}://127.0.0.1:{recorder.port}"))
    assert recorder.heard
    assert SECRET.encode() not in recorder.heard


# --- the password's file -----------------------------------------------------------------------


def make_readable(path: Path) -> None:
    path.chmod(0o640)


def make_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (make_readable, r"others may read the password .*mode 640"),
        (make_link, "cannot be read"),
        (make_fifo, "not a plain file"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: path.write_bytes(b"\n"), "holds no password"),
        (lambda path: path.write_bytes(b"two\nlines\n"), "holds no password"),
        (lambda path: path.write_bytes(b"\xff\xfe\n"), "holds no password"),
        (lambda path: path.write_bytes(b"x" * 5000), "holds no password"),
    ],
)
def test_a_password_file_that_is_not_right(
    server: Existing, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    site = site_on(server, tmp_path)
    spoil(tmp_path / "password")
    with pytest.raises(ConfigError, match=said):
        session.connect(site)


@pytest.mark.root
def test_a_password_file_of_another_user(server: Existing, tmp_path: Path) -> None:
    site = site_on(server, tmp_path)
    os.chown(tmp_path / "password", 4321, 4321)
    with pytest.raises(ConfigError, match="of the site's owner or root"):
        session.connect(site)


def test_a_systemd_credential(server: Existing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_on(server, tmp_path, password_file="fleet")
    with pytest.raises(ConfigError, match="cannot be read"):
        session.connect(site)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "fleet").write_text(SECRET)
    (tmp_path / "credentials" / "fleet").chmod(0o440)  # as systemd makes them, with an ACL
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert who_are_we(site) == f"dn:{ADMIN}".lower()


# --- what is never sent, and never kept --------------------------------------------------------


def test_a_referral_is_not_followed(server: Existing, tmp_path: Path) -> None:
    with Recorder() as recorder:
        elsewhere = f"ldap://127.0.0.1:{recorder.port}/{SUFFIX}"
        server.ldif(
            f"dn: ou=away,{SUFFIX}\nchangetype: add\nobjectClass: referral\nobjectClass: extensibleObject\n"
            f"ou: away\nref: {elsewhere}\n"
        )
        site = site_on(server, tmp_path)
        with closing(Operations(Link(lambda: session.connect(site), 1))) as operations:
            found = operations.search(SUFFIX, "objectClass=*")
            assert [entry.dn for entry in found] == [SUFFIX]
            inside = f"cn=x,ou=away,{SUFFIX}"
            for attempt in (
                lambda: operations.search(inside, "objectClass=*", ldap3.BASE),
                lambda: operations.add(inside, {"objectClass": ["device"]}, "thing", "x"),
                lambda: operations.delete(inside),
                lambda: operations.modify(inside, {"description": [(ldap3.MODIFY_ADD, ["x"])]}),
            ):
                with pytest.raises(StatelessError, match="referral"):
                    attempt()
    assert recorder.callers == 0


def test_an_answer_cut_short_is_an_error(server: Existing, tmp_path: Path) -> None:
    entry = f"dn: cn=%d,{SUFFIX}\nchangetype: add\nobjectClass: device\n\n"
    server.ldif("".join(entry % number for number in range(600)))  # slapd's limit is 500 unless told otherwise
    identity = str(tls.server_identity(server.issuer))
    keys = {"bind_dn": "", "password_file": "", "certificate_file": identity, "key_file": identity}
    site = site_on(server, tmp_path, **keys)
    with (
        closing(Operations(Link(lambda: session.connect(site), 1))) as operations,
        pytest.raises(StatelessError, match="sizeLimitExceeded"),
    ):
        operations.search(SUFFIX, "objectClass=device")


def test_the_secret_is_in_nothing_that_could_be_printed(server: Existing, tmp_path: Path) -> None:
    site = site_on(server, tmp_path)
    connection = session.connect(site)
    try:
        shown = [repr(connection), str(connection), repr(connection.server), repr(site), repr(vars(connection))]
        shown += [repr(dict(os.environ)), Path("/proc/self/cmdline").read_text()]
        shown += [repr(vars(connection.server.tls)), repr(vars(connection.strategy))]
        assert not [text for text in shown if SECRET in text]
    finally:
        session.disconnect(connection)


class Recorder:
    """A listener that answers nothing useful and remembers what it was sent."""

    def __init__(self) -> None:
        self.port, self.heard, self.callers = free_port(), b"", 0
        self._socket = socket.create_server(("127.0.0.1", self.port))

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            self.callers += 1
            with caller:
                self.heard += caller.recv(4096)
                # The answer to StartTLS of a server that has none: extendedResp, protocolError.
                caller.sendall(bytes.fromhex("300c02010178070a010204000400"))
