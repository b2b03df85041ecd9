"""Time travel: all entries as they were, from what is there now and the change log read backwards.

Each change is undone only on the very state it left, which the entry's change sequence number tells. So a
change that was logged and then lost with the server's power undoes nothing, one that happened while the
entries were read is not undone twice, and one that the log lacks is found.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as dt_time

import ldap3

from statelesskit.directory.changelog import (
    ADD,
    DELETE,
    RENAME,
    Change,
    changes,
    csn_at,
    reaches_back_to,
    time_of,
)
from statelesskit.directory.conf import NAMING
from statelesskit.directory.fleet import Directory
from statelesskit.directory.layout import moved, named_by, split_dn
from statelesskit.directory.mapping import Entry
from statelesskit.errors import NotFoundError, UsageError
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress

EVERYTHING = (ldap3.ALL_ATTRIBUTES, ldap3.ALL_OPERATIONAL_ATTRIBUTES)
# Operational attributes that the server makes up anew for each answer.
DERIVED = frozenset(
    {"entryDN", "subschemaSubentry", "hasSubordinates", "numSubordinates", "contextCSN", "auditContext"}
)
IN_FLIGHT = timedelta(minutes=1)  # a change gets its number before it is made; a large transaction long before
LOG_LAG_S = 0.1  # a change is made before it is logged
LOG_TRIES = 5
Values = dict[str, tuple[bytes, ...]]


@dataclass(slots=True)
class Held:
    """One entry of a state: where it stands and all its values but the derived ones."""

    dn: str
    values: Values

    @property
    def csn(self) -> str:
        return next(iter(self.values.get("entryCSN", ())), b"").decode("ascii", "replace")

    def as_entry(self) -> Entry:
        return Entry(self.dn, self.values)


@dataclass(slots=True)
class State:
    """All entries of the fleet at one moment, by ``entryUUID``.

    Attributes:
        gaps: what the change log does not explain; the state may differ from the truth there.
    """

    at: datetime
    entries: dict[str, Held]
    gaps: list[str] = field(default_factory=list)


def moment(text: str) -> datetime:
    """Return the time a person means: ISO 8601, UTC where nothing else is said; a date is its end, today is now.

    Raises:
        UsageError: it is no time.
    """
    now = datetime.now(UTC)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"{printable(text)!r} is no time", hint="write a date, or a time in UTC: 2026-11-23T07:30:00"
            ) from None
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    return now if day == now.date() else datetime.combine(day, dt_time.max, tzinfo=UTC)


def read_state(directory: Directory, progress: Progress = SILENT) -> State:
    """Return all entries of the fleet. They are read page by page: not of one moment if they change meanwhile."""
    at = datetime.now(UTC)
    progress.stage("reading the directory", unit="entries")
    found = directory.ldap.search(directory.layout.base, "objectClass=*", attributes=EVERYTHING)
    progress.advance(len(found))
    return State(at, {entry.text("entryUUID"): held(entry) for entry in found})


def held(entry: Entry) -> Held:
    return Held(entry.dn, {name: tuple(values) for name, values in entry.values.items() if name not in DERIVED})


def state_at(directory: Directory, at: datetime | None = None, progress: Progress = SILENT) -> State:
    """Return all entries as they were at a moment; without one, as they were when this was called.

    Raises:
        NotFoundError: the change log does not reach back so far, or there is none.
        UsageError: the moment is still to come.
    """
    now = datetime.now(UTC)
    at = at or now
    if at > now:
        raise UsageError(f"{at:%Y-%m-%dT%H:%M:%SZ} is still to come", hint="times are UTC, as 2026-11-23T07:30:00Z")
    check_reach(reaches_back_to(directory.ldap), at)
    state = read_state(directory, progress)
    progress.stage("reading the change log", unit="changes")
    made = _log_after(directory, state, at)
    progress.advance(len(made))
    return rewind(state, made, at)


def check_reach(reach: datetime, at: datetime) -> None:
    if at < reach:
        raise NotFoundError(
            f"the change log reaches back to {reach:%Y-%m-%dT%H:%M:%S.%fZ}, not to {at:%Y-%m-%dT%H:%M:%S.%fZ}",
            hint="ask for a later time, or look into a backup: statelesskit directory at TIME --backup FILE",
        )


def _log_after(directory: Directory, state: State, at: datetime) -> list[Change]:
    newest = max((one.csn for one in state.entries.values()), default="")
    for left in range(LOG_TRIES, 0, -1):
        made = changes(directory.ldap, min(at, state.at))
        if left == 1 or newest <= csn_at(min(at, state.at)) or (made and made[-1].csn >= newest):
            break
        time.sleep(LOG_LAG_S)
    return made


def rewind(state: State, made: Iterable[Change], at: datetime) -> State:
    """Undo, newest first, the changes that came after a moment; the state is used up.

    Args:
        made: all changes of the log after that moment, in the order they happened.
    """
    cut = csn_at(at)
    for change in reversed([one for one in made if one.csn > cut]):
        _undo(state, change)
    for one in state.entries.values():
        if one.csn > cut:
            state.gaps.append(
                f"{printable(one.dn)} was changed at {_when(one.csn)}, which the change log does not tell"
            )
    state.at = at
    return state


def _undo(state: State, change: Change) -> None:
    there, settled = state.entries.get(change.uuid), state.at - IN_FLIGHT
    if change.kind == DELETE:
        if there is None:
            state.entries[change.uuid] = Held(change.dn, dict(change.old))
        elif change.at < settled and not change.in_transaction:  # it was read after that, so it was not removed at all
            state.gaps.append(
                f"{printable(change.dn)} is logged as removed at {_when(change.csn)}, but was there later"
            )
        return
    if there is None or there.csn != change.csn:
        # Read before the change was made, or logged by a server that was stopped before it was.
        if change.at < settled and not change.in_transaction and (there is None or there.csn > change.csn):
            state.gaps.append(
                f"what became of {printable(change.dn)} after {_when(change.csn)} is not in the change log"
            )
        if there is None or there.csn < change.csn:
            return
    if change.kind == ADD:
        del state.entries[change.uuid]
        return
    touched = {name for name, _, _ in change.mods}
    if change.kind == RENAME:
        touched |= _undo_rename(state, there, change)
    for name in touched:
        if name in change.old:
            there.values[name] = change.old[name]
        else:
            there.values.pop(name, None)


def _undo_rename(state: State, there: Held, change: Change) -> set[str]:
    """Put an entry and all below it back where they stood; return the naming attributes whose old values are logged."""
    for one in state.entries.values():
        one.dn = moved(one.dn, change.new_dn, change.dn)
    old, new = named_by(split_dn(change.dn)[0]), named_by(change.new_rdn)
    for name, value in new:
        if name not in NAMING:  # its old values are not logged; that it had this one before is unlikely
            kept = tuple(one for one in there.values.get(name, ()) if one != value.encode())
            there.values[name] = kept
    for name, value in old:
        if name not in NAMING and not change.keeps_old_rdn:
            there.values[name] = (*there.values.get(name, ()), value.encode())
    return {name for name, _ in (*old, *new) if name in NAMING}


def _when(csn: str) -> str:
    return f"{time_of(csn):%Y-%m-%dT%H:%M:%SZ}"
