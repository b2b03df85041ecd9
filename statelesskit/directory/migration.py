"""Bring what an older statelesskit stored up to this one's schema version.

Every step looks for what is still to do, and does it one entry at a time, each by one operation that leaves
the entry good for both versions. The version is raised last, so whoever is cut off begins again where it
stopped, and until then the older tool may go on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import ldap3

from statelesskit.directory.fleet import Directory
from statelesskit.directory.layout import FOLDERS
from statelesskit.directory.pushes import note_push, pushes
from statelesskit.directory.schema import VERSION
from statelesskit.errors import ConflictError, ExistsError
from statelesskit.progress import Progress


@dataclass(frozen=True, slots=True)
class Step:
    """One thing a version does differently.

    Attributes:
        version: the version that began it.
        what: it, as the plan says it.
        pending: finds the DNs where it is still to be done.
        do: does it to one of them.
    """

    version: int
    what: str
    pending: Callable[[Directory], list[str]]
    do: Callable[[Directory, str], object]


def _missing_folders(directory: Directory) -> list[str]:
    wanted = [directory.layout.folder(name) for name in FOLDERS]
    return [dn for dn in wanted if directory.ldap.read(dn, "organizationalUnit") is None]


def _make_folder(directory: Directory, dn: str) -> None:
    with suppress(ExistsError):
        directory.ldap.add(dn, {"objectClass": ["organizationalUnit"]}, "folder", dn)


def _pinned_thick_clients(directory: Directory) -> list[str]:
    rule = "&(objectClass=skClient)(skClientMode=thick)(skSnapshotDN=*)"
    return [entry.dn for entry in directory.ldap.search(directory.layout.folder("clients"), rule, ldap3.LEVEL)]


def _make_reference(directory: Directory, dn: str) -> None:
    """What a thick client had as pin was never what it runs, but what it is compared with."""
    entry = directory.ldap.read(dn, "skClient")
    pin = entry.texts("skSnapshotDN") if entry else []
    if entry and pin:
        reference = entry.texts("skReferenceSnapshotDN") or pin
        directory.ldap.modify(
            dn,
            {
                "skSnapshotDN": [(ldap3.MODIFY_DELETE, pin)],
                "skReferenceSnapshotDN": [(ldap3.MODIFY_REPLACE, reference)],
            },
        )


def _channels_without_history(directory: Directory) -> list[str]:
    entered = {(push.channel, push.serial) for push in pushes(directory)}
    return [
        directory.layout.channel(one.name)
        for one in directory.channels()
        if one.moved_at and (one.name, one.serial) not in entered
    ]


def _enter_last_move(directory: Directory, dn: str) -> None:
    if entry := directory.ldap.read(dn, "skChannel"):
        note_push(directory, entry)


STEPS = (
    Step(2, "make the folders of roles and accounts", _missing_folders, _make_folder),
    Step(2, "call the pins of thick clients what they are: references", _pinned_thick_clients, _make_reference),
    Step(2, "begin the history of pushes with each channel's last move", _channels_without_history, _enter_last_move),
)


def steps_from(version: int) -> list[Step]:
    """Return what is to be done to a directory of that version, in order."""
    return [step for step in STEPS if step.version > version]


def migrate(directory: Directory, version: int, progress: Progress) -> int:
    """Do all steps, then raise the version; return how many entries were changed.

    Raises:
        ConflictError: others changed the same meanwhile; what was done is good, and the version is not raised.
    """
    changed = 0
    for step in steps_from(version):
        dns = step.pending(directory)
        progress.stage(step.what, total=len(dns), unit="entries")
        for dn in dns:
            step.do(directory, dn)
            changed += 1
            progress.advance()
    left = [step.what for step in steps_from(version) if step.pending(directory)]
    raised = {"skSchemaVersion": [(ldap3.MODIFY_DELETE, [str(version)]), (ldap3.MODIFY_ADD, [str(VERSION)])]}
    if left or not directory.ldap.modify(directory.layout.base, raised):
        raise ConflictError(
            f"the directory was changed meanwhile, and still is of version {version}",
            hint="see that nobody uses an older statelesskit any more, then again: statelesskit site migrate",
        )
    return changed
