"""Who asks, as the kernel tells it, and what the site lets them do."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from statelesskit.action import Action
from statelesskit.audit import process
from statelesskit.config import Rule, Site
from statelesskit.errors import RefusedError
from statelesskit.names import printable


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a unix socket: attested by the kernel, nothing of it is said by them.

    Attributes:
        user: the name of that uid, or ``uid 1234``.
        groups: the names of all their groups.
    """

    uid: int
    pid: int
    user: str
    groups: frozenset[str]

    @classmethod
    def of(cls, connection: socket.socket) -> Caller:
        """Return who connected: unix(7), SO_PEERCRED."""
        size = struct.calcsize("iII")
        pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        try:
            user = pwd.getpwuid(uid).pw_name
            numbers = os.getgrouplist(user, gid)
        except KeyError:
            user, numbers = f"uid {uid}", [gid]
        return cls(uid, pid, user, frozenset(name for number in numbers for name in _group(number)))

    def as_facts(self) -> dict[str, Any]:
        """Return what a record's begin tells of them; ``runner`` is the process that asked."""
        return {"mode": "service", "uid": self.uid, "user": self.user, "runner": process.identity(self.pid)}


def check_allowed(site: Site, caller: Caller, action: Action) -> None:
    """Refuse what no rule lets the caller do to what the action works on.

    Raises:
        RefusedError: as said.
    """
    objects = action.objects()
    for rule in _rules(site, caller, action.verb):
        if all(_fits(name, rule.objects) for name in objects):
            return
    what = f"{action.verb} of {', '.join(map(printable, objects))}" if objects else action.verb
    raise _refusal(site, caller, what)


def check_verb(site: Site, caller: Caller, verb: str) -> None:
    """Refuse what the caller may do to nothing at all; raises as :func:`check_allowed`."""
    if not _rules(site, caller, verb):
        raise _refusal(site, caller, verb)


def _rules(site: Site, caller: Caller, verb: str) -> list[Rule]:
    if caller.uid == 0:
        return [Rule(verbs=("*",))]
    return [
        rule
        for rule in site.service.allow
        if (caller.user in rule.users or caller.groups & set(rule.groups)) and _fits(verb, rule.verbs)
    ]


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _refusal(site: Site, caller: Caller, what: str) -> RefusedError:
    return RefusedError(
        f"{printable(caller.user)} may not do this here: {what}",
        hint=f"whoever keeps {site.root / 'site.toml'} can allow it there, under [[service.allow]]",
    )


def _group(number: int) -> list[str]:
    try:
        return [grp.getgrgid(number).gr_name]
    except KeyError:
        return []
