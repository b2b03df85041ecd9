"""What a name may be. Names reach paths, DNs, URLs, kernel arguments and terminals, so the rule is narrow."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from statelesskit.errors import NameInvalidError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)
_SNAPSHOT = re.compile(
    r"(?P<prototype>[a-z0-9][a-z0-9._-]*)-(?P<taken>\d{8}T\d{6}Z)(?:-(?P<again>[1-9]\d*))?", re.ASCII
)
_MAC_FORMS = (
    re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII),
    re.compile(r"(?:[0-9a-f]{2}-){5}[0-9a-f]{2}", re.ASCII),
    re.compile(r"(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}", re.ASCII),
    re.compile(r"[0-9a-f]{12}", re.ASCII),
)


def check_name(name: object, kind: str) -> str:
    """Return a name that is safe everywhere: 1 to 63 of ``a-z 0-9 . _ -``, letter or digit at both ends.

    Raises:
        NameInvalidError: it is anything else.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise NameInvalidError(
            f"{printable(name)!r} is no name for a {kind}",
            hint="use 1 to 63 lower-case letters, digits, '.', '_' or '-', beginning and ending with a letter or digit",
        )
    return name


def split_channel(channel: str) -> tuple[str, str]:
    """Split ``desktop/stable`` into prototype and channel.

    Raises:
        NameInvalidError: it is not two names with one slash between.
    """
    prototype, slash, name = channel.partition("/")
    if not slash:
        raise NameInvalidError(
            f"{printable(channel)!r} names no channel", hint="write PROTOTYPE/CHANNEL, for example desktop/stable"
        )
    return check_name(prototype, "prototype"), check_name(name, "channel")


def snapshot_name(prototype: str, taken_at: datetime, taken_names: frozenset[str] | set[str]) -> str:
    """Return the name of a snapshot taken now: ``desktop-20261123T073000Z``, then ``…Z-2``, ``…Z-3``."""
    base = f"{prototype}-{taken_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    name, again = base, 1
    while name in taken_names:
        again += 1
        name = f"{base}-{again}"
    return name


def prototype_of(snapshot: object) -> str:
    """Return the prototype a snapshot's name belongs to.

    Raises:
        NameInvalidError: it is no snapshot's name.
    """
    match = _SNAPSHOT.fullmatch(snapshot) if isinstance(snapshot, str) else None
    if not match:
        raise NameInvalidError(
            f"{printable(snapshot)!r} names no snapshot",
            hint="a snapshot's name looks like desktop-20261123T073000Z; `statelesskit snapshot list` shows all",
        )
    return check_name(match["prototype"], "prototype")


def normalise_mac(mac: str) -> str:
    """Return a MAC address as ``52:54:00:12:34:56``, from any of the four usual notations.

    Raises:
        NameInvalidError: it is none, or one that can be nobody's (all zero, or a group address).
    """
    text = mac.strip().lower()
    digits = re.sub("[^0-9a-f]", "", text)
    if not any(form.fullmatch(text) for form in _MAC_FORMS):
        raise NameInvalidError(f"{printable(mac)!r} is no MAC address", hint="write it as 52:54:00:12:34:56")
    if int(digits, 16) == 0 or int(digits[:2], 16) & 1:
        raise NameInvalidError(
            f"{printable(mac)!r} is no single machine's MAC address", hint="it is all zero, or a multicast address"
        )
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def printable(text: object) -> str:
    """Return text with everything a terminal would act on made visible, and cut at 200 characters."""
    safe = str(text)
    if not safe.isprintable():
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in safe)
    return safe if len(safe) <= 200 else safe[:199] + "…"
