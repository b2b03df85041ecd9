"""Serves one caller, in a process of its own: the request is read, held against policy, and done.

So a caller that is slow, silent or hostile is its own process's matter, one that is stopped is stopped by a
signal as any command is, and whatever one leaves behind (locks, memory) ends with its process.
"""

from __future__ import annotations

import base64
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from statelesskit import __version__, lock, scrub
from statelesskit.action import Action
from statelesskit.actions import ACTIONS
from statelesskit.audit import events, files, process
from statelesskit.audit.log import RECORD_NAME
from statelesskit.audit.records import EVENTS, Record
from statelesskit.config import Site
from statelesskit.errors import ConflictError, NotFoundError, RefusedError, StatelessError, UsageError
from statelesskit.names import printable
from statelesskit.progress import Progress
from statelesskit.service.holding import hold, performing
from statelesskit.service.performing import Outcome, perform_in, perform_recorded
from statelesskit.service.policy import Caller, check_allowed, check_verb
from statelesskit.service.wire import FORMAT, REQUEST_MAX, Lines, error_frame, send

PATIENCE_S = 30  # for a caller to say what it wants, and to take what it is sent
EVERY_S = 0.1  # how often progress is told


def serve(site: Site, caller: Caller, connection: socket.socket) -> bool:
    """Do what the caller asks for, and tell it what came of that; return whether it was not refused."""
    lock.act_for(caller.user)
    connection.settimeout(PATIENCE_S)
    try:
        lines = Lines(connection)
        request = lines.receive(REQUEST_MAX)
        answer = _answer(site, caller, connection, lines, request) if request is not None else None
        if answer is not None:
            send(connection, {"done": scrub.plain(answer)})
    except (TimeoutError, ConnectionError):
        return True  # it is gone, or as good as
    except BaseException as error:
        _tell(connection, error)
        return not isinstance(error, RefusedError)
    return True


def _tell(connection: socket.socket, error: BaseException) -> None:
    if not isinstance(error, (StatelessError, KeyboardInterrupt)):
        traceback.print_exception(error)
    try:
        send(connection, error_frame(error))
    except OSError:
        return


def _answer(
    site: Site, caller: Caller, connection: socket.socket, lines: Lines, request: dict[str, Any]
) -> dict[str, Any] | None:
    if request.pop("format", None) != FORMAT:
        raise UsageError(f"a request of another format than {FORMAT}", hint="use the statelesskit of this version")
    what = request.pop("what", None)
    if what == "begin":
        request.pop("id", None)
        hold(site, caller, connection, lines, **_typed(request, runbook=str, verb=str, facts=dict, run_id=str))
        return None
    if what == "plan":
        action = _action(**_typed(request, verb=str, parameters=dict))
        check_allowed(site, caller, action)
        return {**action.plan(site).as_json(), "tool": __version__}
    if what == "perform":
        asked = _typed(request, verb=str, parameters=dict, confirm=str, record=str)
        confirm, record = asked.pop("confirm"), asked.pop("record")
        progress = SocketProgress(connection)
        with Watch(connection):
            return _outcome(_perform(site, caller, _action(**asked), confirm, record, progress))
    if what == "survey":
        kind = _kind(**_typed(request, verb=str))
        check_verb(site, caller, kind.verb)
        title, rows = kind.survey(site)
        return {"title": title, "rows": rows}
    if what == "choices":
        asked = _typed(request, verb=str, name=str)
        kind = _kind(asked["verb"])
        check_verb(site, caller, kind.verb)
        ask = next((item.choices for item in kind.parameters() if item.name == asked["name"]), None)
        return {"choices": list(ask(site)) if ask else []}
    if what == "events":
        path = _record(site, **_typed(request, record=str)).path
        return {"events": base64.b64encode(files.read_small(path / EVENTS, 2 * events.MAX_LOG)).decode()}
    raise UsageError(f"{printable(what)!r} is nothing that can be asked for")


def _perform(site: Site, caller: Caller, action: Action, confirm: str, name: str, progress: Progress) -> Outcome:
    def check() -> None:
        check_allowed(site, caller, action)

    if not name:
        return perform_recorded(site, action, confirm, progress, caller=caller.as_facts(), check=check)
    record = _record(site, name)
    begin, last = events.first_and_last(record.path / EVENTS)
    facts: Mapping[str, Any] = begin.facts if begin else {}
    if (facts.get("mode"), facts.get("uid")) != ("service", caller.uid):
        raise RefusedError(f"{record.name} is no run of {printable(caller.user)} that the service keeps")
    if not process.is_alive(facts) or (last and last.kind == events.END):
        raise ConflictError(f"{record.name} has ended; nothing can be done in it any more")
    with performing(site, record):
        try:
            check()
        except RefusedError as error:
            record.event("refused", verb=action.verb, error=error.message)
            raise
        return perform_in(record, site, action, confirm, progress)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    plan = {**outcome.plan.as_json(), "tool": __version__}
    return {"plan": plan, "result": dict(outcome.result), "checks": outcome.checks, "record": outcome.record}


def _typed(request: Mapping[str, Any], **kinds: type) -> dict[str, Any]:
    """Return the request if it holds just these, of these types."""
    if {name: type(value) for name, value in request.items()} != kinds:
        names = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        raise UsageError(f"a request with other parts than it has, expected {names}")
    return dict(request)


def _kind(verb: str) -> type[Action]:
    if verb not in ACTIONS:
        raise NotFoundError(f"there is no action {printable(verb)!r}")
    return ACTIONS[verb]


def _action(verb: str, parameters: Mapping[str, Any]) -> Action:
    return _kind(verb).check(parameters)


def _record(site: Site, record: str) -> Record:
    path = site.records / record
    if not RECORD_NAME.fullmatch(record) or path.is_symlink():
        raise NotFoundError(f"there is no record {printable(record)!r}")
    return Record.join(path)


class Watch:
    """Stops this process as a signal would, when the caller ends its side of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._over, self._ours = os.pipe()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        os.close(self._ours)
        self._thread.join()
        os.close(self._over)

    def _look(self) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        poll.register(self._over, 0)  # told of its other end's close whatever is asked for: poll(2), POLLHUP
        if self._connection.fileno() in dict(poll.poll()):
            os.kill(os.getpid(), signal.SIGTERM)


class SocketProgress(Progress):
    """Sends progress to the caller, not more often than a person can read."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._sent = connection, 0.0
        self._done = self._done_bytes = 0

    def stage(
        self, what: str, *, total: int | None = None, unit: str = "", total_bytes: int = 0, about: bool = False
    ) -> None:
        self._flush()
        self._send({"stage": {"what": what, "total": total, "unit": unit, "total_bytes": total_bytes, "about": about}})

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        self._done += amount
        self._done_bytes += size_bytes
        if time.monotonic() - self._sent > EVERY_S:
            self._flush()

    def say(self, line: str) -> None:
        self._send({"say": line})

    def waiting(self, line: str) -> None:
        self._send({"waiting": line})

    def _flush(self) -> None:
        if self._done or self._done_bytes:
            told = [self._done, self._done_bytes]
            self._done = self._done_bytes = 0
            self._send({"advance": told})

    def _send(self, told: dict[str, Any]) -> None:
        self._sent = time.monotonic()
        try:
            send(self._connection, {"progress": told})
        except OSError:
            # Nobody takes it: gone, or stopped for so long that what it holds locked must be given back.
            raise KeyboardInterrupt from None
