"""LDIF (RFC 2849), as far as entries go: written so that any tool reads it, read strictly."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator

from statelesskit.directory.mapping import Entry
from statelesskit.errors import FormatError

_SAFE = re.compile(rb"(?:[\x01-\x09\x0b\x0c\x0e-\x1f\x21-\x39\x3b\x3d-\x7f][\x01-\x09\x0b\x0c\x0e-\x7f]*)?(?<! )")
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9.;-]*")


def written(entry: Entry) -> bytes:
    """Return an entry with the empty line that ends it."""
    lines = [_line("dn", entry.dn.encode())]
    lines += [_line(name, value) for name, values in entry.values.items() for value in values]
    return b"".join(lines) + b"\n"


def _line(name: str, value: bytes) -> bytes:
    if _SAFE.fullmatch(value):
        return name.encode() + b": " + value + b"\n"
    return name.encode() + b":: " + b64encode(value) + b"\n"


def read(data: bytes) -> Iterator[Entry]:
    """Return the entries of a file.

    Raises:
        FormatError: a line is none.
    """
    unfolded = data.replace(b"\r\n", b"\n").replace(b"\n ", b"")
    for paragraph in unfolded.split(b"\n\n"):
        lines = [line for line in paragraph.split(b"\n") if line and not line.startswith((b"#", b"version:"))]
        if not lines:
            continue
        values: dict[str, list[bytes]] = {}
        dn = ""
        for number, line in enumerate(lines):
            name, value = _value(line)
            if (name.lower() == "dn") is not (number == 0):
                raise FormatError(f"an entry of the LDIF begins with {line[:60]!r}, not with its dn")
            if number:
                values.setdefault(name, []).append(value)
            else:
                dn = value.decode("utf-8", "replace")
        yield Entry(dn, values)


def _value(line: bytes) -> tuple[str, bytes]:
    name, colon, rest = line.partition(b":")
    if not colon or not _NAME.fullmatch(name):
        raise FormatError(f"{line[:60]!r} is no line of an LDIF file")
    if not rest.startswith(b":"):
        return name.decode(), rest.removeprefix(b" ")
    try:
        return name.decode(), b64decode(rest[1:].strip(), validate=True)
    except ValueError:
        raise FormatError(f"{line[:60]!r} is no base64") from None
