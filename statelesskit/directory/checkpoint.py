"""Where the directory keeps the last checkpoint of the records' log, for whoever holds the log against it later."""

from __future__ import annotations

from statelesskit.directory.changing import change
from statelesskit.directory.fleet import Directory
from statelesskit.directory.mapping import Attributes
from statelesskit.errors import ConflictError, ExistsError

CLASS, TEXT = "applicationProcess", "description"  # RFC 4519: every server knows them
_WHAT = "log of records"


def keep_checkpoint(directory: Directory, note: str) -> None:
    """Put a checkpoint in the place of the one that is there.

    Raises:
        ConflictError: somebody else is doing the same.
    """
    dn, wanted = directory.layout.checkpoint(), Attributes({TEXT: [note]})
    entry = directory.ldap.read(dn, CLASS)
    try:
        if entry is None:
            directory.ldap.add(dn, {"objectClass": [CLASS], **wanted}, "checkpoint", _WHAT)
            return
    except ExistsError:
        raise ConflictError("somebody else has just written the checkpoint", hint="do it again") from None
    if not change(directory.ldap, entry, wanted, [TEXT]):
        raise ConflictError("somebody else has just written the checkpoint", hint="do it again")


def kept_checkpoint(directory: Directory) -> str:
    """Return the checkpoint that is there, or ""; it is to be verified as any."""
    entry = directory.ldap.read(directory.layout.checkpoint(), CLASS)
    return (entry.text(TEXT) or "") if entry else ""
