"""Connections to the directory, with the settings that make ldap3 safe, and its errors turned into ours.

ldap3's defaults accept any certificate, follow referrals with our credentials and wait for ever.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import ldap3
from ldap3.core import exceptions as ldap
from ldap3.core.results import RESULT_REFERRAL, RESULT_SIZE_LIMIT_EXCEEDED, RESULT_TIME_LIMIT_EXCEEDED

from statelesskit.config import Site
from statelesskit.directory.conf import ldapi_uri, ldaps_uri
from statelesskit.directory.credentials import password
from statelesskit.directory.listening import check_socket_folder
from statelesskit.directory.verified import Peer, VerifiedTls, tls_context
from statelesskit.errors import DirectoryUnavailableError, RefusedError, StatelessError

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 30
START_HINT = "statelesskit site start"

# ldap3 raises for none of these; but nothing was changed then, and what was found is not all there is.
_NOT_DONE = (RESULT_REFERRAL, RESULT_SIZE_LIMIT_EXCEEDED, RESULT_TIME_LIMIT_EXCEEDED)
_NOT_FOR_US = (
    ldap.LDAPAuthMethodNotSupportedResult,
    ldap.LDAPInappropriateAuthenticationResult,
    ldap.LDAPInsufficientAccessRightsResult,
    ldap.LDAPInvalidCredentialsResult,
    ldap.LDAPStrongerAuthRequiredResult,
)


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
    connection = _opened(site, uri or site.server.uri or ldapi_uri(site), answer_within_s)
    try:
        if site.server.bind_dn and not connection.server.ipc:
            connection.authentication = ldap3.SIMPLE
            connection.user, connection.password = site.server.bind_dn, password(site)
        with translated(connection.server.name):
            if not connection.bind()[0]:
                raise ldap.LDAPInvalidCredentialsResult(description="invalidCredentials")
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
        ends = ssl.cert_time_to_seconds(connection.socket.getpeercert()["notAfter"])
        return Peer(connection.socket.version(), datetime.fromtimestamp(ends, UTC))
    finally:
        disconnect(connection)


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
    with translated(server.name):
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


@contextmanager
def translated(server: str, *, changing: bool = False) -> Iterator[None]:
    """Turn what ldap3 raises into our errors, naming the server.

    Args:
        changing: what is asked for changes something. A server that falls silent then may have done
            it, or do it when it wakes, and the error says so.
    """
    try:
        yield
    except ldap.LDAPConstraintViolationResult as error:
        raise RefusedError(f"the directory refused the change: {error.message}") from error
    except ldap.LDAPNoSuchObjectResult as error:
        raise DirectoryUnavailableError(f"the directory at {server} lacks its folders", hint=START_HINT) from error
    except _NOT_FOR_US as error:
        raise DirectoryUnavailableError(
            f"the directory at {server} does not let us in: {error.description}",
            hint="root, the site's owner, and who was given a role may use it: statelesskit directory grant",
        ) from error
    except ldap.LDAPOperationResult as error:
        message = f": {error.message}" if error.message else ""
        raise StatelessError(f"the directory at {server} answered {error.description}{message}") from error
    except ldap.LDAPException as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise _not_who_it_should_be(server, str(error)) from error
        silent = f"the directory at {server} does not answer ({error})"
        if changing:
            raise DirectoryUnavailableError(
                f"{silent}; it had been told to make the change, and may have made it",
                hint=f"{START_HINT}; then look at what is there now before doing it again",
            ) from error
        raise DirectoryUnavailableError(silent, hint=START_HINT) from error


def _not_who_it_should_be(server: str, error: str) -> DirectoryUnavailableError:
    why = re.sub(r"^.*certificate verify failed: |\s*\(_ssl.c:\d+\).*$", "", error, flags=re.DOTALL)
    return DirectoryUnavailableError(
        f"the server at {server} has no certificate we trust ({why}); nothing was sent to it",
        hint="see what listens there, and its certificate's names, end and CA (ca_file in site.toml); "
        "if it is the private server: statelesskit site stop, then site start",
    )


def verify_tls(site: Site) -> str:
    """Connect to the server as a client would; return the TLS version agreed on.

    Raises:
        DirectoryUnavailableError: nothing answers, or what answers has no certificate we trust.
    """
    return look_at(site, site.server.uri or ldaps_uri(site)).version
