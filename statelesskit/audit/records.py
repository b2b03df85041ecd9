"""Records: one folder per run, begun before anything changes and sealed when it has ended.

``records/20261123T073000Z-push-apply-1f2e3d4c/``. Several processes may add to one record; its event
log is the lock between them.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from statelesskit import __version__, fs, lock, scrub
from statelesskit.audit import events, files, process, statement
from statelesskit.audit.events import Event
from statelesskit.audit.statement import STATEMENT, Statement
from statelesskit.errors import AuditError, ExistsError, NameInvalidError, NotFoundError
from statelesskit.names import check_name, printable

EVENTS = "events.jsonl"
FILE = "file"  # the event of an attached file
# What is written again while the run goes on; every other file is final once it is attached.
NOTEBOOK = "record.ipynb"
REWRITTEN = frozenset({NOTEBOOK, "record.html"})
END_STATES = ("completed", "failed", "timed-out", "kernel-died", "cancelled", "refused", "not-run", "lost")
_OWN_KINDS = (events.BEGIN, events.END, events.TORN, FILE)
_TOLD = ("host", "mode", "name", "run_id", "tool", "uid", "user", "what")  # of the begin event, by the statement
_RUN_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Record:
    """A record that has begun.

    Attributes:
        path: its folder.
        run_id: eight hex digits that no other record of the site has.
    """

    path: Path
    run_id: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def ended(self) -> bool:
        """Whether nothing can be added any more."""
        try:
            last = events.first_and_last(self.path / EVENTS)[1]
        except AuditError:
            return True
        return last is not None and last.kind == events.END

    @classmethod
    def begin(cls, records_dir: Path, what: str, *, facts: Mapping[str, Any], run_id: str = "") -> Self:
        """Make the folder, with the ``begin`` event in it; both are on the disk when this returns.

        Args:
            what: the runbook or the verb.
            facts: what the run was asked to do. Where they name the same as what is seen of this
                process (``user``, ``uid``, ``mode``, …) they stand: a service acts for somebody else.
            run_id: chosen before by whoever wants to find the record; made up when empty.

        Raises:
            NameInvalidError: ``run_id`` is none.
            ExistsError: there is a record of that id.
        """
        taken = {record.name[-8:] for record in records_dir.iterdir()}
        run_id = run_id or next(made_up for made_up in iter(lambda: os.urandom(4).hex(), "") if made_up not in taken)
        if not _RUN_ID.fullmatch(run_id):
            raise NameInvalidError(f"{printable(run_id)!r} is no run id", hint="it is eight digits of 0-9 a-f")
        if run_id in taken:
            raise ExistsError(f"there is already a record of run {run_id}", hint="choose another id, or none")
        words = re.sub("[^a-z0-9]+", "-", what.lower())[:60].strip("-") or "run"
        path = records_dir / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{words}-{run_id}"
        seen = {
            "host": os.uname().nodename,
            "mode": "in process",
            "python": ".".join(map(str, sys.version_info[:3])),
            "tool": __version__,
            "uid": os.getuid(),
            "user": lock.user_name(),
            **process.identity(),
        }
        named = {"name": path.name, "run_id": run_id, "what": what}
        try:
            with fs.new_folder(path) as folder:
                events.append(folder / EVENTS, events.BEGIN, {**seen, **scrub.plain(facts), **named})
        except FileExistsError:
            raise ExistsError(f"there is already a record {path.name}") from None
        return cls(path, run_id)

    @classmethod
    def join(cls, path: Path) -> Self:
        """Open a record begun by another process.

        Raises:
            NotFoundError: there is none.
        """
        try:
            begin, _ = events.first_and_last(path / EVENTS)
        except AuditError as error:
            raise NotFoundError(f"{printable(path)} is no record: {EVENTS} {error.message}") from None
        if begin is None or begin.kind != events.BEGIN:
            raise NotFoundError(f"{printable(path)} is no record: its first event is none")
        return cls(path, str(begin.facts.get("run_id", "")))

    def event(self, kind: str, /, **facts: Any) -> None:
        """Add one event; it is on the disk when this returns. Raises as :meth:`events.Chain.append`."""
        if kind in _OWN_KINDS:
            raise ValueError(f"only the record itself writes the event {kind}")
        events.append(self.path / EVENTS, kind, scrub.plain(facts))

    def attach(self, name: str, data: bytes) -> None:
        """Put a file into the record, durably, and its digest into the log; secrets that are known are taken out.

        Raises:
            ExistsError: it is there with another content, and is not one of :data:`REWRITTEN`.
            AuditError: the record has ended.
        """
        check_name(name, "record's file")
        data = scrub.data(data)
        target, digest = self.path / name, hashlib.sha256(data).hexdigest()
        if name in (EVENTS, STATEMENT):
            raise NameInvalidError(f"only the record itself writes {name}")
        with events.held(self.path / EVENTS) as chain:
            chain.check_open()
            if os.path.lexists(target) and name not in REWRITTEN and files.sha256_file(target) != digest:
                raise ExistsError(f"{self.path.name} already holds another {name}", hint="attach it by another name")
            fs.write_file(target, data)
            chain.append(FILE, {"bytes": len(data), "name": name, "sha256": digest})

    def keep(self, name: str, data: bytes) -> None:
        """Write a file that is written again while the run goes on, durably; the log is not told of it."""
        fs.write_file(self.path / name, data)

    def end(self, state: str, exit_code: int, *, key: Path, **facts: Any) -> None:
        """Write the last event, with the digest of every file, seal the record, and enter it into the log.

        After a crash in between, or without a usable key, the record has ended but is not sealed, or not
        in the log; the next record that ends makes up for it.

        Args:
            state: one of :data:`END_STATES`.
            key: the file of the site's record key.
            facts: the outcome; ``changes``, one sentence, is shown in lists.

        Raises:
            AuditError: it has ended before, or the log is damaged.
        """
        from statelesskit.audit.entering import enter_ended

        self.finish(state, exit_code, key=key, **facts)
        enter_ended(self.path.parent, key)

    def finish(self, state: str, exit_code: int, *, key: Path, **facts: Any) -> None:
        """Do what :meth:`end` does, but for the log."""
        if state not in END_STATES:
            raise ValueError(f"{state!r} is no end state")
        with events.held(self.path / EVENTS) as chain:
            chain.check_open()
            digests, left_out = {}, {}
            for child in sorted(self.path.iterdir()):
                if child.name.startswith(".") and fs.PARTIAL in child.name:
                    fs.remove_tree(child)  # left by a writer that was killed: we hold the log, so nobody writes
                elif child.name not in (EVENTS, STATEMENT):
                    try:
                        digests[child.name] = files.sha256_file(child)
                    except AuditError as error:  # the outcome must be told, whatever lies here
                        left_out[child.name] = error.message
            outcome = {"exit_code": exit_code, "files": digests, "left_out": left_out, "state": state}
            chain.append(events.END, {**scrub.plain(facts), **outcome})
            self._seal(key)

    def seal(self, key: Path, *, again: bool = False) -> None:
        """Sign what the end event says, if that was not done, or ``again``; the files are not looked at again.

        Raises:
            AuditError: the record has not ended.
        """
        with events.held(self.path / EVENTS):
            if again or not os.path.lexists(self.path / STATEMENT):
                self._seal(key)

    def _seal(self, key: Path) -> None:
        log = self.path / EVENTS
        begin, end = events.first_and_last(log)
        if not begin or not end or end.kind != events.END:
            raise AuditError(f"{self.path.name} has not ended", hint="end it first")
        predicate = {
            **{name: begin.facts.get(name) for name in _TOLD},
            "begun_at": events.rfc3339(begin.at),
            "changes": end.facts.get("changes"),
            "ended_at": events.rfc3339(end.at),
            "events": end.seq,
            "exit_code": end.facts.get("exit_code"),
            "state": end.facts.get("state"),
            **({"schedule": begin.facts["schedule"]} if "schedule" in begin.facts else {}),
        }
        digests = {**ended_files(end), EVENTS: files.sha256_file(log)}
        fs.write_file(self.path / STATEMENT, statement.sign(Statement(digests, predicate), key))
        log.chmod(0o644)  # nothing is added any more; now everybody may read it


def ended_files(end: Event) -> dict[str, str]:
    """Return the digests an end event names; what is none is left out."""
    named = end.facts.get("files")
    return {name: d for name, d in named.items() if isinstance(d, str)} if isinstance(named, dict) else {}
