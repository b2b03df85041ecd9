"""Accounts in /etc: who is new, whose number moved, who joined a group that counts."""

from __future__ import annotations

from collections.abc import Iterator

from statelesskit.contents import Contents
from statelesskit.names import printable
from statelesskit.risk.model import TEXT_MAX, Risk, Step

PASSWD, GROUP, SHADOW = b"etc/passwd", b"etc/group", b"etc/shadow"
POWERFUL = {"adm", "disk", "docker", "incus-admin", "kmem", "kvm", "libvirt", "lxd", "root", "shadow", "sudo", "wheel"}
NO_SHELLS = ("/nologin", "/false", "/sync")


def accounts(step: Step) -> Iterator[Risk]:
    """Judge the three lists where they differ."""
    differ = {pair.path for pair in step.pairs}
    if PASSWD in differ:
        yield from _passwd(_rows(step.before, PASSWD, 7), _rows(step.after, PASSWD, 7))
    if GROUP in differ:
        yield from _group(_rows(step.before, GROUP, 4), _rows(step.after, GROUP, 4))
    if SHADOW in differ:
        yield from _shadow(_rows(step.before, SHADOW, 9), _rows(step.after, SHADOW, 9))


def _rows(tree: Contents, path: bytes, fields: int) -> dict[str, list[str]]:
    """Return the well-formed lines by their first field; the first of a name counts, as for the C library."""
    found: dict[str, list[str]] = {}
    for line in (tree.read(path, TEXT_MAX) or b"").decode("utf-8", "replace").split("\n"):
        row = line.split(":")
        if len(row) == fields:
            found.setdefault(row[0], row)
    return found


def _passwd(was: dict[str, list[str]], now: dict[str, list[str]]) -> Iterator[Risk]:
    for name, row in now.items():
        who, uid, old = printable(name), row[2], was.get(name)
        if uid.lstrip("0") == "" and (old is None or old[2] != uid) and name != "root":
            yield Risk("high", "account", PASSWD, f"{who} is another root: its uid is {printable(uid)}")
        elif old is None:
            yield Risk("medium", "account", PASSWD, f"new: {who} with the uid {printable(uid)}")
        elif old[2] != uid:
            moved = f"from {printable(old[2])} to {printable(uid)}"
            yield Risk("high", "account", PASSWD, f"the uid of {who} moved {moved}; files kept on clients did not")
        if old and old[6] != row[6] and old[6].endswith(NO_SHELLS) and not row[6].endswith(NO_SHELLS):
            yield Risk("medium", "account", PASSWD, f"{who} may now log in, with {printable(row[6])}")
    for name in was.keys() - now.keys():
        yield Risk("medium", "account", PASSWD, f"removed: {printable(name)}")


def _group(was: dict[str, list[str]], now: dict[str, list[str]]) -> Iterator[Risk]:
    for name, row in now.items():
        old = was.get(name)
        if old and old[2] != row[2]:
            moved = f"from {printable(old[2])} to {printable(row[2])}"
            yield Risk("medium", "account", GROUP, f"the gid of {printable(name)} moved {moved}")
        joined = sorted(set(filter(None, row[3].split(","))) - set(old[3].split(",") if old else ()))
        if joined:
            text = f"in the group {printable(name)} now: {printable(', '.join(joined))}"
            yield Risk("high" if name in POWERFUL else "low", "account", GROUP, text)


def _shadow(was: dict[str, list[str]], now: dict[str, list[str]]) -> Iterator[Risk]:
    """Never says a hash: what is found is shown and kept."""
    for name, row in now.items():
        old = was[name][1] if name in was else "*"
        if row[1] == old:
            continue
        if row[1] == "":
            yield Risk("high", "account", SHADOW, f"{printable(name)} needs no password")
        elif not row[1].startswith(("*", "!")):
            yield Risk("medium", "account", SHADOW, f"{printable(name)} has a new password")
