"""Give a snapshot its description back, when ``snapshot.json`` is damaged, from a site that has the same snapshot.

Most fields are the same on every site. Those that each site has for itself are taken from what is still legible
here, or there, or tried: the checksum that was written here tells when they are right. When nothing tells, the
snapshot is staged again, so that nobody is given what only a damaged file says is released.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.lock import held
from statelesskit.names import prototype_of
from statelesskit.snapshot import description
from statelesskit.snapshot.deleted import deletions
from statelesskit.snapshot.description import ABOUT, CHECKSUM, MANIFEST_FILE, checksum
from statelesskit.snapshot.manifest_file import check_manifest
from statelesskit.snapshot.registry import STATES, Snapshot, look_at_snapshots, snapshot_of
from statelesskit.snapshot.source import Source

OWN = {"sequence": int, "parent": str, "state": str, "note": str}  # what a site has for itself
BAD = ("deprecated", "revoked")


def damaged(site: Site) -> dict[str, str]:
    """Return the snapshots whose description cannot be read, or was altered, and what is wrong with each."""
    readable, unreadable = look_at_snapshots(site)
    found = {name: error.message for name, error in unreadable.items()}
    for snapshot in readable:
        path = site.snapshots / snapshot.name / ABOUT
        about = json.loads(path.read_bytes())
        if CHECKSUM not in about or description.altered(about):
            found[snapshot.name] = f"{path} was altered"
    return found


def redescribe(site: Site, name: str, source: Source) -> list[str] | None:
    """Write a damaged description anew.

    Returns:
        The fields of which nothing proves that they are as they were; None if the place does not have this very
        snapshot, and nothing was changed.
    """
    folder = site.snapshots / name
    if (theirs := source.about(name)) is None:
        return None
    with held(site.lock_file("snapshots"), what="the list of snapshots", doing=f"repairing {name}", wait_s=30):
        legible = _legible(folder / ABOUT)
        digest = snapshot_of(theirs).digest
        same = legible.get("digest") == digest
        with suppress(DamagedError):
            check_manifest(site, snapshot_of(theirs))
            same, theirs = True, theirs | {MANIFEST_FILE: description.manifest_file(folder)}
        own = {field: legible[field] for field, kind in OWN.items() if type(legible.get(field)) is kind}
        prototype = prototype_of(name)
        others = [one for one in look_at_snapshots(site, prototype)[0] if one.name != name]
        gone = [one for one in deletions(site) if one.prototype == prototype]
        taken = {0, *(one.sequence for one in others), *(one.sequence for one in gone)}
        names = [*(one.name for one in others), *(one.name for one in gone)]
        for about in _candidates(theirs, own, taken, names):
            if checksum(about) == legible.get(CHECKSUM):
                description.put(folder, about)
                return []
        if not same:
            return None
        description.put(folder, theirs | _careful(theirs, own, others, taken))
    return list(OWN)


def _legible(path: Path) -> dict[str, Any]:
    """Return those of the fields we look for that can still be read, whatever is between them."""
    found: dict[str, Any] = {}
    text = path.read_text("ascii", "replace") if path.exists() else ""
    for field in (*OWN, "digest", CHECKSUM):
        key = f'"{field}": '
        if (place := text.find(key)) >= 0:
            with suppress(ValueError, RecursionError):
                found[field], _ = json.JSONDecoder().raw_decode(text, place + len(key))
    return found


def _candidates(
    theirs: Mapping[str, Any], own: Mapping[str, Any], taken: set[int], names: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield what may have been written here: any number or any parent, but not both, as that would be too many."""
    near = {field: {own.get(field, theirs[field]), theirs[field]} for field in OWN}
    parents = near["parent"] | {""}
    numbers = {*range(1, max(taken) + 2)} | near["sequence"]
    for sequence, parent in itertools.chain(
        itertools.product(numbers - taken, parents), itertools.product(near["sequence"] - taken, names)
    ):
        for note, state in itertools.product(near["note"] | {""}, STATES):
            yield {**theirs, "sequence": sequence, "parent": parent, "note": note, "state": state}


def _careful(
    theirs: Mapping[str, Any], own: Mapping[str, Any], others: list[Snapshot], taken: set[int]
) -> dict[str, Any]:
    """Return the best guess: a place behind those that were taken earlier, and no state that is too good."""
    earlier = [one for one in others if one.taken_at <= snapshot_of(dict(theirs)).taken_at]
    sequence = own.get("sequence", 0)
    if sequence in taken or not 0 < sequence <= max(taken) + 1:
        behind = itertools.count(max((one.sequence for one in earlier), default=0) + 1)
        sequence = next(number for number in behind if number not in taken)
    bad = [state for state in BAD if state in (own.get("state"), theirs["state"])]
    return {
        "sequence": sequence,
        "parent": own.get("parent", earlier[-1].name if earlier else ""),
        "note": own.get("note", theirs["note"]),
        "state": bad[-1] if bad else STATES[0],
    }
