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
SUCCEED_DAYS = 1095  # before a CA ends, its successor is made,
LEARN_DAYS = 365  # which signs after so long; what the old one signed ends before it does
HOST_NAMES = ("localhost",)
ADDRESSES = ("127.0.0.1", "::1")


def ca_key(site: Site) -> Path:
    """Return the key of the first CA; those of its successors have a number in their names."""
    return site.keys / "directory-ca.key"


def ca_certificate(site: Site) -> Path:
    """Return the file a client needs to trust the private server: its CAs, the oldest first."""
    return site.keys / "directory-ca.pem"


def server_identity(site: Site) -> Path:
    """Return the server's key and certificate; one file, so they always belong together."""
    return site.directory / "server.pem"


def ensure_certificates(site: Site, *, now: datetime | None = None) -> None:
    """Make what is missing, and a new server certificate when the old one has less than 30 days left.

    A CA gets its successor three years before it ends. For a year that is only made known: clients that
    have ``directory-ca.pem`` from then on trust both, and only then the server gets its certificate from
    it. A CA that has ended leaves the file when the next one comes.

    Raises:
        ConfigError: the CA's key is needed and is not there, or belongs to another certificate.
    """
    now = now or datetime.now(UTC)
    known = authorities(site)
    if not known or known[-1].not_valid_after_utc - now < timedelta(days=SUCCEED_DAYS):
        _make_ca(site, known, now)
    signer = _signer(authorities(site), now)
    if not _still_good(site, signer, now):
        make_identity(site, server_identity(site), HOST_NAMES[0], now)


def authorities(site: Site) -> list[x509.Certificate]:
    """Return the CAs clients are told to trust, the oldest first."""
    from cryptography import x509

    if not ca_certificate(site).exists():
        return []
    found = x509.load_pem_x509_certificates(ca_certificate(site).read_bytes())
    return sorted(found, key=lambda one: one.not_valid_before_utc)


def signs_from(ca: x509.Certificate) -> datetime:
    """Return when a CA that succeeds another has been known for long enough."""
    return ca.not_valid_before_utc + timedelta(days=LEARN_DAYS)


def _signer(known: list[x509.Certificate], now: datetime) -> x509.Certificate:
    """Return the newest CA that is known for long enough, or the first that will do until it is."""
    learnt = [ca for ca in known[1:] if signs_from(ca) <= now]
    lasting = [ca for ca in known if ca.not_valid_after_utc - now > timedelta(days=RENEW_DAYS)]
    return learnt[-1] if learnt else lasting[0]


def _make_ca(site: Site, known: list[x509.Certificate], now: datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    path = ca_key(site)
    while path.exists() and known and _is_key_of_one(path, known):
        path = _next(path)
    if not path.exists():  # the certificate comes last: a crash leaves a key that is used again
        write_file(path, _pem(_new_key()), mode=0o600)
    key = _load_key(path)
    name = _name(f"statelesskit directory CA {now:%Y-%m-%d} of {site.name}"[:64])
    certificate = (
        _unsigned(name, name, key, now, now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
    )
    kept = [ca.public_bytes(Encoding.PEM) for ca in known if ca.not_valid_after_utc > now]
    write_file(ca_certificate(site), b"".join([*kept, _signed(certificate, key, key)]))


def _next(path: Path) -> Path:
    number = path.stem.removeprefix("directory-ca").removeprefix("-")
    return path.with_name(f"directory-ca-{int(number or 1) + 1}.key")


def _is_key_of_one(path: Path, known: list[x509.Certificate]) -> bool:
    key = _load_key(path).public_key()
    return any(ca.public_key() == key for ca in known)


def make_identity(site: Site, path: Path, common: str, now: datetime | None = None) -> None:
    """Write a key and its certificate, for a server here or for whoever calls one, into one file.

    Raises:
        ConfigError: the CA's key is not there, or belongs to another certificate.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = now or datetime.now(UTC)
    ca = _signer(authorities(site), now)
    signer = _key_of(site, ca)
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in HOST_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
    if path != server_identity(site):
        purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    key = _new_key()
    certificate = (
        _unsigned(_name(common), ca.subject, key, now, min(now + timedelta(days=SERVER_DAYS), ca.not_valid_after_utc))
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
    # Of the future it is when the clock was wrong; it must not be waited for.
    return server.not_valid_before_utc <= now and server.not_valid_after_utc - now > timedelta(days=RENEW_DAYS)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(until)
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


def _key_of(site: Site, ca: x509.Certificate) -> EllipticCurvePrivateKey:
    """Return the key of a CA, whichever file it is in."""
    path = ca_key(site)
    while True:
        key = _load_key(path)
        if key.public_key() == ca.public_key():
            return key
        if not _next(path).exists():
            raise ConfigError(
                f"{path} is not the key of {ca_certificate(site)}",
                hint="put back the pair that belongs together; without it, clients must be told of a new CA",
            )
        path = _next(path)


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the directory's CA key cannot be read: {error}",
            hint=f"put {path} back for as long as the server gets its new certificate",
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is no elliptic-curve key")
    return key
