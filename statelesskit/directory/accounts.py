"""Accounts of the directory, and the roles they are given.

An account is an entry under ``ou=accounts`` with a password, a user of this host (known from the unix
socket), or the subject of a client's certificate. A role is a group of such DNs; it is there while it
has a member. Only the directory's administrator changes either.
"""

from __future__ import annotations

import base64
import hashlib
import pwd
import re
import secrets
from contextlib import suppress
from pathlib import Path

import ldap3
from ldap3.core.exceptions import LDAPInvalidDnError
from ldap3.utils.dn import parse_dn

from statelesskit import fs
from statelesskit.directory.access import LOCAL_USER, ROLES
from statelesskit.directory.fleet import Directory
from statelesskit.errors import ExistsError, NameInvalidError, NotFoundError
from statelesskit.names import check_name, printable


def account_dn(directory: Directory, account: str) -> str:
    """Return the DN of an account: its name, ``user:NAME`` or ``uid:NUMBER`` of this host, or ``dn:DN``.

    Raises:
        NameInvalidError: it is none of these.
        NotFoundError: this host has no such user.
    """
    kind, colon, rest = account.partition(":")
    if not colon:
        return directory.layout.account(account)
    if kind == "user":
        try:
            rest = str(pwd.getpwnam(rest).pw_uid)
        except (KeyError, ValueError):
            raise NotFoundError(f"this host has no user {printable(rest)!r}") from None
        kind = "uid"
    if kind == "uid" and rest.isascii() and rest.isdecimal():
        return LOCAL_USER.replace("$1", str(int(rest)))
    with suppress(LDAPInvalidDnError):
        if kind == "dn" and parse_dn(rest, strip=True) and rest.isprintable():
            return rest
    raise NameInvalidError(
        f"{printable(account)!r} is no account",
        hint="give the name of one, or user:NAME, uid:NUMBER, or dn:DN for the subject of a certificate",
    )


def role_groups(role: str) -> list[str]:
    """Return the groups who has a role is in; ``role`` is one of ROLES, a pusher's as ``pusher:PROTOTYPE``.

    The one that lets change comes last.

    Raises:
        NameInvalidError: there is no such role.
    """
    kind, colon, prototype = role.partition(":")
    if kind not in ROLES or (kind == "pusher") != bool(colon):
        raise NameInvalidError(
            f"{printable(role)!r} is no role", hint="the roles are operator, pusher:PROTOTYPE, auditor and reporter"
        )
    return ["pushers", f"pushers-{check_name(prototype, 'prototype')}"] if colon else [f"{kind}s"]


def members(directory: Directory) -> dict[str, list[str]]:
    """Return the DNs of the members of each group of a role, by its name, in one search."""
    found = directory.ldap.search(directory.layout.folder("roles"), "objectClass=groupOfNames", ldap3.LEVEL)
    return {entry.text("cn"): entry.texts("member") for entry in found}


def accounts(directory: Directory) -> list[str]:
    """Return the names of the accounts that have a password."""
    found = directory.ldap.search(directory.layout.folder("accounts"), "objectClass=simpleSecurityObject", ldap3.LEVEL)
    return sorted(entry.text("cn") for entry in found)


def grant(directory: Directory, role: str, account: str) -> None:
    """Give an account a role; nothing happens if it has it."""
    dn = account_dn(directory, account)
    for group in role_groups(role):
        place = directory.layout.role(group)
        while not directory.ldap.modify(place, {"member": [(ldap3.MODIFY_ADD, [dn])]}):
            if dn_key(dn) in map(dn_key, members(directory).get(group, [])):
                break
            with suppress(ExistsError):  # two who grant at once
                directory.ldap.add(place, {"objectClass": ["groupOfNames"], "member": [dn]}, "role", group)
                break


def revoke(directory: Directory, role: str, account: str) -> None:
    """Take a role from an account; nothing happens if it has not got it."""
    dn = dn_key(account_dn(directory, account))
    for group in reversed(role_groups(role)):
        found = members(directory)
        if group == "pushers" and any(
            dn in map(dn_key, held) for other, held in found.items() if other.startswith("pushers-")
        ):
            continue  # a pusher of something else still
        for member in found.get(group, []):
            if dn_key(member) != dn:
                continue
            # A group has at least one member (RFC 4519, section 3.5), so the last one goes with it.
            if len(found[group]) == 1:
                directory.ldap.delete(directory.layout.role(group))
            else:
                directory.ldap.modify(directory.layout.role(group), {"member": [(ldap3.MODIFY_DELETE, [member])]})


def roles_of(directory: Directory, account: str) -> list[str]:
    """Return the roles an account has, as :func:`grant` takes them."""
    dn = dn_key(account_dn(directory, account))
    return sorted(
        _role_of(group)
        for group, found in members(directory).items()
        if group != "pushers" and dn in map(dn_key, found)
    )


def role_rows(directory: Directory) -> list[dict[str, str]]:
    """Return a row for each account with each of its roles, and for each account with none."""
    held = members(directory)
    rows = [
        {"role": _role_of(group), "account": name_of(directory, dn)}
        for group, dns in held.items()
        if group != "pushers"
        for dn in dns
    ]
    known = {row["account"] for row in rows}
    rows += [{"role": "", "account": name} for name in accounts(directory) if name not in known]
    return sorted(rows, key=lambda row: (row["account"], row["role"]))


def name_of(directory: Directory, dn: str) -> str:
    """Return what :func:`account_dn` makes that DN of."""
    local = re.fullmatch(re.escape(LOCAL_USER).replace(re.escape("$1"), r"(\d+)"), dn, re.ASCII | re.IGNORECASE)
    if local:
        return f"uid:{local[1]}"
    return directory.layout.account_at(dn) or f"dn:{dn}"


def add_account(directory: Directory, name: str, password_file: Path) -> None:
    """Add an account, with a new password in a new file of mode 0600.

    The file comes first, so a crash leaves a password without an account, never the other way round.

    Raises:
        ExistsError: there is such an account, or such a file.
    """
    check_new(password_file)
    password, salt = secrets.token_urlsafe(32), secrets.token_bytes(16)
    fs.write_file(password_file, f"{password}\n".encode(), mode=0o600)
    # Salted SHA-1 is what every slapd can check; the password is as random as a key, so nobody finds it by trying.
    digest = hashlib.sha1(password.encode() + salt, usedforsecurity=False).digest()
    hashed = "{SSHA}" + base64.b64encode(digest + salt).decode()
    attributes = {"objectClass": ["device", "simpleSecurityObject"], "userPassword": [hashed]}
    directory.ldap.add(account_dn(directory, name), attributes, "account", name)


def check_new(path: Path) -> None:
    """Refuse a password file that is there: it may be in use."""
    if path.exists() or path.is_symlink():
        raise ExistsError(
            f"{path} is there already",
            hint="name another file; or remove this one, if no account uses it or an earlier try was cut off",
        )


def remove_account(directory: Directory, name: str) -> None:
    """Take all roles from an account, then remove it; nothing happens if it is not there."""
    for role in roles_of(directory, name):
        revoke(directory, role, name)
    directory.ldap.delete(account_dn(directory, name))


def dn_key(dn: str) -> object:
    """Return what two spellings of a DN have in common."""
    return [(kind.lower().strip(), value.casefold()) for kind, value, _ in parse_dn(dn, strip=True)]


def _role_of(group: str) -> str:
    kind, dash, prototype = group.partition("-")
    return kind.removesuffix("s") + (f":{prototype}" if dash else "")
