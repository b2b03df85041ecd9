"""Enter every record that has ended into the log, also those whose own writer did not come to it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from statelesskit.audit import events, files, keys, log, statement
from statelesskit.audit.listing import record_folders, state_of
from statelesskit.audit.records import EVENTS, Record
from statelesskit.audit.statement import MAX_STATEMENT, STATEMENT
from statelesskit.errors import AuditError, NotFoundError


def enter_ended(records_dir: Path, key: Path) -> list[str]:
    """Complete the log: end the runs that vanished, seal what is not sealed, enter what is missing; return that.

    Only this user's records of this host are touched; what lies there from somebody else is for `audit verify`.

    Raises:
        AuditError, LockedError, NoSpaceError: as :func:`log.held` and :meth:`log.Writer.add`.
    """
    with log.held(records_dir, key) as writer:
        known = {entry.record for entry in writer.entries}
        missing = [path for path in record_folders(records_dir) if path.name not in known]
        former = {keys.fingerprint(one.old) for one in writer.handovers}
        found = {path.name: digest for path in missing for digest in _digest(path, key, former)}
        writer.add(found)
    return [*found]


def _digest(path: Path, key: Path, former: Collection[str]) -> Iterator[str]:
    """Yield the digest of a record's statement, made if the record has ended without one.

    One that was sealed with a former key, by a run that ended while that handed over, is sealed again.
    """
    if not log.RECORD_NAME.fullmatch(path.name) or path.is_symlink() or path.stat().st_uid != os.geteuid():
        return
    try:
        if not (path / STATEMENT).exists() and not _complete(path, key):
            return
        if former and statement.keyid(files.read_small(path / STATEMENT, MAX_STATEMENT)) in former:
            Record.join(path).seal(key, again=True)
        yield files.sha256_file(path / STATEMENT)
    except (AuditError, NotFoundError):  # damaged before it got here: nothing we would vouch for
        return


def _complete(path: Path, key: Path) -> bool:
    state = state_of(path)
    if state == "lost":
        begin, _ = events.first_and_last(path / EVENTS)
        if not begin or begin.facts.get("host") != os.uname().nodename:
            return False
        Record.join(path).finish("lost", 1, key=key, error="the run vanished; it was found when another ended")
    elif state in ("running", "unreadable"):
        return False
    else:
        Record.join(path).seal(key)
    return True
