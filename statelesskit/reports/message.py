"""A report as it travels: format 1.

The body of ``POST /report`` is ASCII: one line of JSON, then nothing, or a newline and the signature of that line
(without the newline) as ``ssh-keygen -Y sign -n statelesskit-report`` writes it. The line is an object::

    {"format": 1, "client": "c042", "snapshot": "desktop-20261123T073000Z", "digest": "sha256:…",
     "boot_id": "…", "counter": 1795500000000, "result": "ok",
     "overlay_bytes": 1048576, "overlay_limit_bytes": 2147483648}

``snapshot`` and ``digest`` are null where none of ours runs, the last two where nothing is laid over the root.
``boot_id`` is ``/proc/sys/kernel/random/boot_id``. ``counter`` rises with every report of a client: its clock in
milliseconds, or one more than it was told it needs, since a machine without state has neither a counter that
stays nor always a right clock. ``result`` is one word of lower-case letters, digits and dashes. Other fields are
passed over.

The body of ``POST /enrol`` is such an object too: ``{"format": 1, "client", "token", "key"}``, the key as one
OpenSSH line.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from statelesskit.errors import FormatError, NameInvalidError
from statelesskit.names import check_name, printable, prototype_of

FORMAT = 1
NAMESPACE = "statelesskit-report"
LIMIT_BYTES = 16 << 10
MOST = 1 << 62  # of any number
_DIGEST = re.compile("sha256:[0-9a-f]{64}", re.ASCII)
_WORD = re.compile("[a-z][a-z0-9-]{0,31}", re.ASCII)
_BOOT_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Message:
    """One report, as its sender wants it to be understood.

    Attributes:
        signed: the bytes that are signed.
        signature: the signature's file; b"" without one.
    """

    client: str
    snapshot: str | None
    digest: str | None
    boot_id: str
    counter: int
    result: str
    overlay_bytes: int | None
    overlay_limit_bytes: int | None
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a client enrols with; never shown, never written."""

    client: str
    token: str
    key: str

    def __repr__(self) -> str:
        return f"Enrolment({self.client!r})"


def parse_report(body: bytes) -> Message:
    """Read a report.

    Raises:
        FormatError: it is none of format 1; the message quotes nothing that a terminal would act on.
    """
    signed, _, signature = body.partition(b"\n")
    said = _object(signed)
    snapshot = said.get("snapshot")
    return Message(
        client=_name(said.get("client")),
        snapshot=None if snapshot is None else _snapshot(snapshot),
        digest=None if snapshot is None else _fitting(said, "digest", _DIGEST),
        boot_id=_fitting(said, "boot_id", _BOOT_ID),
        counter=_number(said, "counter", 1),
        result=_fitting(said, "result", _WORD),
        overlay_bytes=_optional_number(said, "overlay_bytes"),
        overlay_limit_bytes=_optional_number(said, "overlay_limit_bytes"),
        signed=signed,
        signature=signature,
    )


def parse_enrolment(body: bytes) -> Enrolment:
    """Read what a client enrols with; raises FormatError, which does not repeat it."""
    said = _object(body)
    token, key = said.get("token"), said.get("key")
    if not isinstance(token, str) or not isinstance(key, str):
        raise FormatError("token and key are two texts")
    return Enrolment(_name(said.get("client")), token, key)


def _object(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise FormatError("is no line of JSON in ASCII") from None
    if not isinstance(said, dict) or type(said.get("format")) is not int or said["format"] != FORMAT:
        raise FormatError(f"is no object of format {FORMAT}")
    return said


def _name(value: object) -> str:
    try:
        return check_name(value, "client")
    except NameInvalidError as error:
        raise FormatError(error.message) from None


def _snapshot(value: object) -> str:
    try:
        prototype_of(value)
    except NameInvalidError as error:
        raise FormatError(error.message) from None
    return str(value)


def _fitting(said: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise FormatError(f"{name} is {printable(value)!r}, expected what fits {pattern.pattern}")
    return value


def _number(said: dict[str, Any], name: str, least: int) -> int:
    value = said.get(name)
    if type(value) is not int or not least <= value <= MOST:
        raise FormatError(f"{name} is {printable(value)!r}, expected a whole number from {least} to {MOST}")
    return value


def _optional_number(said: dict[str, Any], name: str) -> int | None:
    return None if said.get(name) is None else _number(said, name, 0)
