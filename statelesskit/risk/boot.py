"""What starts: kernels, enabled units, and sockets that listen."""

from __future__ import annotations

import re
from collections.abc import Iterator

from statelesskit.contents import Contents
from statelesskit.names import printable
from statelesskit.release import kernels as kernels_of
from statelesskit.risk.model import TEXT_MAX, Pair, Risk, Step

_UNITS = rb"(?:etc|usr/lib|usr/local/lib|lib)/systemd/(?P<who>system|user)/"
_ENABLED = re.compile(_UNITS + rb"(?P<by>[^/]+)\.(?:wants|requires|upholds)/(?P<unit>[^/]+)", re.S)
_MASK = re.compile(_UNITS + rb"(?P<unit>[^/]+\.[a-z]+)", re.S)
_SOCKET = re.compile(_UNITS + rb"(?P<unit>[^/]+\.socket)(?:\.d/[^/]+\.conf)?", re.S)
_LISTEN = re.compile(rb"^[ \t]*Listen(?:Stream|Datagram|SequentialPacket)[ \t]*=[ \t]*(\S+)", re.M)
_IMAGE = re.compile(rb"boot/(?P<what>vmlinu[xz]|initr(?:d|amfs))[^/]*", re.S)
_FOLDERS = (b"etc/systemd/system", b"usr/lib/systemd/system", b"lib/systemd/system", b"usr/local/lib/systemd/system")


def kernels(step: Step) -> Iterator[Risk]:
    """Judge what the machines would boot, by kernel version, and images that changed under one name."""
    was, now = ({one.version: one for one in kernels_of(tree)} for tree in (step.before, step.after))
    for version in sorted(now.keys() - was.keys()):
        yield Risk("medium", "kernel", now[version].path, f"new: the kernel {printable(version)}")
    for version in sorted(was.keys() - now.keys()):
        yield Risk("medium", "kernel", was[version].path, f"removed: the kernel {printable(version)}")
    if was and not now:
        yield Risk("high", "kernel", b"boot", "there is no kernel left: machines cannot start from it")
    for pair in step.pairs:
        image = _IMAGE.fullmatch(pair.path)
        if image and pair.how == "changed" and pair.matters:
            initrd = image["what"].startswith(b"initr")
            yield Risk("low" if initrd else "medium", "initrd" if initrd else "kernel", pair.path, "changed")


def units(step: Step) -> Iterator[Risk]:
    """Judge units that now start, or no longer do, and the addresses that sockets open."""
    for pair in step.pairs:
        if match := _ENABLED.fullmatch(pair.path):
            yield from _enabled(pair, match, step)
        elif match := _SOCKET.fullmatch(pair.path):
            yield from _listening(pair, match["unit"], step)
        elif (match := _MASK.fullmatch(pair.path)) and _masked(pair):
            yield Risk("medium", "unit", pair.path, f"{_shown(match['unit'])} is no longer masked")


def _enabled(pair: Pair, match: re.Match[bytes], step: Step) -> Iterator[Risk]:
    unit = _shown(match["unit"])
    if pair.after is None:
        yield Risk("low", "unit", pair.path, f"{unit} is no longer started by {_shown(match['by'])}")
        return
    if pair.before is not None:
        return
    yield Risk("medium", "unit", pair.path, f"new: {unit} is started by {_shown(match['by'])}")
    for folder in _FOLDERS if unit.endswith(".socket") else ():
        # One that was there before is not among the sockets that changed.
        path = folder + b"/" + match["unit"]
        if step.before.resolve(path) and (opened := [one for one in _addresses(step.after, path) if _remote(one)]):
            yield Risk("high", "listens", path, f"now started: it listens on {_shown(b', '.join(opened))}")
            return


def _listening(pair: Pair, unit: bytes, step: Step) -> Iterator[Risk]:
    was, now = _addresses(step.before, pair.path), _addresses(step.after, pair.path)
    enabled = any(
        step.after.find(b"%b/%b/%b" % (folder, by, unit))
        for folder in _FOLDERS
        for by in (b"sockets.target.wants", b"sockets.target.requires")
    )
    for address in (one for one in now if one not in was):
        severity = "low" if not _remote(address) else "high" if enabled else "medium"
        yield Risk(severity, "listens", pair.path, f"{pair.how}: it listens on {_shown(address)}")


def _addresses(tree: Contents, path: bytes) -> list[bytes]:
    return _LISTEN.findall(tree.read(path, TEXT_MAX) or b"")


def _remote(address: bytes) -> bool:
    """Whether it can be reached from another machine; the rest are paths and abstract names."""
    return not address.startswith((b"/", b"@", b"%", b"127.", b"[::1]"))


def _masked(pair: Pair) -> bool:
    was, now = (entry is not None and entry.target == b"/dev/null" for entry in (pair.before, pair.after))
    return was and not now


def _shown(text: bytes) -> str:
    return printable(text.decode("utf-8", "surrogateescape"))
