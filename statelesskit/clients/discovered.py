"""Machines that asked to boot and are nobody we know: a short list on the site's disk.

Anybody on the network can ask, under any address and as often as they like. So the list has a largest size, only
so many addresses are new in a minute, and one that asks again is written again only after a while.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from statelesskit.config import Site
from statelesskit.directory import Directory
from statelesskit.errors import NameInvalidError
from statelesskit.fs import canonical_json, write_file
from statelesskit.lock import held
from statelesskit.names import normalise_mac

KEPT = 1000
NEW_A_MINUTE = 60
AGAIN = timedelta(minutes=10)
AT_ONCE = 200  # addresses the directory is asked for by one search


@dataclass(frozen=True, slots=True)
class Unknown:
    """A machine that asked to boot.

    Attributes:
        address: from where it asked, as it said; "" if that was none.
        asked: how often, not counting what came soon after another.
    """

    mac: str
    address: str
    first_at: datetime
    last_at: datetime
    asked: int = 1

    def as_row(self) -> dict[str, Any]:
        """Return it for a table, with the line that adds it."""
        name = "pc-" + self.mac.replace(":", "")
        times = {
            name: f"{at:%Y-%m-%dT%H:%M:%SZ}" for name, at in (("first_at", self.first_at), ("last_at", self.last_at))
        }
        add = f"statelesskit client add {name} --mode diskless --mac {self.mac} --channel PROTOTYPE/CHANNEL"
        return {**asdict(self), **times, "add": add}


def note(site: Site, mac: str, address: str, at: datetime) -> bool:
    """Write down that a machine nobody knows asked to boot; false if it was not worth a write, or too many ask.

    Where the list is full, who asked least, and of these who asked longest ago, makes room.

    Raises:
        NameInvalidError: it is no MAC address.
        LockedError: somebody else writes for seconds already.
    """
    mac = normalise_mac(mac)
    with held(site.lock_file("discovered"), what="the list of unknown machines", doing="note", wait_s=5):
        known = {one.mac: one for one in listed(site)}
        if one := known.pop(mac, None):
            if at - one.last_at < AGAIN:
                return False
            one = replace(one, address=_address(address), last_at=at, asked=one.asked + 1)
        else:
            new = sum(1 for other in known.values() if timedelta(0) <= at - other.first_at < timedelta(minutes=1))
            if new >= NEW_A_MINUTE:
                return False
            one = Unknown(mac, _address(address), at, at)
        kept = sorted(known.values(), key=lambda other: (other.asked, other.last_at))[-KEPT + 1 :]
        lines = [canonical_json(_as_json(each)) for each in (*kept, one)]
        write_file(_file(site), b"\n".join(lines) + b"\n", mode=0o600)
    return True


def listed(site: Site) -> list[Unknown]:
    """Return the list; a line that cannot be read is left out."""
    try:
        lines = _file(site).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [one for line in lines for one in _read(line)]


def unknown(site: Site, directory: Directory) -> list[Unknown]:
    """Return those of the list that no client's entry names, the last to ask first."""
    found = listed(site)
    known: set[str] = set()
    for begin in range(0, len(found), AT_ONCE):
        rule = "".join(f"(macAddress={one.mac})" for one in found[begin : begin + AT_ONCE])
        for entry in directory.ldap.search(directory.layout.base, f"|{rule}", attributes=("macAddress",)):
            known |= {mac.lower() for mac in entry.texts("macAddress")}
    return sorted((one for one in found if one.mac not in known), key=lambda one: one.last_at, reverse=True)


def _file(site: Site) -> Path:
    return site.directory / "unknown.jsonl"


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _as_json(one: Unknown) -> dict[str, Any]:
    return {**asdict(one), "first_at": one.first_at.isoformat(), "last_at": one.last_at.isoformat()}


def _read(line: bytes) -> Iterator[Unknown]:
    try:
        data = json.loads(line)
        first, last = (datetime.fromisoformat(data[name]).astimezone(UTC) for name in ("first_at", "last_at"))
        yield Unknown(normalise_mac(data["mac"]), _address(data["address"]), first, last, int(data["asked"]))
    except (ValueError, TypeError, KeyError, AttributeError, NameInvalidError):
        return
