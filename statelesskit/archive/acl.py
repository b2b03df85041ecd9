"""Access control lists between the two forms they have: the attribute the kernel keeps, and text.

The attribute is that of linux/posix_acl_xattr.h: version 2, then tag, permissions and id of each entry, all
little-endian. The text is the short form of acl(5), its entries parted by commas, ids as numbers.
"""

from __future__ import annotations

import re
import struct

VERSION = struct.Struct("<I")
ENTRY = struct.Struct("<HHI")
NOBODY = 0xFFFFFFFF
TAGS = {1: b"user:", 2: b"user", 4: b"group:", 8: b"group", 16: b"mask:", 32: b"other:"}
NAMED = (2, 8)
BITS = ((b"r", 4), (b"w", 2), (b"x", 1))
# star writes the id once more at the end, after a name.
_TEXT = re.compile(rb"(d?efault:)?(user|group|mask|other|[ugmo]):([^:]*):([-rwx]{3})(?::([0-9]{1,10}))?")


def to_text(value: bytes) -> bytes | None:
    """Return a list as text, or None if the attribute holds no list that has a text."""
    if len(value) < VERSION.size or VERSION.unpack_from(value) != (2,) or (len(value) - VERSION.size) % ENTRY.size:
        return None
    found = []
    for tag, permissions, owner in ENTRY.iter_unpack(value[VERSION.size :]):
        if tag not in TAGS or permissions > 7:
            return None
        who = b"%s:%d" % (TAGS[tag], owner) if tag in NAMED else TAGS[tag]
        found.append(
            who + b":" + b"".join(c if permissions & b else b"-" for c, b in ((b"r", 4), (b"w", 2), (b"x", 1)))
        )
    return b",".join(found) or None


def from_text(text: bytes) -> bytes | None:
    """Return the attribute of a list, or None if the text can't be read or tells somebody only by name."""
    found = []
    for line in re.split(rb"[,\n]", text):
        line = line.partition(b"#")[0].strip()
        if not line:
            continue
        match = _TEXT.fullmatch(line)
        if not match:
            return None
        kind, who, letters, number = match[2][:1], match[3], match[4], match[5]
        owner = NOBODY
        if who:
            digits = number or who
            if kind not in (b"u", b"g") or not digits.isdigit() or int(digits) >= NOBODY:
                return None
            owner = int(digits)
        tag = {b"u": 1, b"g": 4, b"m": 16, b"o": 32}[kind] * (2 if who else 1)
        permissions = sum(bit for letter, bit in BITS if letter in letters)
        found.append((tag, owner, permissions))
    # The kernel wants them by tag, and those of one tag by id.
    return VERSION.pack(2) + b"".join(ENTRY.pack(tag, bits, owner) for tag, owner, bits in sorted(found))
