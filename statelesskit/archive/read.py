"""Read a tar archive, trusting none of it: one member after the other, in bounded memory.

Read are ustar, pax, GNU tar's own format and V7, with the holes of all four ways GNU tar writes them. What a
header says of sizes is held against what is there. Names are not looked at here: nothing is written to a disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from statelesskit.archive import acl, pax
from statelesskit.archive.pax import BLOCK, SECOND
from statelesskit.archive.sparse import Ranges, expand, map_1_0, old_gnu, pairs, ranges_of
from statelesskit.archive.stream import Stream
from statelesskit.errors import FormatError
from statelesskit.manifest import TIME_MAX, TIME_MIN
from statelesskit.names import printable

HEADER_MAX = 2 * 1024 * 1024  # bytes of one extended header: the longest line of a manifest needs less
HEADERS_MAX = 16  # extended headers in a row, for one member
KINDS = {kind: name for name, kind in pax.TYPES.items()} | {b"\0": "file", b"7": "file", b"D": "dir", b"S": "file"}
_SELINUX = b"RHT.security.selinux"
_LIBARCHIVE = b"LIBARCHIVE.xattr."


@dataclass(slots=True)
class Member:
    """One member as its headers describe it.

    Attributes:
        name: as it stands in the archive.
        type, size, fields: of its entry; the fields are all others but path and digest, which is for the
            reader of :attr:`content` to find.
        link: what a hard link names, as it stands in the archive.
        content: a file's content, holes as zeros; valid until the next member is asked for.
        findings: what was there and could not be kept.
    """

    name: bytes
    type: str
    link: bytes
    fields: dict[str, Any]
    size: int = 0
    content: Iterator[bytes] = field(default_factory=lambda: iter(()))
    findings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Extended:
    """The extended headers in force: the global ones, and those for the next member."""

    everywhere: dict[bytes, bytes] = field(default_factory=dict)
    here: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: bytes = b""
    link: bytes = b""
    count: int = 0


class TarReader:
    """Iterates over an archive's members.

    Attributes:
        comment: of the global header, if there is one.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.comment = b""
        self._left = 0  # of the current member, with its padding

    def __iter__(self) -> Iterator[Member]:
        extended = _Extended()
        while block := self._block():
            kind, size = block[156:157], pax.number(block[124:136], "size")
            if size < 0:
                raise FormatError("a member's size is negative")
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                self._extend(extended, kind, size)
            elif kind in (b"V", b"A"):  # a name for the whole archive; Solaris' lists, which Linux can't hold
                self._stream.skip(size + pax.padding(size))
            else:
                yield self._member(block, kind, size, extended)
                self._stream.skip(self._left)
                extended = _Extended(extended.everywhere)
        if extended.count:
            raise FormatError("the archive ends with an extended header for nothing")

    def _block(self) -> bytes:
        """Return the next header, checked; nothing at the end, when all that follows are zeros."""
        block = self._stream.read_some(BLOCK)
        if block:
            block += self._stream.read(BLOCK - len(block))
        if not block:
            raise FormatError("the archive is cut off: its end is missing", hint="copy it again")
        if block.strip(b"\0"):
            _check_sum(block)
            return block
        while more := self._stream.read_some(BLOCK * BLOCK):
            if more.strip(b"\0"):
                raise FormatError(
                    "something follows after the archive's end", hint="are these several archives in a row? part them"
                )
        return b""

    def _extend(self, extended: _Extended, kind: bytes, size: int) -> None:
        extended.count += 1
        if size > HEADER_MAX or extended.count > HEADERS_MAX:
            raise FormatError(f"the extended headers of one member are larger than {HEADER_MAX} bytes, or too many")
        data = self._stream.read(size)
        self._stream.skip(pax.padding(size))
        if kind == b"L":
            extended.name = data.rstrip(b"\0")
        elif kind == b"K":
            extended.link = data.rstrip(b"\0")
        elif kind == b"g":
            extended.count -= 1  # it stands for all members; there may be many
            extended.everywhere |= dict(pax.records(data))
            if sum(map(len, extended.everywhere.values())) > HEADER_MAX:
                raise FormatError(f"the global headers are larger than {HEADER_MAX} bytes")
            self.comment = self.comment or extended.everywhere.get(b"comment", b"")
        else:
            extended.here = pax.records(data)

    def _member(self, block: bytes, kind: bytes, size: int, extended: _Extended) -> Member:
        if kind not in KINDS:
            raise FormatError(f"a member has the type {printable(repr(kind)[1:])}, which is not known")
        keys = extended.everywhere | dict(extended.here)
        name, link = _names(block)
        name = keys.get(b"path") or extended.name or name
        link = keys.get(b"linkpath") or extended.link or link
        if keys.get(b"size"):
            size = _decimal(keys, b"size", 0)
        what = KINDS[kind]
        if what == "file" and name.endswith(b"/"):  # V7 had no other way to say it
            what = "dir"
        if what != "file" and kind != b"D":
            size = 0  # some writers tell the size of what a link leads to; nothing follows
        self._left = size + pax.padding(size)
        name = keys.get(b"GNU.sparse.name") or name
        member = Member(name, what, link if what == "link" else b"", _fields(block, keys, what))
        if what == "file" and kind != b"D":
            self._file(member, block, kind, size, keys, extended.here)
        elif what == "symlink":
            member.fields["target"] = link
        _xattrs(member, keys)
        if not TIME_MIN <= (when := member.fields["mtime_ns"]) <= TIME_MAX:
            member.fields["mtime_ns"] = min(max(when, TIME_MIN), TIME_MAX)
            member.findings.append("its time is outside the years 1677 to 2262; the nearest of them is kept")
        return member

    def _file(
        self,
        member: Member,
        block: bytes,
        kind: bytes,
        size: int,
        keys: dict[bytes, bytes],
        listed: list[tuple[bytes, bytes]],
    ) -> None:
        if keys.get(pax.FILETYPE) == b"socket" and size == 0:
            member.type = "socket"
            return
        ranges: Ranges | None = None
        real = size
        if kind == b"S":
            real, ranges = pax.number(block[483:495], "size"), old_gnu(block, self._stream)
        elif keys.get(b"GNU.sparse.major") == b"1":
            real = _decimal(keys, b"GNU.sparse.realsize", size)
            ranges, used = map_1_0(self._stream, size)
            self._left -= used
            size -= used
        elif b"GNU.sparse.map" in keys or b"GNU.sparse.numblocks" in keys:
            real = _decimal(keys, b"GNU.sparse.size", size)
            ranges = pairs(keys.get(b"GNU.sparse.map"), listed)
        if ranges is not None:
            ranges, holes = ranges_of(ranges, real, size)
            content = expand(self._counted(size), ranges, real)
        else:
            holes = _holes(keys, size)
            content = self._counted(size)
        member.size, member.content = real, content
        if holes:
            member.fields["holes"] = holes

    def _counted(self, size: int) -> Iterator[bytes]:
        for piece in self._stream.pieces(size):
            self._left -= len(piece)
            yield piece


def _names(block: bytes) -> tuple[bytes, bytes]:
    name, link = block[:100].split(b"\0", 1)[0], block[157:257].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0]
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return name, link


def _fields(block: bytes, keys: dict[bytes, bytes], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mode": pax.number(block[100:108], "mode") & 0o7777,
        "uid": _decimal(keys, b"uid", pax.number(block[108:116], "uid")),
        "gid": _decimal(keys, b"gid", pax.number(block[116:124], "gid")),
    }
    if keys.get(b"mtime"):
        found["mtime_ns"] = pax.time_ns(keys[b"mtime"])
    else:
        found["mtime_ns"] = pax.number(block[136:148], "mtime") * SECOND
    if what in ("char", "block"):
        found["major"] = _decimal(keys, pax.MAJOR, pax.number(block[329:337], "devmajor"))
        found["minor"] = _decimal(keys, pax.MINOR, pax.number(block[337:345], "devminor"))
    return found


def _xattrs(member: Member, keys: dict[bytes, bytes]) -> None:
    found: dict[bytes, bytes] = {}
    for key, value in keys.items():
        if key.startswith(_LIBARCHIVE):
            found.setdefault(*_libarchive_xattr(key, value))
        elif key.startswith(pax.XATTR):
            found[pax.xattr_name(key)] = value
    if (label := keys.get(_SELINUX)) and b"security.selinux" not in found:
        found[b"security.selinux"] = label + b"\0"
    for kind in (b"access", b"default"):
        text, name = keys.get(pax.ACL + kind), pax.ACL_XATTR + kind
        if not text or name in found:
            continue
        if (listed := acl.from_text(text)) is not None:
            found[name] = listed
        else:
            member.findings.append(f"its {kind.decode()} list can't be read, or names people without their numbers")
    if found:
        member.fields["xattrs"] = tuple(sorted(found.items()))


def _libarchive_xattr(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    import base64
    from urllib.parse import unquote_to_bytes

    try:
        return unquote_to_bytes(key.removeprefix(_LIBARCHIVE)), base64.b64decode(value + b"=" * (-len(value) % 4))
    except ValueError as error:
        raise FormatError("an extended attribute is no base64") from error


def _holes(keys: dict[bytes, bytes], size: int) -> tuple[tuple[int, int], ...]:
    holes = []
    end = -1
    for hole in keys.get(pax.HOLES, b"").split(b","):
        if not hole:
            continue
        found = re.fullmatch(rb"([0-9]{1,19})\+([0-9]{1,19})", hole)
        if not found or int(found[1]) <= end or not int(found[2]) or int(found[1]) + int(found[2]) > size:
            raise FormatError("the holes are no rising ranges in the file")
        end = int(found[1]) + int(found[2])
        holes.append((int(found[1]), int(found[2])))
    return tuple(holes)


def _decimal(keys: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = keys.get(key)
    if not text:
        return default
    if not re.fullmatch(rb"[0-9]{1,19}", text):
        raise FormatError(f"{printable(key.decode('ascii'))} is no number")
    return int(text)


def _check_sum(block: bytes) -> None:
    wanted = pax.number(block[148:156], "a header's checksum")
    found = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if found != wanted and found - 256 * sum(byte > 127 for byte in block[:148] + block[156:]) != wanted:
        # the second is how some old writers added it up: with signed bytes
        raise FormatError("it is no tar archive, or a header is damaged: its checksum is wrong")
