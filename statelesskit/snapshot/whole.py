"""Which snapshots are partial: something they need is missing or damaged, so nobody may be given them.

``snapshots/NAME/partial.json`` marks one: what was found, and when. A verification writes it, and takes it
away when it finds nothing; a repair ends with a verification.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.snapshot.manifest_file import objects_of
from statelesskit.snapshot.registry import Snapshot
from statelesskit.store import Store
from statelesskit.tree import Finding

PARTIAL = "partial.json"
SHOWN = 20  # findings kept in the mark; a verification says all


def mark_of(site: Site, name: str) -> Path:
    """Return where a snapshot's mark is, if it has one."""
    return site.snapshots / name / PARTIAL


def is_partial(site: Site, name: str) -> bool:
    """Say whether a verification found a snapshot partial, and no later one found it whole."""
    return mark_of(site, name).exists()


def mark(site: Site, name: str, findings: Sequence[Finding]) -> None:
    """Mark a snapshot partial for what was found, or take the mark away when that is nothing."""
    path = mark_of(site, name)
    if findings:
        shown = [finding.as_json() for finding in findings[:SHOWN]]
        fs.write_json(path, {"found_at": datetime.now(UTC).isoformat(), "count": len(findings), "findings": shown})
        return
    with suppress(FileNotFoundError):
        fs.unlink(path)
        fs.fsync_folder(path.parent)


def check_whole(site: Site, snapshot: Snapshot) -> None:
    """See that a snapshot may be given to somebody. Quick: reads its manifest and asks the store's index.

    Raises:
        DamagedError: it is marked partial, its manifest is damaged, or an object is missing.
    """
    hint = f"statelesskit snapshot verify {snapshot.name} --repair-from PLACE fetches what is missing"
    if is_partial(site, snapshot.name):
        raise DamagedError(
            f"{snapshot.name} is partial: a verification found something it needs missing or damaged", hint=hint
        )
    if missing := Store(site.store).missing(objects_of(site, snapshot)):
        raise DamagedError(
            f"{snapshot.name} is partial: {len(missing)} objects are not in the store, or damaged there, "
            f"one of them {missing[0].hex()}",
            hint=hint,
        )
