"""Connections to the directory, with the settings that make ldap3 safe.

ldap3's defaults accept any certificate, follow referrals with our credentials and wait for ever.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import ldap3
from ldap3.core import exceptions as ldap
from ldap3.core.results import RESULT_REFERRAL, RESULT_SIZE_LIMIT_EXCEEDED, RESULT_TIME_LIMIT_EXCEEDED

from statelesskit.config import Site
from statelesskit.directory.conf import ldapi_uri, ldaps_uri
from statelesskit.directory.credentials import password
from statelesskit.directory.failures import translated
from statelesskit.directory.listening import check_socket_folder
from statelesskit.directory.verified import Peer, VerifiedTls, tls_context

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 30

# ldap3 raises for none of these; but nothing was changed then, and what was found is not all there is.
_NOT_DONE = (RESULT_REFERRAL, RESULT_SIZE_LIMIT_EXCEEDED, RESULT_TIME_LIMIT_EXCEEDED)


class Connection(ldap3.Connection):  # type: ignore[misc]
    """A connection on which every operation that was not done whole raises."""

    def _prepare_return_value(self, status: object, response: object = False) -> object:
        result = self.result
        if isinstance(result, dict) and result.get("result") in _NOT_DONE:
            raise ldap.LDAPOperationResult(
                result["result"], result["description"], result["dn"], result["message"], result["type"]
            )
        return super()._prepare_return_value(status, response)


def connect(site: Site, *, uri: str = "", answer_within_s: int = ANSWER_TIMEOUT_S) -> Connection:
    """Return a connection to the site's directory server, over which we are who ``site.toml`` says.

    The private server knows us from its socket, so there is no password: root and the site's owner are
    its administrator, others are who they have a role as.

    Args:
        uri: another server that holds the same, such as a replica.

    Raises:
        ConfigError: the password or the certificate that says who we are cannot be used.
        DirectoryUnavailableError: it does not answer, is not who it should be, or does not let us in.
    """
    connection = _opened(site, uri or site.server.uri or ldapi_uri(site), min(answer_within_s, CONNECT_TIMEOUT_S))
    try:
        if site.server.bind_dn and not connection.server.ipc:
            connection.authentication = ldap3.SIMPLE
            connection.user, connection.password = site.server.bind_dn, password(site)
        with translated(connection.server.name):
            if not connection.bind()[0]:
                raise ldap.LDAPInvalidCredentialsResult(description="invalidCredentials")
            connection.socket.settimeout(answer_within_s)
    except BaseException:
        disconnect(connection)
        raise
    finally:
        connection.password = None  # ldap3 would print it
    return connection


def look_at(site: Site, uri: str) -> Peer:
    """Agree on TLS with a server and return what it showed, without saying who we are.

    Raises:
        DirectoryUnavailableError: it does not answer, or its certificate is not right.
    """
    connection = _opened(site, uri, CONNECT_TIMEOUT_S)
    try:
        return Peer(connection.socket.version(), certificate_end(connection) or datetime.now(UTC))
    finally:
        disconnect(connection)


def certificate_end(connection: Connection) -> datetime | None:
    """Return when the certificate ends that the server showed; None for a unix socket."""
    if not isinstance(connection.socket, ssl.SSLSocket):
        return None
    shown: Any = connection.socket.getpeercert()
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)


def _opened(site: Site, uri: str, answer_within_s: int) -> Connection:
    """Return a connection over which nothing was said yet, but for StartTLS."""
    local = uri.startswith("ldapi:")
    if local:
        check_socket_folder(site)
    server = ldap3.Server(
        uri,
        get_info=ldap3.NONE,
        connect_timeout=CONNECT_TIMEOUT_S,
        allowed_referral_hosts=[],
        tls=None if local else VerifiedTls(tls_context(site)),
    )
    connection = Connection(
        server,
        authentication=ldap3.SASL,
        sasl_mechanism=ldap3.EXTERNAL,
        sasl_credentials="",
        client_strategy=ldap3.SAFE_SYNC,
        raise_exceptions=True,
        auto_referrals=False,
        receive_timeout=answer_within_s,
        check_names=False,
        return_empty_attributes=False,
    )
    with translated(server.name, stranger=not local):
        try:
            connection.open(read_server_info=False)
            if not local and not server.ssl:
                connection.start_tls(read_server_info=False)
            if not local and not isinstance(connection.socket, ssl.SSLSocket):
                raise ldap.LDAPStartTLSError("TLS was not started")
        except BaseException:
            if connection.socket:  # ldap3 forgets it when it could not connect
                connection.socket.close()
            raise
    return connection


def disconnect(connection: Connection) -> None:
    """End a connection, also one whose server is gone."""
    with suppress(ldap.LDAPException):
        connection.unbind()
    connection.strategy.close()


def verify_tls(site: Site) -> str:
    """Connect to the server as a client would; return the TLS version agreed on.

    Raises:
        DirectoryUnavailableError: nothing answers, or what answers has no certificate we trust.
    """
    return look_at(site, site.server.uri or ldaps_uri(site)).version
