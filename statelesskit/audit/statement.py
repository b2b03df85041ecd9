"""The seal of a record: an in-toto Statement naming every file's digest, in a DSSE envelope.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://github.com/secure-systems-lab/dsse/blob/master/envelope.md; both JSON texts are canonical, so
that each statement has one spelling only.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statelesskit.audit import keys
from statelesskit.errors import AuditError
from statelesskit.fs import canonical_json
from statelesskit.names import printable

STATEMENT = "statement.dsse.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://statelesskit.org/record/v1"  # an identifier; nothing is fetched from there
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_STATEMENT = 4 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """What a seal states.

    Attributes:
        digests: SHA-256 in hex of every file of the record but the statement.
        predicate: what was done by whom, and how it ended.
    """

    digests: Mapping[str, str]
    predicate: Mapping[str, Any]

    def encode(self) -> bytes:
        """Return the bytes that are signed."""
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "predicate": self.predicate,
                "predicateType": PREDICATE_TYPE,
                "subject": [{"digest": {"sha256": d}, "name": name} for name, d in sorted(self.digests.items())],
            }
        )


def sign(statement: Statement, private: Path) -> bytes:
    """Return the envelope as its file holds it; raises as :func:`keys.load_private`.

    Made here, as importing securesystemslib costs more than a whole snapshot in which little changed;
    :func:`verify` leaves it to that.
    """
    key, payload = keys.load_private(private), statement.encode()
    # The pre-authentication encoding of the envelope's protocol: lengths and bytes of type and payload.
    signed = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    signature = {
        "keyid": keys.fingerprint(keys.public_line(key.public_key())),
        "sig": base64.b64encode(key.sign(signed)).decode(),
    }
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [signature],
    }
    return canonical_json(envelope) + b"\n"


def verify(data: bytes, public: str) -> Statement:
    """Return what an envelope states, if it was signed with that key.

    Raises:
        AuditError: it was not, or the bytes are not exactly those :func:`sign` would write.
        UsageError: ``public`` is no public key.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import Signature

    key = keys.load_public(public)
    try:
        envelope = Envelope.from_dict(json.loads(data))
        ((keyid, signature),) = envelope.signatures.items()
        # Rebuilt from the parts that count: whatever else the file holds, it is not ours.
        plain = Envelope(envelope.payload, PAYLOAD_TYPE, {keyid: Signature(keyid, signature.signature)})
        canonical = canonical_json(plain.to_dict()) + b"\n" == data
    except Exception:  # the parser names no set of exceptions, and hostile bytes find all of them
        raise AuditError("is no DSSE envelope") from None
    if not canonical:
        raise AuditError("is not in its canonical form: altered")
    if keyid != key.keyid:
        raise AuditError(f"is signed with the key {printable(keyid)}, expected {key.keyid}")
    try:
        plain.verify([key], 1)
    except VerificationError:
        raise AuditError("the signature does not match: altered, or signed with another key") from None
    return _decode(plain.payload)


def unverified(data: bytes) -> Statement:
    """Return what an envelope claims to state, signed by whomever.

    Raises:
        AuditError: it is no record's statement.
    """
    try:
        return _decode(base64.b64decode(json.loads(data)["payload"], validate=True))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AuditError("is no DSSE envelope") from None


def keyid(data: bytes) -> str:
    """Return the fingerprint of the key that an envelope claims to be signed with, or ""."""
    try:
        return str(json.loads(data)["signatures"][0]["keyid"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""


def _decode(payload: bytes) -> Statement:
    try:
        raw = json.loads(payload)
        digests = {subject["name"]: subject["digest"]["sha256"] for subject in raw["subject"]}
        statement = Statement(digests, raw["predicate"])
        texts = all(isinstance(text, str) for pair in digests.items() for text in pair)
        if texts and isinstance(statement.predicate, dict) and statement.encode() == payload:
            return statement
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise AuditError("the key signed something else than a record's statement")
