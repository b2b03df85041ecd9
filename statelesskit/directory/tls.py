"""The private server's certificate, and the CA that signs it, made here and used for nothing else.

ECDSA on P-256, because every TLS library a client might have accepts it. Times allow an hour of
clock difference. cryptography is imported where it is used: it is slow to load.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from statelesskit.config import Site
from statelesskit.errors import ConfigError
from statelesskit.fs import write_file

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_DAYS = 3650 * 2
SERVER_DAYS = 397
RENEW_DAYS = 30
HOST_NAMES = ("localhost",)
ADDRESSES = ("127.0.0.1", "::1")


def ca_key(site: Site) -> Path:
    return site.keys / "directory-ca.key"


def ca_certificate(site: Site) -> Path:
    """Return the file a client needs to trust the private server."""
    return site.keys / "directory-ca.pem"


def server_identity(site: Site) -> Path:
    """Return the server's key and certificate; one file, so they always belong together."""
    return site.directory / "server.pem"


def ensure_certificates(site: Site, *, now: datetime | None = None) -> None:
    """Make what is missing, and a new server certificate when the old one has less than 30 days left.

    The CA is kept, so clients that trust it need not be told.

    Raises:
        ConfigError: the CA's key is needed and is not there, or belongs to another certificate.
    """
    now = now or datetime.now(UTC)
    if not ca_certificate(site).exists():
        _make_ca(site, now)
    ca = _load(ca_certificate(site))
    if not _still_good(site, ca, now):
        _make_server(site, ca, now)


def _make_ca(site: Site, now: datetime) -> None:
    from cryptography import x509

    if not ca_key(site).exists():  # the certificate comes last: a crash leaves a key that is used again
        write_file(ca_key(site), _pem(_new_key()), mode=0o600)
    key = _load_key(site)
    name = _name(f"statelesskit directory CA of {site.name}"[:64])
    certificate = (
        _unsigned(name, name, key, now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
    )
    write_file(ca_certificate(site), _signed(certificate, key, key))


def _make_server(site: Site, ca: x509.Certificate, now: datetime) -> None:
    make_identity(site, server_identity(site), HOST_NAMES[0], ca, now)


def make_identity(
    site: Site, path: Path, common: str, ca: x509.Certificate | None = None, now: datetime | None = None
) -> None:
    """Write a key and its certificate, for a server here or for whoever calls one, into one file.

    Raises:
        ConfigError: the CA's key is not there, or belongs to another certificate.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    signer = _load_key(site)
    ca = ca or _load(ca_certificate(site))
    if signer.public_key() != ca.public_key():
        raise ConfigError(
            f"{ca_key(site)} is not the key of {ca_certificate(site)}",
            hint="put back the pair that belongs together; without it, clients must be told of a new CA",
        )
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in HOST_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
    if path != server_identity(site):
        purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    key = _new_key()
    certificate = (
        _unsigned(_name(common), ca.subject, key, now or datetime.now(UTC), SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    write_file(path, _pem(key) + _signed(certificate, key, signer), mode=0o600)


def _still_good(site: Site, ca: x509.Certificate, now: datetime) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        server = _load(server_identity(site))
        server.verify_directly_issued_by(ca)
    except (FileNotFoundError, ValueError, InvalidSignature):
        return False
    return server.not_valid_after_utc - now > timedelta(days=RENEW_DAYS)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _signed(
    certificate: x509.CertificateBuilder, key: EllipticCurvePrivateKey, signer: EllipticCurvePrivateKey
) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    return (
        certificate.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, SHA256())
        .public_bytes(Encoding.PEM)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(path: Path) -> x509.Certificate:
    from cryptography import x509

    return x509.load_pem_x509_certificate(path.read_bytes())


def _load_key(site: Site) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(ca_key(site).read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the directory's CA key cannot be read: {error}",
            hint=f"put {ca_key(site)} back for as long as the server gets its new certificate",
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(f"{ca_key(site)} is no elliptic-curve key")
    return key
