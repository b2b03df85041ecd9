"""One entry that uses every attribute, so that no transaction is ever the first to use one.

slapd (2.5.13) numbers the attributes of a database as they are first used. It forgets to take that back when
a transaction is refused in the end, and whatever is written then can never be read again (measured:
``internal error in mdb_entry_decode``, also after a restart). The entry stays, so that a database that was
loaded anew is safe too. It is of no class of ours, so nothing takes it for a part of the fleet.
"""

from __future__ import annotations

from statelesskit.directory.mapping import Attributes
from statelesskit.directory.model import MODES, STATES
from statelesskit.directory.schema import ATTRIBUTES, Kind

NOTE = "Uses every attribute once, so that no transaction is the first to; see slapd's ad2id."
# Those that the server holds against a pattern, and those that are not ours.
GIVEN = {
    "skManifestDigest": f"sha256:{'0' * 64}",
    "skSnapshotState": STATES[0],
    "skClientMode": MODES[0],
    "macAddress": "00:00:00:00:00:00",
    "description": NOTE,
    "owner": "",
    "member": "",
}


def every_attribute(base: str) -> Attributes:
    """Return the attributes of the entry, whose pointers all lead to ``base``."""
    plain = {
        Kind.DN: base,
        Kind.TEXT: "none",
        Kind.ASCII: "none",
        Kind.WORD: "none",
        Kind.INTEGER: "0",
        Kind.TIME: "20000101000000Z",
        Kind.UUID: "00000000-0000-0000-0000-000000000000",
    }
    values = {attribute.name: plain[attribute.kind] for attribute in ATTRIBUTES} | GIVEN
    return {"objectClass": ["device", "extensibleObject"]} | {name: [text or base] for name, text in values.items()}
