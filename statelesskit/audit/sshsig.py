"""Signatures as ``ssh-keygen -Y sign`` makes them, so that an auditor needs nothing but OpenSSH to check one.

https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig; of several spellings ssh-keygen's own.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from statelesskit.audit import keys
from statelesskit.errors import AuditError

_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\n"
_MAGIC, _VERSION, _HASH = b"SSHSIG", b"\0\0\0\1", b"sha512"
_SIGNATURE = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x40"  # RFC 8709, section 6; 64 bytes follow


def sign(message: bytes, namespace: str, private: Path) -> bytes:
    """Return the signature's file; raises as :func:`keys.load_private`."""
    key = keys.load_private(private)
    return _armoured(keys.public_line(key.public_key()), namespace, key.sign(_signed(message, namespace)))


def verify(data: bytes, message: bytes, namespace: str, public: str) -> None:
    """Hold a signature's file against the message.

    Raises:
        AuditError: it is not that key's signature of it, or not spelt as :func:`sign` does.
        UsageError: ``public`` is no public key.
    """
    from cryptography.exceptions import InvalidSignature

    body = b"".join(data.removeprefix(_BEGIN).removesuffix(_END).split(b"\n"))
    try:
        signature = base64.b64decode(body, validate=True)[-64:]
    except ValueError:
        signature = b""
    if data != _armoured(public, namespace, signature):
        raise AuditError("is no SSH signature by the key that was given")
    try:
        keys.plain_public(public).verify(signature, _signed(message, namespace))
    except InvalidSignature:
        raise AuditError("is not the signature of what it stands beside: altered, or its writer was killed") from None


def _signed(message: bytes, namespace: str) -> bytes:
    parts = (namespace.encode(), b"", _HASH, hashlib.sha512(message).digest())
    return _MAGIC + b"".join(map(_string, parts))


def _armoured(public: str, namespace: str, signature: bytes) -> bytes:
    parts = (keys.blob(public), namespace.encode(), b"", _HASH, _SIGNATURE + signature)
    text = base64.b64encode(_MAGIC + _VERSION + b"".join(map(_string, parts)))
    lines = [text[at : at + 70] + b"\n" for at in range(0, len(text), 70)]
    return _BEGIN + b"".join(lines) + _END


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
