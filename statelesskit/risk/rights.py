"""Files that give rights: set-id bits, capabilities, what everybody may write, device nodes."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from statelesskit.manifest import Entry
from statelesskit.risk.model import Pair, Risk, Step

CAPABILITY = b"security.capability"
SET_ID = stat.S_ISUID | stat.S_ISGID
SYSTEM = (b"bin/", b"boot/", b"etc/", b"lib", b"sbin/", b"usr/")  # lib64/ and its like too


def rights(step: Step) -> Iterator[Risk]:
    """Judge each path by itself."""
    for pair in step.pairs:
        if pair.after is not None:
            yield from _set_id(pair, pair.after)
            yield from _capabilities(pair, pair.after)
            yield from _writable(pair, pair.after)
            yield from _device(pair, pair.after)


def _set_id(pair: Pair, now: Entry) -> Iterator[Risk]:
    bits = _set_ids(now)
    if not bits:
        return
    who = " and ".join(
        f"{what} {number}"
        for bit, what, number in ((stat.S_ISUID, "user", now.uid), (stat.S_ISGID, "group", now.gid))
        if bits & bit
    )
    was = pair.before
    if was is None or bits & ~_set_ids(was) or (was.uid, was.gid) != (now.uid, now.gid):
        yield Risk("high", "setuid", pair.path, f"{pair.how}: whoever runs it acts as {who}")
    elif was.sha256 != now.sha256:
        yield Risk("medium", "setuid", pair.path, f"its content changed, and whoever runs it acts as {who}")


def _set_ids(entry: Entry) -> int:
    return entry.mode & SET_ID if entry.type == "file" else 0


def _capabilities(pair: Pair, now: Entry) -> Iterator[Risk]:
    given = dict(now.xattrs).get(CAPABILITY)
    if given is None:
        return
    if pair.before is None or dict(pair.before.xattrs).get(CAPABILITY) != given:
        yield Risk("high", "capability", pair.path, f"{pair.how}: it gives file capabilities ({given.hex()})")
    elif pair.before.sha256 != now.sha256:
        yield Risk("medium", "capability", pair.path, "its content changed, and it gives file capabilities")


def _writable(pair: Pair, now: Entry) -> Iterator[Risk]:
    if not _open_to_all(now) or (pair.before is not None and _open_to_all(pair.before)):
        return
    system = pair.path.startswith(SYSTEM)
    yield Risk("high" if system else "medium", "world-writable", pair.path, f"{pair.how}: everybody may write to it")


def _open_to_all(entry: Entry) -> bool:
    """Folders like /tmp, with the sticky bit, are as they should be."""
    if entry.type == "dir":
        return entry.mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
    return entry.type in ("file", "block") and bool(entry.mode & stat.S_IWOTH)


def _device(pair: Pair, now: Entry) -> Iterator[Risk]:
    if now.type in ("char", "block") and not pair.path.startswith(b"dev/") and pair.matters:
        yield Risk("medium", "device", pair.path, f"{pair.how}: a device node outside /dev")
