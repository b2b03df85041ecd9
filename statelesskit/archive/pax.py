"""What writing and reading a tar archive share: the blocks, the pax records, and which keyword means what.

The format is the pax interchange format of POSIX.1-2001 (pax(1), "pax Interchange Format"): a ustar block for
each member and, before it, an extended header for what ustar can't hold. Beyond POSIX these keywords are used,
all of them others' inventions, so that others understand them:

| keyword | meaning |
|---|---|
| ``SCHILY.xattr.NAME`` | an extended attribute as it is; in the name ``%25`` stands for ``%``, ``%3D`` for ``=`` |
| ``SCHILY.acl.access``, ``.default`` | an access control list once more, as text: what ``tar --acls`` reads |
| ``SCHILY.devmajor``, ``.devminor`` | a device number too large for ustar |
| ``SCHILY.filetype`` | ``socket``: tar has no type for it, so to all but star it is an empty file |
| ``GNU.sparse.*`` 1.0 | a file with holes; its content begins with the map |
| ``hdrcharset=BINARY`` | POSIX: the header's names are not UTF-8; GNU tar ignores it and is right |
| ``STATELESSKIT.holes`` | ``OFFSET+LENGTH,…`` in a file that is there with all its zeros; known to us alone |
"""

from __future__ import annotations

import re

from statelesskit.errors import FormatError

BLOCK = 512
NAME_SIZE = 100  # bytes of a name or link target in a ustar block
OCTAL_7, OCTAL_11 = 8**7 - 1, 8**11 - 1  # the most that a ustar block's fields hold
TYPES = {"file": b"0", "link": b"1", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5", "fifo": b"6"}
XATTR, ACL = b"SCHILY.xattr.", b"SCHILY.acl."
ACL_XATTR = b"system.posix_acl_"
FILETYPE, MAJOR, MINOR = b"SCHILY.filetype", b"SCHILY.devmajor", b"SCHILY.devminor"
HOLES = b"STATELESSKIT.holes"
COMMENT = b"statelesskit sha256:"  # begins the comment in the global header of an archive that we wrote
SECOND = 1_000_000_000
_RECORD = re.compile(rb"([1-9][0-9]{0,9}) ")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")


def padding(size: int) -> int:
    """Return how many bytes fill the last block."""
    return -size % BLOCK


def record(key: bytes, value: bytes) -> bytes:
    """Return one record of an extended header; its length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split an extended header.

    Raises:
        FormatError: it is not a row of records.
    """
    found, place = [], 0
    while place < len(data):
        head = _RECORD.match(data, place)
        end = place + int(head[1]) if head else 0
        if not head or end > len(data) or data[end - 1 : end] != b"\n":
            if not data[place:].strip(b"\0"):  # some pad it with zeros and count them
                break
            raise FormatError("an extended header is not a row of records")
        key, equals, value = data[head.end() : end - 1].partition(b"=")
        if not equals or not key:
            raise FormatError("an extended header has a record that is not KEYWORD=VALUE")
        found.append((key, value))
        place = end
    return found


def time_text(ns: int) -> bytes:
    """Return a time as the decimal number of seconds, as short as it is exact."""
    seconds, fraction = divmod(abs(ns), SECOND)
    text = b"%d.%09d" % (seconds, fraction)
    return (b"-" if ns < 0 else b"") + text.rstrip(b"0").rstrip(b".")


def time_ns(text: bytes) -> int:
    """Read what :func:`time_text` writes, cutting what is finer than nanoseconds.

    Raises:
        FormatError: it is no decimal number.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise FormatError("a time is no decimal number")
    ns = int(found[2]) * SECOND + int((found[3] or b"")[:9].ljust(9, b"0"))
    return -ns if found[1] else ns


def xattr_keyword(name: bytes) -> bytes:
    return XATTR + name.replace(b"%", b"%25").replace(b"=", b"%3D")


def xattr_name(keyword: bytes) -> bytes:
    return keyword.removeprefix(XATTR).replace(b"%3D", b"=").replace(b"%25", b"%")


def number(text: bytes, what: str) -> int:
    """Read a field of a block: octal, or base 256 when its first bit is set, as GNU tar writes it."""
    if text[0] & 0x80:
        number = int.from_bytes(bytes([text[0] & 0x3F if text[0] & 0x40 == 0 else text[0]]) + text[1:], "big")
        return number - (1 << 8 * len(text)) if text[0] & 0x40 else number
    digits = text.split(b"\0", 1)[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise FormatError(f"{what} is no octal number")
    return int(digits or b"0", 8)
