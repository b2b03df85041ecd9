"""The key that seals records: Ed25519, the private half as PKCS #8, the public half as OpenSSH writes it."""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statelesskit import fs, lock
from statelesskit.errors import DamagedError, EnvironmentLacksError, PermissionNeededError, UsageError
from statelesskit.names import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PRIVATE, PUBLIC = "record.key", "record.pub"
COMMENT = "statelesskit-records"
_BLOB_START = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"  # RFC 8709 §4; the key's 32 bytes follow
_PKCS8_START = bytes.fromhex("302e020100300506032b657004220420")  # RFC 8410 §7; the key's 32 bytes follow
_PEM = (b"-----BEGIN PRIVATE KEY-----\n", b"\n-----END PRIVATE KEY-----\n")


def create_record_key(keys_dir: Path) -> str:
    """Make the key of a site, or complete one a crash left half made; return its fingerprint.

    A key that is there is never replaced.

    Raises:
        DamagedError: ``record.pub`` is there and belongs to another key, or to one that is gone.
    """
    private, public = keys_dir / PRIVATE, keys_dir / PUBLIC
    with lock.held(keys_dir / ".record.lock", what="the record key", doing="making it", wait_s=30):
        if not private.exists():
            if public.exists():  # it is made second, so this is no half made pair: the private half was lost
                raise DamagedError(
                    f"{private} is gone, and {public} is there: a new key would not be the one auditors know",
                    hint=f"restore it from the backup; to begin anew with another key, move {public.name} away first",
                )
            write_private(private)
        line = public_line(load_private(private).public_key())
        if not public.exists():
            fs.write_file(public, line.encode() + b"\n")
    if fingerprint(public.read_text("ascii", "replace")) != fingerprint(line):
        raise DamagedError(
            f"{public} is not the public half of {private}",
            hint=f"find out who put it there; the right one is: {line}",
        )
    return fingerprint(line)


def write_private(path: Path) -> str:
    """Make a key, put its private half into a file of its owner's alone, and return its public line."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    fs.write_file(path, pem, mode=0o600)
    return public_line(key.public_key())


def public_line(key: Ed25519PublicKey) -> str:
    """Return a public key as one OpenSSH line."""
    blob = _BLOB_START + key.public_bytes_raw()
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {COMMENT}"


def fingerprint(public: str) -> str:
    """Return what ``ssh-keygen -lf`` calls an OpenSSH public key line: ``SHA256:…``.

    Raises:
        UsageError: it is no Ed25519 public key.
    """
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob(public)).digest()).decode().rstrip("=")


@cache
def load_public(public: str) -> Any:
    """Return an OpenSSH public key line as securesystemslib's key, whose id is the fingerprint.

    Raises:
        UsageError: it is no Ed25519 public key.
    """
    from securesystemslib.signer import SSlibKey

    return SSlibKey.from_crypto(plain_public(public), keyid=fingerprint(public))


def plain_public(public: str) -> Ed25519PublicKey:
    """Return an OpenSSH public key line as a key that verifies; raises as :func:`load_public`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(raw(public))


def raw(public: str) -> bytes:
    """Return the 32 bytes of an OpenSSH public key line; raises as :func:`load_public`."""
    return blob(public)[len(_BLOB_START) :]


def load_private(path: Path) -> Ed25519PrivateKey:
    """Return the private key of a file.

    Raises:
        EnvironmentLacksError: there is no such file, or this user may not read it.
        DamagedError: it holds no Ed25519 private key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        raise EnvironmentLacksError(
            f"there is no record key at {path}",
            hint="restore it from the backup; `statelesskit site init` makes a first one",
        ) from None
    except PermissionError:
        raise PermissionNeededError(
            f"the record key {path} may not be read by this user", hint="run it as the user the site belongs to"
        ) from None
    if raw := _usual(pem):
        return Ed25519PrivateKey.from_private_bytes(raw)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DamagedError(f"{path} holds no private key: {error}", hint="restore it from the backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise DamagedError(f"{path} holds a key of another kind than Ed25519", hint="restore it from the backup")
    return key


def _usual(pem: bytes) -> bytes:
    """Return the 32 bytes of a key in the form we write, else b""; the parser of all forms is slow to import."""
    if not (pem.startswith(_PEM[0]) and pem.endswith(_PEM[1])):
        return b""
    try:
        der = base64.b64decode(pem[len(_PEM[0]) : -len(_PEM[1])], validate=True)
    except binascii.Error:
        return b""
    right = der.startswith(_PKCS8_START) and len(der) == len(_PKCS8_START) + 32
    return der[len(_PKCS8_START) :] if right else b""


def blob(public: str) -> bytes:
    """Return an OpenSSH public key line's middle, decoded; raises as :func:`load_public`."""
    words = public.split()
    try:
        found = base64.b64decode(words[1], validate=True) if words[:1] == ["ssh-ed25519"] else b""
    except (IndexError, binascii.Error, ValueError):
        found = b""
    if not found.startswith(_BLOB_START) or len(found) != len(_BLOB_START) + 32:
        raise UsageError(
            f"{printable(public.strip())!r} is no Ed25519 public key",
            hint="give the line of record.pub; it begins with ssh-ed25519",
        )
    return found
