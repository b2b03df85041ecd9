"""LDAP requests as bytes (RFC 4511 in BER, X.690): a tag, a length, a value.

ldap3 takes a millisecond to encode one request, which is minutes for a whole fleet. Only what is sent in bulk is
here; answers are decoded by ldap3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Control = tuple[str, bool, bytes | None]  # number, whether it must be understood, value: as ldap3 takes them
SEQUENCE, SET, OCTETS, ENUMERATED, INTEGER, BOOLEAN = 0x30, 0x31, 0x04, 0x0A, 0x02, 0x01
ADD, MODIFY, DELETE, EXTENDED, CONTROLS = 0x68, 0x66, 0x4A, 0x77, 0xA0
_HOW = {"MODIFY_ADD": b"\0", "MODIFY_DELETE": b"\1", "MODIFY_REPLACE": b"\2"}  # ldap3's words


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return one element."""
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def text(value: str | bytes) -> bytes:
    return tlv(OCTETS, value.encode() if isinstance(value, str) else value)


def message(number: int, request: bytes, controls: Iterable[Control] = ()) -> bytes:
    """Return a request as it is sent."""
    sent = [
        tlv(SEQUENCE, text(kind), tlv(BOOLEAN, b"\xff") if critical else b"", b"" if value is None else text(value))
        for kind, critical, value in controls
    ]
    parts = [tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big")), request]
    return tlv(SEQUENCE, *parts, *([tlv(CONTROLS, *sent)] if sent else []))


def add(dn: str, attributes: Mapping[str, Sequence[str]]) -> bytes:
    """Return the request that adds an entry; attributes without values are left out."""
    return tlv(
        ADD, text(dn), tlv(SEQUENCE, *(_attribute(kind, values) for kind, values in attributes.items() if values))
    )


def delete(dn: str) -> bytes:
    return tlv(DELETE, dn.encode())


def modify(dn: str, changes: Mapping[str, Sequence[tuple[str, Sequence[str]]]]) -> bytes:
    """Return the request that changes an entry: by attribute, what is done (in ldap3's words) with which values."""
    steps = [
        tlv(SEQUENCE, tlv(ENUMERATED, _HOW[how]), _attribute(kind, values))
        for kind, done in changes.items()
        for how, values in done
    ]
    return tlv(MODIFY, text(dn), tlv(SEQUENCE, *steps))


def extended(kind: str, value: bytes | None = None) -> bytes:
    return tlv(EXTENDED, tlv(0x80, kind.encode()), *([] if value is None else [tlv(0x81, value)]))


def _attribute(kind: str, values: Sequence[str]) -> bytes:
    return tlv(SEQUENCE, text(kind), tlv(SET, *map(text, values)))
