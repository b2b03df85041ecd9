"""Has the site's service do what this process may not; the errors are the service's own."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from statelesskit import __version__
from statelesskit.action import Action, Plan
from statelesskit.audit.records import EVENTS
from statelesskit.config import Site
from statelesskit.errors import ConflictError, EnvironmentLacksError, PermissionNeededError, StatelessError
from statelesskit.progress import SILENT, Progress
from statelesskit.service.performing import Outcome
from statelesskit.service.wire import FORMAT, SOCKET, Lines, raised, send, socket_path

LAST_WORDS_S = 120  # how long what was stopped may take to clean up before we go without its last words


def plan(site: Site, action: Action) -> Plan:
    return _plan(_ask(site, {"what": "plan", **_named(action)}))


def perform(site: Site, action: Action, confirm: str, record: str, progress: Progress) -> Outcome:
    done = _ask(site, {"what": "perform", **_named(action), "confirm": confirm, "record": record}, progress)
    return Outcome(_plan(done["plan"]), done["result"], done["checks"], done["record"])


def survey(site: Site, kind: type[Action]) -> tuple[str, list[dict[str, Any]]]:
    done = _ask(site, {"what": "survey", "verb": kind.verb})
    return done["title"], done["rows"]


def choices(site: Site, kind: type[Action], name: str) -> list[str]:
    return list(_ask(site, {"what": "choices", "verb": kind.verb, "name": name})["choices"])


def log_of(site: Site, path: Path) -> bytes | None:
    """Return the event log of a record that only the service may read yet; None for any other file."""
    if (path.parents[1], path.name) != (site.records, EVENTS):
        return None
    return base64.b64decode(_ask(site, {"what": "events", "record": path.parent.name})["events"])


@contextmanager
def connected(site: Site) -> Iterator[socket.socket]:
    """Yield a connection to the service.

    Raises:
        EnvironmentLacksError: it does not run, or this user may not talk to it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connect(site, connection)
        yield connection


def connect(site: Site, connection: socket.socket) -> None:
    """Connect a socket to the service; raises as :func:`connected`."""
    try:
        with socket_path(site) as path:
            connection.connect(path)
    except PermissionError:
        raise PermissionNeededError(
            f"this user may not talk to the service of {site.root}",
            hint=f"join the group {site.service.group!r}, or have root change service.group in site.toml",
        ) from None
    except OSError as error:
        raise EnvironmentLacksError(
            f"the service of {site.root} does not answer at {SOCKET}: {error.strerror}",
            hint=f"as root: systemctl start statelesskit-service.socket, or statelesskit-service --site {site.root}",
        ) from None


def _ask(site: Site, request: Mapping[str, Any], progress: Progress = SILENT) -> dict[str, Any]:
    """Return what the service says to a request; raise the error that it raised.

    When we are interrupted we tell it, by ending our side, and wait for what it made of that: what was done
    by then is done.
    """
    with connected(site) as connection:
        lines = Lines(connection)
        try:
            with suppress(BrokenPipeError):  # it does not want to hear us, and has said why
                send(connection, {"format": FORMAT, **request})
            return _answer(lines, progress)
        except KeyboardInterrupt:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(LAST_WORDS_S)
            return _answer(lines, progress)
        except OSError as error:
            raise _vanished(site) from error


def _answer(lines: Lines, progress: Progress) -> dict[str, Any]:
    while frame := lines.receive():
        if "done" in frame:
            return dict(frame["done"])
        if "error" in frame:
            raise raised(frame["error"])
        _show(progress, frame.get("progress", {}))
    raise ConnectionResetError


def _show(progress: Progress, told: Mapping[str, Any]) -> None:
    if "stage" in told:
        progress.stage(**told["stage"])
    if "advance" in told:
        progress.advance(*told["advance"])
    if "say" in told:
        progress.say(told["say"])
    if "waiting" in told:
        progress.waiting(told["waiting"])


def _vanished(site: Site) -> StatelessError:
    return StatelessError(
        f"the service of {site.root} ended before it told how it went",
        hint="the record says what was done: statelesskit audit list; nothing that was not is done later",
    )


def _named(action: Action) -> dict[str, Any]:
    return {"verb": action.verb, "parameters": action.as_parameters()}


def _plan(raw: Mapping[str, Any]) -> Plan:
    """Return the plan the service made; a digest over it must be the same on both sides."""
    made = Plan(**{name: value for name, value in raw.items() if name not in ("plan_digest", "tool")})
    if not made.confirmed_by(raw["plan_digest"]):
        raise ConflictError(
            f"the service is statelesskit {raw.get('tool')}, this is {__version__}: they differ on a plan's digest",
            hint="have root restart the service: systemctl restart statelesskit-service",
        )
    return made
