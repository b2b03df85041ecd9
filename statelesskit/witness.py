"""Copies of the log's checkpoint where this host can't change them; without one whoever owns the host can write
the past anew, and sign it.

Each run that ends shows the checkpoint to the witness of ``site.toml``, a command that reads it from standard input
(``[audit] witness``) and sends it wherever it is kept. `audit publish` puts it into the directory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from statelesskit import fs, run, scrub
from statelesskit.audit.checkpoint import Checkpoint
from statelesskit.audit.handover import read_keys
from statelesskit.audit.keys import PUBLIC
from statelesskit.audit.log import CHECKPOINT, LOG
from statelesskit.config import Site
from statelesskit.errors import AuditError, NotFoundError, StatelessError

if TYPE_CHECKING:
    from statelesskit.directory import Directory

TIMEOUT_S = 10
TOLD = ".witness"  # in the log's folder: what became of telling the witness, for `site doctor`


@dataclass(frozen=True, slots=True)
class Told:
    """What became of the last attempt; ``size`` is the number of records the witness has heard of."""

    at: str
    size: int
    error: str


def checkpoint_of(site: Site) -> tuple[bytes, Checkpoint]:
    """Return the site's checkpoint, as its file and as what that says.

    Raises:
        NotFoundError: nothing has ended yet.
        AuditError: it is damaged.
    """
    path = site.records / LOG / CHECKPOINT
    try:
        note = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no checkpoint at {path}: no run has ended yet") from None
    return note, Checkpoint.verify(note, (site.keys / PUBLIC).read_text("ascii", "replace"))


def tell_witness(site: Site) -> Told | None:
    """Show the checkpoint to the witness, if there is one. Raises nothing: `site doctor` tells what goes wrong."""
    if not site.witness:
        return None
    before, size, error = told(site), 0, ""
    try:
        note, checkpoint = checkpoint_of(site)
        run.run(site.witness, stdin=note, timeout_s=TIMEOUT_S)
        size = checkpoint.size
    except (StatelessError, OSError) as failed:
        size, error = before.size if before else 0, scrub.text(str(failed))
    found = Told(datetime.now(UTC).isoformat(timespec="seconds"), size, error)
    try:
        fs.write_json(_told_file(site), {"at": found.at, "size": found.size, "error": found.error})
    except (StatelessError, OSError):  # the run has ended well; that nobody can read of its witness is doctor's matter
        return found
    return found


def told(site: Site) -> Told | None:
    """Return what became of the last attempt, or None if there was none."""
    try:
        raw = json.loads(_told_file(site).read_bytes())
        return Told(str(raw["at"]), int(raw["size"]), str(raw["error"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def publish_checkpoint(site: Site, directory: Directory) -> int:
    """Put the checkpoint into the directory, over the one that is there; return how many records it covers.

    Raises:
        AuditError: the one that is there covers more, or is of another log: it is left as the evidence it is.
        ConflictError: somebody else does the same.
    """
    from statelesskit.directory.checkpoint import keep_checkpoint

    note, checkpoint = checkpoint_of(site)
    before = published_checkpoint(site, directory)
    if before and (before.origin != checkpoint.origin or before.size > checkpoint.size):
        raise AuditError(
            f"the directory has a checkpoint of {before.size} records ({before.origin}), and this site's log one of "
            f"{checkpoint.size} ({checkpoint.origin})",
            hint="the log was cut or replaced: statelesskit audit verify --from-directory",
        )
    keep_checkpoint(directory, note.decode())
    return checkpoint.size


def published_checkpoint(site: Site, directory: Directory) -> Checkpoint | None:
    """Return the checkpoint in the directory, if there is one.

    Raises:
        AuditError: this site's key did not sign it.
    """
    from statelesskit.directory.checkpoint import kept_checkpoint

    note = kept_checkpoint(directory)
    sealers = read_keys(site.records / LOG, (site.keys / PUBLIC).read_text("ascii", "replace"))
    try:
        return sealers.checkpoint(note.encode()) if note else None
    except AuditError as error:
        raise AuditError(f"the checkpoint in the directory {error.message}") from None


def _told_file(site: Site) -> Path:
    return site.records / LOG / TOLD
