"""Connections to the directory, with the settings that make ldap3 safe, and its errors turned into ours.

ldap3's defaults accept any certificate, follow referrals with our credentials and wait for ever.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ldap3
from ldap3.core import exceptions as ldap

from statelesskit.config import Site
from statelesskit.directory.conf import LOOPBACK, ldapi_uri
from statelesskit.directory.listening import check_socket_folder
from statelesskit.directory.tls import ca_certificate
from statelesskit.errors import DirectoryUnavailableError, RefusedError, StatelessError

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 30
START_HINT = "statelesskit site start"

_NOT_FOR_US = (
    ldap.LDAPInappropriateAuthenticationResult,
    ldap.LDAPInsufficientAccessRightsResult,
    ldap.LDAPInvalidCredentialsResult,
    ldap.LDAPStrongerAuthRequiredResult,
)


def connect(site: Site, *, answer_within_s: int = ANSWER_TIMEOUT_S) -> ldap3.Connection:
    """Return a connection to the site's private server, as its administrator.

    The server knows us from the socket, so there is no password; it lets in root and the site's owner.

    Raises:
        DirectoryUnavailableError: it does not answer, or does not let us in.
    """
    check_socket_folder(site)
    server = ldap3.Server(
        ldapi_uri(site), get_info=ldap3.NONE, connect_timeout=CONNECT_TIMEOUT_S, allowed_referral_hosts=[]
    )
    connection = ldap3.Connection(
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
            connection.bind()
        except BaseException:
            if connection.socket:  # ldap3 forgets it when it could not connect
                connection.socket.close()
            raise
    return connection


def disconnect(connection: ldap3.Connection) -> None:
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
            hint="only root and the owner of the site may use it",
        ) from error
    except ldap.LDAPOperationResult as error:
        message = f": {error.message}" if error.message else ""
        raise StatelessError(f"the directory at {server} answered {error.description}{message}") from error
    except ldap.LDAPException as error:
        silent = f"the directory at {server} does not answer ({error})"
        if changing:
            raise DirectoryUnavailableError(
                f"{silent}; it had been told to make the change, and may have made it",
                hint=f"{START_HINT}; then look at what is there now before doing it again",
            ) from error
        raise DirectoryUnavailableError(silent, hint=START_HINT) from error


def verify_tls(site: Site) -> str:
    """Connect to the private server's ldaps port as a client would; return the TLS version agreed on.

    Raises:
        DirectoryUnavailableError: nothing answers, or what answers has no certificate of the site's CA.
    """
    where = f"ldaps://{LOOPBACK}:{site.port}"
    try:
        context = ssl.create_default_context(cafile=str(ca_certificate(site)))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        with (
            socket.create_connection((LOOPBACK, site.port), timeout=CONNECT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=LOOPBACK) as secured,
        ):
            return secured.version() or ""
    except ssl.SSLError as error:
        raise DirectoryUnavailableError(
            f"the server at {where} has no certificate made by {ca_certificate(site)} ({error})",
            hint="see what listens there; if it is ours: statelesskit site stop, then statelesskit site start",
        ) from error
    except OSError as error:
        raise DirectoryUnavailableError(f"the server at {where} does not answer ({error})", hint=START_HINT) from error
