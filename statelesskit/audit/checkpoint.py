"""What a log held at one moment, in a few signed lines that fit anywhere: C2SP tlog-checkpoint in a signed note.

https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note. After origin, size and root comes one line
of ours, the SHA-256 of the log's file, so that who has no program for hash trees can check with ``sha256sum``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from statelesskit.audit import keys
from statelesskit.errors import AuditError
from statelesskit.names import printable

MAX_CHECKPOINT = 4096  # bytes
_NAME = r"[\x21-\x2a\x2c-\x7e]+"  # neither spaces nor a plus
_NOTE = re.compile(
    rf"(?P<origin>{_NAME})\n(?P<size>0|[1-9][0-9]{{0,17}})\n(?P<root>[A-Za-z0-9+/]{{43}}=)\n"
    rf"entries sha256:(?P<entries>[0-9a-f]{{64}})\n\n\u2014 (?P<name>{_NAME}) (?P<sig>[A-Za-z0-9+/]{{91}}=)\n",
    re.ASCII,
)
_ED25519 = b"\1"  # the signature type, in signed-note's terms


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One state of a log.

    Attributes:
        origin: the log's name, of which there is one in the world.
        entries_sha256: digest of the bytes of the log's file, in hex.
    """

    origin: str
    size: int
    root: bytes
    entries_sha256: str

    def body(self) -> bytes:
        """Return the bytes that are signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\nentries sha256:{self.entries_sha256}\n".encode()

    def sign(self, private: Path) -> bytes:
        """Return the signed note; raises as :func:`keys.load_private`."""
        key = keys.load_private(private)
        signature = _key_id(self.origin, keys.public_line(key.public_key())) + key.sign(self.body())
        return self.body() + f"\n\u2014 {self.origin} {base64.b64encode(signature).decode()}\n".encode()

    @classmethod
    def verify(cls, note: bytes, public: str) -> Self:
        """Return what a signed note says.

        Raises:
            AuditError: it was not signed by that key, or is not spelt as :meth:`sign` does.
            UsageError: ``public`` is no public key.
        """
        from cryptography.exceptions import InvalidSignature

        key = keys.plain_public(public)
        match = _NOTE.fullmatch(note.decode("utf-8", "replace"))
        if not match:
            raise AuditError("is no checkpoint, or altered")
        found = cls(match["origin"], int(match["size"]), base64.b64decode(match["root"]), match["entries"])
        key_id, signature = (blob := base64.b64decode(match["sig"]))[:4], blob[4:]
        if match["name"] != found.origin or key_id != _key_id(found.origin, public):
            raise AuditError(f"is signed by {printable(match['name'])} with another key, or altered")
        try:
            key.verify(signature, found.body())
        except InvalidSignature:
            raise AuditError("the signature does not match: altered, or signed with another key") from None
        if note != found.body() + f"\n\u2014 {found.origin} {base64.b64encode(blob).decode()}\n".encode():
            raise AuditError("is not in its canonical form: altered")
        return found


def _key_id(name: str, public: str) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + keys.raw(public)).digest()[:4]
