"""Who is at the other end: certificates of directory servers, always verified by OpenSSL itself.

ldap3's own check of a name knows nothing of IP addresses from Python 3.12 on, and its default is to check nothing.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ldap3

from statelesskit.config import Site
from statelesskit.directory.tls import ca_certificate
from statelesskit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Peer:
    """A server whose certificate was verified.

    Attributes:
        version: of TLS, as ``TLSv1.3``.
        expires_at: when its certificate ends.
    """

    version: str
    expires_at: datetime


class VerifiedTls(ldap3.Tls):  # type: ignore[misc]
    """TLS with our context, which checks chain and name before a byte is sent."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        """Secure a connection's socket; ldap3 calls this for ldaps and for StartTLS."""
        connection.socket = self._context.wrap_socket(
            connection.socket, do_handshake_on_connect=do_handshake, server_hostname=connection.server.host
        )


def tls_context(site: Site) -> ssl.SSLContext:
    """Return the settings for every TLS connection to a directory server: TLS 1.2 or newer, all checked.

    Trusted are the CAs of ``ca_file``; without one the private CA, or for an existing server the system's.

    Raises:
        ConfigError: a certificate or key of the configuration cannot be used.
    """
    server = site.server
    cafile = server.ca_file or (ca_certificate(site) if server.is_private else None)
    try:
        context = ssl.create_default_context(cafile=str(cafile) if cafile else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{cafile} holds no certificate of a CA: {error}",
            hint="put the CA's certificate there (PEM), or mend ca_file in site.toml",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    if server.certificate_file and server.key_file:
        _check_key(server.key_file)
        try:
            # An encrypted key would make OpenSSL ask at the terminal; nobody may be there.
            context.load_cert_chain(server.certificate_file, server.key_file, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{server.certificate_file} and {server.key_file} are no certificate and its key: {error}",
                hint="put the pair that belongs together there, the key without a passphrase",
            ) from error
    return context


def _check_key(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"the key {path} cannot be read: {error.strerror}", hint="mend key_file in site.toml"
        ) from error
    if mode & 0o077:
        raise ConfigError(f"others may read the key {path} (mode {mode & 0o7777:o})", hint=f"chmod 600 {path}")
