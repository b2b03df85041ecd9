"""Keeps the record of a run that an ordinary user carries out, for as long as they hold the connection.

Whatever comes from there is marked ``claimed`` and can only be of the kinds that a run has to tell; what an action
did is written by the process that performed it, and nobody else. Nothing that is written can be written again.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from statelesskit import fs, scrub
from statelesskit.actions import ACTIONS
from statelesskit.audit import process
from statelesskit.audit.attested import CLAIMED, CLAIMED_FILES, CLAIMED_KINDS
from statelesskit.audit.keys import PRIVATE
from statelesskit.audit.records import END_STATES, REWRITTEN, Record
from statelesskit.config import Site
from statelesskit.errors import NotFoundError, RefusedError, StatelessError, UsageError
from statelesskit.lock import held
from statelesskit.names import printable
from statelesskit.service.policy import Caller, check_verb
from statelesskit.service.wire import Lines, error_frame, send
from statelesskit.witness import tell_witness

FILE_MAX = 256 << 20  # bytes of a file that a run adds
# Of a begin event what a run can't say of itself; a schedule's runs are root's, and none may pass for one of them.
ATTESTED = {"host", "mode", "name", "python", "run_id", "runner", "schedule", "tool", "uid", "user", "what", CLAIMED}
WAIT_S = 24 * 3600.0  # for what still happens in a run whose runner is gone; that is being stopped, too


def hold(
    site: Site,
    caller: Caller,
    connection: socket.socket,
    lines: Lines,
    runbook: str,
    verb: str,
    facts: Mapping[str, Any],
    run_id: str,
) -> None:
    """Begin a record and write what the run tells, until it ends the record or its connection breaks."""
    record = _begun(site, caller, runbook, verb, facts, run_id)
    ended = False
    try:
        send(connection, {"done": {"record": record.name, "run_id": record.run_id}})
        connection.settimeout(None)  # a cell may take a day
        while not ended and (frame := lines.receive()):
            number = frame.pop("id", 0)
            try:
                ended = _do(site, record, frame)
                answer: dict[str, Any] = {"done": {}}
            except StatelessError as error:
                answer = error_frame(error)
            send(connection, {**answer, "id": number})
    finally:
        if not ended:
            _end(site, record, "lost", 1, error="whoever carried it out was gone before its end")


def _begun(site: Site, caller: Caller, runbook: str, verb: str, facts: Mapping[str, Any], run_id: str) -> Record:
    if verb not in ACTIONS:
        raise NotFoundError(f"there is no action {printable(verb)!r}")
    if strange := sorted(facts.keys() & (ATTESTED | process.identity().keys())):
        raise RefusedError(f"a run can't say of itself: {', '.join(strange)}")
    given = facts.get("parameters", {})
    if not isinstance(given, dict):
        raise UsageError("parameters that are no names and values")
    claimed = {**facts, "parameters": scrub.without_secrets(given), CLAIMED: sorted([*facts, "what"])}
    record = Record.begin(site.records, runbook, facts={**claimed, **caller.as_facts()}, run_id=run_id)
    try:
        check_verb(site, caller, verb)
    except RefusedError as error:
        record.end("refused", error.exit_code, key=site.keys / PRIVATE, error=str(error))
        raise
    return record


def _do(site: Site, record: Record, frame: Mapping[str, Any]) -> bool:
    """Do what a frame says; return whether it ended the record."""
    match frame:
        case {"do": "event", "kind": str(kind), "facts": dict(facts)} if kind in CLAIMED_KINDS:
            try:
                record.event(kind, **{**facts, CLAIMED: True})
            except (TypeError, ValueError) as error:
                raise UsageError(f"an event that can't be written: {error}") from None
        case {"do": "attach", "name": str(name), "data": str(data)} if name in CLAIMED_FILES:
            record.attach(name, _bytes(data))
        case {"do": "keep", "name": str(name), "data": str(data)} if name in REWRITTEN:
            fs.write_file(record.path / name, scrub.data(_bytes(data)))
        case {"do": "append", "name": str(name), "data": str(data)} if name in CLAIMED_FILES - REWRITTEN:
            _append(record, name, scrub.data(_bytes(data)))
        case {"do": "end", "state": str(state), "exit_code": int(code), "facts": dict(ending)} if state in END_STATES:
            told = {name: str(ending[name]) for name in ("error", "left_undone") if name in ending}
            _end(site, record, state, code, **told, **{CLAIMED: True})
            return True
        case _:
            raise RefusedError("that is not a run's to tell", hint=f"it may tell {', '.join(sorted(CLAIMED_KINDS))}")
    return False


def _end(site: Site, record: Record, state: str, code: int, **facts: Any) -> None:
    with suppress(StatelessError, OSError), held(_lock(site, record), what="", doing="", wait_s=WAIT_S):
        fs.unlink(_lock(site, record))
    if state == "completed":
        facts["changes"] = _changes(record)
    record.end(state, code, key=site.keys / PRIVATE, **facts)
    tell_witness(site)


@contextmanager
def performing(site: Site, record: Record) -> Iterator[None]:
    """Keep a run's record from being ended while an action is performed in it, whatever becomes of its runner."""
    doing = f"what happens in it ({record.name})"
    with held(_lock(site, record), what=f"the run {record.name}", doing=doing, shared=True):
        yield


def _lock(site: Site, record: Record) -> Path:
    return site.locks / f"run.{record.run_id}.lock"


def _changes(record: Record) -> str:
    """Return what was planned last, in one sentence: only the service writes that file."""
    try:
        return str(json.loads((record.path / "plan.json").read_bytes())["summary"])
    except FileNotFoundError:
        return ""


def _append(record: Record, name: str, data: bytes) -> None:
    fd = fs.open_log(record.path / name, 0o644)
    try:
        if os.fstat(fd).st_size + len(data) > FILE_MAX:
            raise UsageError(f"{name} would be longer than the {FILE_MAX >> 20} MiB it may be")
        with fs.disk_full_named(record.path / name):
            fs.write_all(fd, data)
    finally:
        os.close(fd)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("data that is no base64") from None
