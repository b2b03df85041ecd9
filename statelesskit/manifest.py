"""The manifest: the full list of a snapshot's files with all their metadata. Pure data, no disk.

Format 1, written so that another reader can be made from this page:

* Lines of ASCII text, each one JSON object with sorted keys, no spaces and integers only, each
  ended by one newline. The SHA-256 of all these bytes is the snapshot's identity; at rest they
  are compressed with zstd (RFC 8878).
* The first line is the header: ``{"flags":[],"format":"statelesskit-manifest","version":1}``. A
  reader refuses a version or a flag it does not know.
* Every further line is an entry, in strictly rising order of the full path's bytes. A path has no
  slash at its beginning or end; the tree's top is the empty path and comes first. A folder's line
  stands before those of what is in it.
* Text that was bytes (paths, link targets, names of extended attributes) is decoded as UTF-8, each
  byte that is not UTF-8 becoming ``\\udc80`` to ``\\udcff`` (Python's surrogateescape, PEP 383).
* A key with a default stands there only for another value; a key without one always stands there. A
  key that is not listed here is refused, and so is a line that is not exactly what these rules write.

| key | in | meaning | default |
|---|---|---|---|
| ``path`` | all | each name in it 1 to 255 bytes, none ``.`` or ``..``; at most 64 KiB together | |
| ``type`` | all | ``file``, ``dir``, ``symlink``, ``char``, ``block``, ``fifo``, ``socket`` or ``link`` | |
| ``mode`` | all but link | permission bits, set-id and sticky bits (0o7777) | 0 |
| ``uid``, ``gid`` | all but link | numeric owner and group, up to 2^32 - 2 | 0 |
| ``mtime_ns`` | all but link | nanoseconds since 1970-01-01 UTC in 64 bits, negative before | 0 |
| ``xattrs`` | all but link | name to base64 of the value; ACLs, capabilities and labels are among them | {} |
| ``sha256``, ``size`` | file | of the content, holes as zeros; in hexadecimal, in bytes | |
| ``holes`` | file | ``[[offset, length], …]``: where it takes no space; rising, with data between them | [] |
| ``target`` | symlink | where it points | |
| ``major``, ``minor`` | char, block | the device | |
| ``link_to`` | link | the path that carries this file's metadata: the first, in order, of its hard links | |

No line is longer than 1 MiB. No path, target or attribute name holds a NUL.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from binascii import unhexlify
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from statelesskit.errors import FormatError
from statelesskit.names import printable

HEADER = b'{"flags":[],"format":"statelesskit-manifest","version":1}\n'
VERSION = 1
NAME_MAX = 255  # bytes in one name of a path, or of an attribute; Linux allows no more
PATH_MAX = 2**16  # bytes, 16 times what Linux takes at once; two of them fit in a line, however they are written
XATTR_MAX = 2**16  # bytes in one value; Linux allows no more
LINE_MAX = 2**20  # bytes; a path and its attributes need far less
ID_MAX = 2**32 - 2  # the next one means "unchanged" to the kernel
SIZE_MAX = 2**63 - 1  # bytes
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Most lines have neither attributes nor anything that JSON escapes. What fits this is in its one canonical form.
_PLAIN = re.compile(
    rb"""\{(?:"gid":([1-9]\d{0,9}),)?(?:"mode":([1-9]\d{0,3}),)?(?:"mtime_ns":(-?[1-9]\d{0,18}),)?"""
    rb""""path":"([ !#-\[\]-\x7f]*)","""
    rb'''(?:"sha256":"([0-9a-f]{64})","size":(0|[1-9]\d{0,18}),"type":"file"'''
    rb"""|"target":"([ !#-\[\]-\x7f]+)","type":"symlink"|"type":"dir")(?:,"uid":([1-9]\d{0,9}))?\}\n"""
)
# In text a quotation mark has a backslash before it, and no attribute's value is a number: this is a file's own.
_SHA256 = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_CONTENT = re.compile(rb'"sha256":"([0-9a-f]{64})","size":(\d+)')
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
TIME_MIN, TIME_MAX = -(2**63), 2**63 - 1  # nanoseconds: the years 1677 to 2262
_INTEGERS = {"mode": (0, 0o7777), "uid": (0, ID_MAX), "gid": (0, ID_MAX), "mtime_ns": (TIME_MIN, TIME_MAX)}
_COMMON = frozenset({"path", "type", "xattrs", *_INTEGERS})
_KEYS = {
    "file": _COMMON | {"sha256", "size", "holes"},
    "dir": _COMMON,
    "symlink": _COMMON | {"target"},
    "char": _COMMON | {"major", "minor"},
    "block": _COMMON | {"major", "minor"},
    "fifo": _COMMON,
    "socket": _COMMON,
    "link": frozenset({"path", "type", "link_to"}),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a tree and all that the file system holds for it; see the module for the fields.

    ``xattrs`` are sorted by the bytes of their names, so that equal files have equal entries.
    """

    path: bytes
    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    sha256: str = ""
    size: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    target: bytes = b""
    major: int = 0
    minor: int = 0
    link_to: bytes = b""

    def encode(self) -> bytes:
        """Return the entry's line, newline included."""
        if self.type == "file" and not self.xattrs and not self.holes:  # as most are; a third of the time
            gid = f'"gid":{self.gid},' if self.gid else ""
            mode = f'"mode":{self.mode},' if self.mode else ""
            mtime = f'"mtime_ns":{self.mtime_ns},' if self.mtime_ns else ""
            uid = f',"uid":{self.uid}' if self.uid else ""
            path = _ENCODER.encode(_text(self.path))
            return (
                f'{{{gid}{mode}{mtime}"path":{path},"sha256":"{self.sha256}","size":{self.size},"type":"file"{uid}}}\n'
            ).encode("ascii")
        return _ENCODER.encode(self.fields()).encode("ascii") + b"\n"

    def fields(self) -> dict[str, Any]:
        """Return the keys and values the line holds."""
        found: dict[str, Any] = {"path": _text(self.path), "type": self.type}
        if self.type == "link":
            found["link_to"] = _text(self.link_to)
            return found
        for name in _INTEGERS:
            if value := getattr(self, name):
                found[name] = value
        if self.xattrs:
            found["xattrs"] = {_text(name): base64.b64encode(value).decode() for name, value in self.xattrs}
        if self.type == "file":
            found["sha256"], found["size"] = self.sha256, self.size
            if self.holes:
                found["holes"] = [list(hole) for hole in self.holes]
        elif self.type == "symlink":
            found["target"] = _text(self.target)
        elif self.type in ("char", "block"):
            found["major"], found["minor"] = self.major, self.minor
        return found


_FIELDS = tuple(sorted(item.name for item in fields(Entry)))
_values = attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between two manifests.

    Attributes:
        change: ``added``, ``removed`` or ``changed``.
        fields: the manifest's keys that differ, sorted; empty unless ``changed``.
    """

    path: bytes
    change: str
    fields: tuple[str, ...]
    before: Entry | None = field(compare=False)
    after: Entry | None = field(compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return what ``snapshot diff --json`` prints."""
        return {"path": _text(self.path), "change": self.change, "fields": list(self.fields)}


class Manifest:
    """The lines of one snapshot's manifest, checked as they are parsed.

    Attributes:
        lines: one for each entry, in order, newlines included, without the header.
    """

    __slots__ = ("_kept", "lines")

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self._kept: tuple[Entry, ...] | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Manifest:
        """Make a manifest from entries that are already in order."""
        return cls([entry.encode() for entry in entries])

    @property
    def digest(self) -> str:
        """``sha256:…`` of the whole text: the snapshot's identity."""
        total = hashlib.sha256(HEADER)
        for line in self.lines:
            total.update(line)
        return "sha256:" + total.hexdigest()

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """Read a manifest, trusting none of it.

        Raises:
            FormatError: it breaks any rule of the format, so that restoring it could write outside the
                tree, follow a link, or not give back what was taken. The message names the line.
        """
        manifest = cls.parse_header(text)
        for _ in manifest.entries():
            pass
        return manifest

    @classmethod
    def parse_header(cls, text: bytes) -> Manifest:
        """Read the header and split the lines; the entries are checked when they are iterated."""
        head, newline, body = text.partition(b"\n")
        check_header(head + newline)
        if body and not body.endswith(b"\n"):
            raise FormatError("the manifest's last line is cut off")
        return cls(body.splitlines(keepends=True))

    def find(self, path: bytes) -> Entry | None:
        """Return the entry of one path, parsing only lines that name it."""
        mark = json.dumps(_text(path)).encode("ascii")
        found = (decode(line) for line in self.lines if mark in line)
        return next((entry for entry in found if entry.path == path), None)

    def keep(self) -> None:
        """Check all entries now and keep them, for one who iterates them more than once; takes memory."""
        self._kept = tuple(self.entries())

    def entries(self) -> Iterator[Entry]:
        """Return the entries in order, each checked by itself and against those before it."""
        return self._checked() if self._kept is None else iter(self._kept)

    def _checked(self) -> Iterator[Entry]:
        folders: set[bytes] = set()
        linkable: set[bytes] = set()
        last: bytes | None = None
        for number, line in enumerate(self.lines, start=2):
            try:
                entry = decode(line)
                _check_place(entry, last, folders, linkable)
            except FormatError as error:
                raise FormatError(f"manifest line {number}: {error.message}") from error
            last = entry.path
            if entry.type == "dir":
                folders.add(entry.path)
            elif entry.type != "link":
                linkable.add(entry.path)
            yield entry
        if last is None:
            raise FormatError("the manifest has no entries, not even the tree's top")


def diff(before: Manifest, after: Manifest) -> list[Change]:
    """Return what differs, in path order. Lines that are equal are never parsed."""
    old = {entry.path: entry for entry in map(decode, set(before.lines) - set(after.lines))}
    new = {entry.path: entry for entry in map(decode, set(after.lines) - set(before.lines))}
    return [change_between(old.get(path), new.get(path)) for path in sorted(old.keys() | new.keys())]


def change_between(old: Entry | None, new: Entry | None) -> Change:
    """Return how two entries of one path differ; None is an entry that is not there."""
    if old is None or new is None:
        there = old or new
        assert there is not None
        return Change(there.path, "removed" if old else "added", (), old, new)
    if old.type == new.type:
        pairs = zip(_FIELDS, _values(old), _values(new), strict=True)
        return Change(old.path, "changed", tuple([name for name, was, now in pairs if was != now]), old, new)
    was, now = old.fields(), new.fields()
    names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    return Change(old.path, "changed", tuple(names), old, new)


def decode(line: bytes) -> Entry:
    """Read one entry's line by itself.

    Raises:
        FormatError: it is not exactly what :meth:`Entry.encode` writes for some possible file.
    """
    if len(line) > LINE_MAX:
        raise FormatError(f"it is {len(line)} bytes long, at most {LINE_MAX} are allowed")
    return _plain(line) or _any(line)


def _plain(line: bytes) -> Entry | None:
    """Read one of the lines that are by far the most; None if it is another, or says what can't be."""
    if (found := _PLAIN.fullmatch(line)) is None:
        return None
    gid, mode, mtime_ns, path, sha256, size, target, uid = found.groups()
    entry = Entry(
        path,
        "file" if sha256 else "symlink" if target else "dir",
        int(mode or 0),
        int(uid or 0),
        int(gid or 0),
        int(mtime_ns or 0),
        (),
        sha256.decode() if sha256 else "",
        int(size or 0),
        (),
        target or b"",
    )
    possible = entry.mode <= 0o7777 and entry.uid <= ID_MAX and entry.gid <= ID_MAX and entry.size <= SIZE_MAX
    return entry if possible and TIME_MIN <= entry.mtime_ns <= TIME_MAX else None


def digests_in(lines: bytes) -> list[bytes]:
    """Return, in hexadecimal, the digest of each file that some whole lines describe, without parsing them."""
    return _SHA256.findall(lines)


def contents_in(lines: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield digest and size of each file that some whole lines describe, without parsing them; they were checked."""
    for sha256, size in _CONTENT.findall(lines):
        yield unhexlify(sha256), int(size)


def _any(line: bytes) -> Entry:
    try:
        data = json.loads(line)
        entry = _entry(data)
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(f"it is no entry: {printable(error)}") from error
    if entry.encode() != line:
        raise FormatError(f"the entry of {printable(data['path'])} is not in its one canonical form")
    return entry


def _entry(data: dict[str, Any]) -> Entry:
    kind = data["type"]
    if kind not in _KEYS:
        raise FormatError(f"the type {printable(kind)!r} is unknown")
    if strange := data.keys() - _KEYS[kind]:
        raise FormatError(f"a {kind} has no {printable(sorted(strange))}")
    for name, (least, most) in _INTEGERS.items():
        _integer(data, name, least, most)
    values = dict(data)
    values["path"] = _bytes(data["path"])
    values["xattrs"] = tuple(sorted(_xattr(*pair) for pair in data.get("xattrs", {}).items()))
    if kind == "file":
        _integer(data, "size", 0, SIZE_MAX)
        if not _HEX.fullmatch(data["sha256"]):
            raise FormatError("sha256 is not 64 hexadecimal digits")
        values["holes"] = _holes(data.get("holes", []), data["size"])
    elif kind == "symlink":
        values["target"] = _bytes(data["target"])
        if not values["target"] or b"\0" in values["target"]:
            raise FormatError("a symlink's target is empty or holds a NUL")
    elif kind == "link":
        values["link_to"] = _bytes(data["link_to"])
    elif kind in ("char", "block"):
        _integer(data, "major", 0, 2**32 - 1)
        _integer(data, "minor", 0, 2**32 - 1)
    return Entry(**values)


def _integer(data: dict[str, Any], name: str, least: int, most: int) -> None:
    value = data.get(name, 0)
    if type(value) is not int or not least <= value <= most:
        raise FormatError(f"{name} is {printable(value)}, expected an integer from {least} to {most}")


def _xattr(name: str, value: str) -> tuple[bytes, bytes]:
    key, content = _bytes(name), base64.b64decode(value, validate=True)
    if not 0 < len(key) <= NAME_MAX or b"\0" in key or len(content) > XATTR_MAX:
        raise FormatError(f"the attribute {printable(name)!r} can't exist")
    return key, content


def _holes(holes: list[list[int]], size: int) -> tuple[tuple[int, int], ...]:
    end = -1
    for offset, length in holes:
        if type(offset) is not int or type(length) is not int or offset <= end or length < 1 or offset + length > size:
            raise FormatError("the holes overlap, are out of order or reach beyond the file")
        end = offset + length
    return tuple((offset, length) for offset, length in holes)


def _check_place(entry: Entry, last: bytes | None, folders: set[bytes], linkable: set[bytes]) -> None:
    """Check an entry against those before it: order, its folder, its hard link's target."""
    path = entry.path
    if last is None:
        if path or entry.type != "dir":
            raise FormatError("the first entry is not the tree's top folder")
        return
    if path <= last:
        raise FormatError(f"{_shown(path)} stands twice or out of order")
    if len(path) > PATH_MAX:
        raise FormatError(f"the path {_shown(path)} is {len(path)} bytes long, at most {PATH_MAX} are allowed")
    parent, _, name = path.rpartition(b"/")
    # The names of a folder that came before were looked at when it came.
    if (
        _impossible(name)
        or path.startswith(b"/")
        or (parent not in folders and any(map(_impossible, parent.split(b"/"))))
    ):
        raise FormatError(f"the path {_shown(path)} could leave the tree or can't exist")
    if parent not in folders:
        raise FormatError(f"{_shown(path)} lies below {_shown(parent)}, which is no folder")
    if entry.type == "link" and entry.link_to not in linkable:
        raise FormatError(f"{_shown(path)} is a hard link to {_shown(entry.link_to)}, which is no earlier file")


def _impossible(name: bytes) -> bool:
    return name in (b"", b".", b"..") or b"\0" in name or len(name) > NAME_MAX


def check_header(line: bytes) -> None:
    """Check a manifest's first line, newline included.

    Raises:
        FormatError: it is another file's, or of a version or with flags that are not known here.
    """
    if line == HEADER:
        return
    try:
        header = json.loads(line)
        version, flags = header["version"], header["flags"]
        ours = header["format"] == "statelesskit-manifest"
    except (ValueError, TypeError, KeyError, RecursionError):
        ours = False
    if not ours:
        raise FormatError("this is no manifest: its first line is not a statelesskit-manifest header")
    raise FormatError(
        f"the manifest has version {printable(version)}, flags {printable(flags)}; this tool knows version {VERSION}",
        hint="use a newer statelesskit",
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FormatError("text with a lone surrogate that stands for no byte") from error


def _shown(path: bytes) -> str:
    return printable(_text(path)) or "the top"
