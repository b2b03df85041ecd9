"""Backups: the fleet directory at one moment, and its change log, as one LDIF file that proves it is whole.

After the fleet's entries, which any LDAP server can load, comes the change log, so that a backup can tell of
the past too. The last line is the SHA-256 of all before it: a file that was cut or altered is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import ldap3

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.directory import ldif
from statelesskit.directory.changelog import Change, change_from, reaches_back_to, time_of
from statelesskit.directory.conf import CHANGELOG
from statelesskit.directory.fleet import Directory
from statelesskit.directory.mapping import Entry
from statelesskit.directory.past import EVERYTHING, State, check_reach, held, read_state, rewind, state_at
from statelesskit.errors import DamagedError, ExistsError, FormatError, NotFoundError
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress

FIRST_LINE = b"# statelesskit directory backup, format 1\n"
LOG_LINE = b"# The change log begins here; the entries above are the directory.\n"
DIGEST = b"# sha256: "


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read.

    Attributes:
        digest: ``sha256:…`` of it.
        reach: since when its change log tells everything; None if it has none.
    """

    path: Path
    digest: str
    base_dn: str
    state: State
    changes: Sequence[Change]
    reach: datetime | None

    def state_at(self, at: datetime) -> State:
        """Return the entries as they were at a moment before the backup; the backup is used up.

        Raises:
            NotFoundError: it does not reach so far back, or was made before that.
        """
        if at > self.state.at or self.reach is None:
            raise NotFoundError(
                f"{self.path} tells of {self.state.at:%Y-%m-%dT%H:%M:%S.%fZ}"
                + (" and before, not of later" if self.reach else " alone: the server kept no change log")
            )
        check_reach(self.reach, at)
        return rewind(self.state, self.changes, at)


def make_backup(site: Site, directory: Directory, target: Path, progress: Progress = SILENT) -> dict[str, object]:
    """Write a backup of the directory as it is when this is called, for its owner's eyes only.

    Returns:
        Its digest, and how much is in it.

    Raises:
        ExistsError: something is at ``target``.
        NoSpaceError: the disk is full; nothing is left there.
    """
    if target.exists() or target.is_symlink():
        raise ExistsError(f"{target} is there already", hint="choose another name; backups are never overwritten")
    try:
        reach: datetime | None = reaches_back_to(directory.ldap)
        state = state_at(directory, progress=progress)
    except NotFoundError:
        reach, state = None, read_state(directory, progress)
    log = [] if reach is None else directory.ldap.search(CHANGELOG, "objectClass=*", ldap3.SUBTREE, EVERYTHING)
    text = b"".join(_text(site, state, [entry for entry in log if _until(entry, state.at)]))
    digest = hashlib.sha256(text).hexdigest()
    progress.stage("writing the backup", unit="bytes")
    fs.write_file(target, text + DIGEST + digest.encode() + b"\n", mode=0o600)
    return {
        "backup": str(target),
        "digest": f"sha256:{digest}",
        "at": state.at.isoformat(),
        "entries": len(state.entries),
        "changes": sum(1 for entry in log if entry.text("reqType")),
        "gaps": state.gaps,
    }


def _until(entry: Entry, at: datetime) -> bool:
    return not entry.text("entryCSN") or time_of(entry.text("entryCSN")) <= at


def _text(site: Site, state: State, log: Sequence[Entry]) -> Iterator[bytes]:
    yield FIRST_LINE
    yield f"# site: {printable(site.name)}\n# at: {state.at.isoformat()}\n".encode()
    for one in sorted(state.entries.values(), key=lambda one: (one.dn.count(","), one.dn)):
        yield ldif.written(one.as_entry())
    yield LOG_LINE
    for entry in sorted(log, key=lambda entry: entry.text("entryCSN")):
        yield ldif.written(Entry(entry.dn, held(entry).values))


def read_backup(path: Path) -> Backup:
    """Read a backup, having seen that it is whole.

    Raises:
        NotFoundError: there is no such file.
        DamagedError: it was cut or altered.
        FormatError: it is no backup, or of a newer format.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"there is no file {path}", hint="statelesskit site backup FILE makes one") from None
    if not data.startswith(FIRST_LINE):
        raise FormatError(f"{path} is no backup of a directory that this statelesskit can read")
    text, mark, told = data.rpartition(DIGEST)
    digest = hashlib.sha256(text).hexdigest()
    if not mark or told != digest.encode() + b"\n":
        raise DamagedError(f"{path} was cut off or altered: it is not what its digest says", hint="use another backup")
    head, (fleet, _, log) = text[: 1 << 10], text.partition(LOG_LINE)
    try:
        at = datetime.fromisoformat(head.partition(b"\n# at: ")[2].partition(b"\n")[0].decode())
        entries = list(ldif.read(fleet))
        state = State(at.astimezone(UTC), {entry.text("entryUUID"): held(entry) for entry in entries})
        logged = list(ldif.read(log))
        made = sorted((change_from(entry) for entry in logged if entry.text("reqType")), key=lambda one: one.csn)
        reach = next((time_of(csn) for entry in logged if (csn := entry.text("minCSN"))), None)
    except ValueError as error:
        raise FormatError(f"{path} is no backup: {printable(error)}") from error
    if not entries or len(state.entries) != len(entries):
        raise FormatError(f"{path} is no backup: entries without an entryUUID of their own")
    return Backup(path, f"sha256:{digest}", entries[0].dn, state, made, reach)
