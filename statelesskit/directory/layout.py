"""Where things stand in the directory: the one place that makes DNs of names, and names of DNs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from ldap3.core.exceptions import LDAPInvalidDnError
from ldap3.utils.dn import escape_rdn, parse_dn

from statelesskit.errors import ConfigError
from statelesskit.names import check_name, printable, prototype_of, split_channel

FOLDERS = ("prototypes", "clients", "groups", "pushes", "roles", "accounts")
TOP_ATTRIBUTES = ("ou", "dc", "o", "cn")  # what class skDirectory may be named by

Rdns = tuple[tuple[str, str], ...]
_ESCAPED = re.compile(r"((?:\\[0-9a-fA-F]{2})+)|\\(.)", re.DOTALL)
_PLAIN = re.compile(r"cn=([a-z0-9._-]+)")
_SNAPSHOT = re.compile(r"(.+)-(\d{8})t(\d{6})z(-\d+)?", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Layout:
    """The part of the LDAP tree that is ours.

    Methods that make a DN raise NameInvalidError for what is no name of that kind; those that end
    in ``_at`` return None for a DN that is no such thing.
    """

    base: str
    _base: Rdns = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_base", _rdns(self.base))
        if not self._base or self._base[0][0] not in TOP_ATTRIBUTES:
            raise ConfigError(
                f"base_dn in site.toml is {printable(self.base)!r}, which is no DN a site can stand on",
                hint=f"write one that begins with {', '.join(TOP_ATTRIBUTES)}, for example ou=stateless",
            )

    def folder(self, name: str) -> str:
        return f"ou={name},{self.base}"

    def checkpoint(self) -> str:
        return f"cn=checkpoint,{self.base}"

    def prototype(self, name: str) -> str:
        return f"cn={escape_rdn(check_name(name, 'prototype'))},{self.folder('prototypes')}"

    def snapshot(self, name: str) -> str:
        prototype = self.prototype(prototype_of(name))
        return f"cn={escape_rdn(name)},{prototype}"

    def channel(self, name: str) -> str:
        prototype, channel = split_channel(name)
        return f"cn={escape_rdn(channel)},{self.prototype(prototype)}"

    def client(self, name: str) -> str:
        return f"cn={escape_rdn(check_name(name, 'client'))},{self.folder('clients')}"

    def status(self, client: str) -> str:
        return f"cn=status,{self.client(client)}"

    def account(self, name: str) -> str:
        return f"cn={escape_rdn(check_name(name, 'account'))},{self.folder('accounts')}"

    def role(self, group: str) -> str:
        return f"cn={escape_rdn(group)},{self.folder('roles')}"

    def account_at(self, dn: str) -> str | None:
        names = self._names(dn, "accounts", 1)
        return names[0] if names else None

    def group(self, name: str) -> str:
        return f"cn={escape_rdn(check_name(name, 'group'))},{self.folder('groups')}"

    def push(self, channel: str, serial: int) -> str:
        # No name holds a slash, so no two pushes share this one.
        return f"cn={'/'.join(split_channel(channel))}/{serial},{self.folder('pushes')}"

    def is_base(self, dn: str) -> bool:
        return _rdns(dn) == self._base

    def prototype_at(self, dn: str) -> str | None:
        names = self._names(dn, "prototypes", 1)
        return names[0] if names else None

    def snapshot_at(self, dn: str) -> str | None:
        names = self._names(dn, "prototypes", 2)
        match = _SNAPSHOT.fullmatch(names[0]) if names else None
        if not match or match[1] != names[1]:
            return None
        return f"{match[1]}-{match[2]}T{match[3]}Z{match[4] or ''}"

    def channel_at(self, dn: str) -> str | None:
        names = self._names(dn, "prototypes", 2)
        return f"{names[1]}/{names[0]}" if names else None

    def client_at(self, dn: str) -> str | None:
        names = self._names(dn, "clients", 1)
        return names[0] if names else None

    def status_at(self, dn: str) -> str | None:
        """Return the client whose report that entry is."""
        names = self._names(dn, "clients", 2)
        return names[1] if names and names[0] == "status" else None

    def group_at(self, dn: str) -> str | None:
        names = self._names(dn, "groups", 1)
        return names[0] if names else None

    def stands_in(self, dn: str, folder: str, *, depth: int = 1) -> bool:
        """Say whether a DN is so many levels below a folder, whatever it is named by."""
        rest = [rdn.casefold() for rdn in split_dn(dn)[depth:]]
        return rest == [rdn.casefold() for rdn in split_dn(self.folder(folder))]

    def _names(self, dn: str, folder: str, depth: int) -> list[str]:
        """Return the ``depth`` names above a folder, nearest last, or nothing if the DN is not there."""
        if depth == 1 and dn.endswith(tail := f",ou={folder},{self.base}"):
            plain = _PLAIN.fullmatch(dn, 0, len(dn) - len(tail))
            if plain:  # as nearly all are, and all of a fleet are read
                return [plain[1]]
        rdns = _rdns(dn)
        if rdns[depth:] != (("ou", folder), *self._base) or any(kind != "cn" for kind, _ in rdns[:depth]):
            return []
        return [value for _, value in rdns[:depth]]


def split_dn(dn: str) -> list[str]:
    """Return the RDNs of a DN as they are written, the nearest first; nothing if it is none."""
    rdns, begun = [], ""
    for kind, value, separator in _parsed(dn):
        begun += f"{kind}={value}"
        if separator == "+":
            begun += "+"
        else:
            rdns.append(begun)
            begun = ""
    return rdns


def named_by(rdn: str) -> list[tuple[str, str]]:
    """Return the attributes an RDN is made of, with their values unescaped."""
    return [(kind, unescape(value)) for kind, value, _ in _parsed(rdn)]


def moved(dn: str, source: str, target: str) -> str:
    """Return the DN of what stood at or below ``source`` when that is moved to ``target``; others stay."""
    rdns, above = split_dn(dn), [rdn.casefold() for rdn in split_dn(source)]
    depth = len(rdns) - len(above)
    if depth < 0 or [rdn.casefold() for rdn in rdns[depth:]] != above:
        return dn
    return ",".join([*rdns[:depth], target])


def _parsed(dn: str) -> list[tuple[str, str, str]]:
    try:
        return list(parse_dn(dn, strip=True))
    except LDAPInvalidDnError:
        return []


@lru_cache(maxsize=4096)
def _rdns(dn: str) -> Rdns:
    """Return attribute and value of each RDN, unescaped and without case, as LDAP compares them.

    Returns nothing for what is no DN or has an RDN of two attributes, which none of ours has.
    """
    parts = _parsed(dn)
    if any(separator == "+" for _, _, separator in parts):
        return ()
    return tuple((kind.lower(), unescape(value).casefold()) for kind, value, _ in parts)


def unescape(value: str) -> str:
    """Undo the escapes of RFC 4514, section 2.4."""

    def plain(match: re.Match[str]) -> str:
        if match[1]:
            return bytes.fromhex(match[1].replace("\\", "")).decode("utf-8", "replace")
        return match[2]

    return _ESCAPED.sub(plain, value)


def comparable(value: str) -> object:
    """Return an attribute's value so that two spellings of one DN are equal; a server writes DNs its own way."""
    return _rdns(value) or value
