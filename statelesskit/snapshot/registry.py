"""The list of snapshots: what is said about each, in ``snapshots/NAME/snapshot.json``.

The folder appears when all in it is whole and every object its manifest needs is on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from statelesskit.config import Site
from statelesskit.errors import DamagedError, FormatError, NameInvalidError, NotFoundError, RefusedError, UsageError
from statelesskit.lock import held
from statelesskit.names import printable, prototype_of
from statelesskit.snapshot import description
from statelesskit.snapshot.description import ABOUT

FORMAT = 1
HINT = "`statelesskit snapshot verify --repair-from SITE` brings it back from a site that has the same snapshot"
# A state may only move forward: what was released is never quietly "staged" again.
STATES = ("staged", "tested", "released", "deprecated", "revoked")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable point in time of a prototype.

    Attributes:
        sequence: its place in the order of the prototype's snapshots; the clock is never asked.
        digest: ``sha256:…`` of the manifest, the snapshot's identity.
        files, bytes: how many regular files, and the sum of their lengths.
        state, note: what people say of it; the only things that change.
    """

    name: str
    prototype: str
    sequence: int
    taken_at: datetime
    taken_by: str
    parent: str
    digest: str
    entries: int
    files: int
    bytes: int
    state: str = "staged"
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"taken_at": self.taken_at.isoformat()}


# What each field is in snapshot.json.
_KINDS = {item.name: int if item.type == "int" else str for item in fields(Snapshot)}


def list_snapshots(site: Site, prototype: str | None = None) -> list[Snapshot]:
    """Return the site's snapshots, or a prototype's, in their stored order.

    Raises:
        DamagedError: what is said about one of them cannot be read; the message names all those.
    """
    found, damaged = look_at_snapshots(site, prototype)
    if damaged:
        raise all_of(damaged)
    return found


def all_of(damaged: Mapping[str, DamagedError]) -> DamagedError:
    """Return one error that tells of several."""
    return DamagedError("\n".join(error.message for error in damaged.values()), hint=HINT)


def look_at_snapshots(site: Site, prototype: str | None = None) -> tuple[list[Snapshot], dict[str, DamagedError]]:
    """Return those snapshots of which can be read what is said, in their order, and what is wrong with the others."""
    found, damaged = [], {}
    for path in sorted(site.snapshots.iterdir()):
        if (owner := _owner(path.name)) and prototype in (None, owner):
            try:
                found.append(_load(path))
            except DamagedError as error:
                damaged[path.name] = error
    return sorted(found, key=lambda snapshot: (snapshot.prototype, snapshot.sequence)), damaged


def _owner(name: str) -> str:
    """Return the prototype whose snapshot has this name, or "" if it is none's."""
    try:
        return prototype_of(name)
    except NameInvalidError:
        return ""


def load(site: Site, name: str) -> Snapshot:
    """Return one snapshot.

    Raises:
        NameInvalidError: that is no snapshot's name.
        NotFoundError: there is none of that name.
    """
    prototype_of(name)
    path = site.snapshots / name
    if not path.is_dir():
        near = get_close_matches(name, [other.name for other in site.snapshots.iterdir() if _owner(other.name)], n=1)
        raise NotFoundError(
            f"there is no snapshot {name}",
            hint=f"did you mean {near[0]}?" if near else "statelesskit snapshot list shows all",
        )
    return _load(path)


def _load(path: Path) -> Snapshot:
    try:
        data = json.loads((path / ABOUT).read_bytes())
        if data.pop("format") != FORMAT:
            raise FormatError(f"{path / ABOUT} is of a format this tool does not know", hint="use a newer statelesskit")
        snapshot = snapshot_of(data)
        if snapshot.name != path.name:
            raise ValueError(f"it is about {snapshot.name}")
        return snapshot
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"{path / ABOUT} cannot be read: {type(error).__name__} {printable(error)}",
            hint=HINT,
        ) from error


def snapshot_of(data: dict[str, Any]) -> Snapshot:
    """Make a snapshot of what ``snapshot.json`` holds; raises ValueError, KeyError or TypeError for what is none."""
    known = {name: _of_type(data[name], kind) for name, kind in _KINDS.items()}
    return Snapshot(**known | {"taken_at": datetime.fromisoformat(known["taken_at"])})


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} where a {kind.__name__} is expected")
    return value


def check_state(snapshot: Snapshot, state: str) -> None:
    """Say whether a snapshot may move to a state.

    Raises:
        UsageError: there is no such state.
        RefusedError: that would be a step back.
    """
    if state not in STATES:
        raise UsageError(f"there is no state {state!r}", hint="the states are, in order: " + ", ".join(STATES))
    if STATES.index(state) < STATES.index(snapshot.state):
        raise RefusedError(
            f"{snapshot.name} is {snapshot.state}; it can't become {state} again",
            hint="take a new snapshot of the prototype instead",
        )


def set_state(site: Site, name: str, state: str) -> tuple[Snapshot, Snapshot]:
    """Move a snapshot to a later state; return it as it was and as it is. Raises as :func:`check_state`."""
    with held(site.lock_file("snapshots"), what="the list of snapshots", doing=f"making {name} {state}", wait_s=30):
        before = load(site, name)
        check_state(before, state)
        description.change(site.snapshots / name, state=state)
    return before, replace(before, state=state)


def set_note(site: Site, name: str, note: str) -> tuple[Snapshot, Snapshot]:
    """Say something else of a snapshot; return it as it was and as it is."""
    with held(site.lock_file("snapshots"), what="the list of snapshots", doing=f"noting {name}", wait_s=30):
        before = load(site, name)
        description.change(site.snapshots / name, note=note)
    return before, replace(before, note=note)
