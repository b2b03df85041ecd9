"""What goes over the service's socket: one JSON object a line, each way.

A caller sends one request, ``{"format": 1, "what": …}``, and is sent ``{"progress": …}`` lines, then one
``{"done": …}`` or ``{"error": …}``. Only a run's record is held over a connection: see :mod:`held`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from statelesskit import errors, scrub
from statelesskit.config import Site
from statelesskit.errors import CommandError, StatelessError, UsageError

FORMAT = 1
SOCKET = "service.sock"
REQUEST_MAX = 1 << 20  # bytes of a line from somebody of whom nothing is known but their uid
FRAME_MAX = 128 << 20  # bytes of any other line: a notebook, in base64


class Lines:
    """Reads one JSON object after the other from a socket; what an exception interrupts can be read afterwards."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._read = connection, bytearray()

    def receive(self, most: int = FRAME_MAX) -> dict[str, Any] | None:
        """Return the next object; None when the other side has ended, also in the middle of a line.

        Raises:
            UsageError: it is too long, or no JSON object.
            OSError: the connection broke, or was silent for longer than the socket's timeout.
        """
        seen = 0
        while (end := self._read.find(b"\n", seen)) < 0 and (seen := len(self._read)) <= most:
            if not (data := self._connection.recv(1 << 16)):
                return None
            self._read += data
        if not 0 <= end <= most:
            raise UsageError(f"a line of more than {most} bytes", hint="this is no client of ours")
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UsageError("a line that is no JSON object", hint="this is no client of ours")
        return found


def send(connection: socket.socket, frame: Mapping[str, Any]) -> None:
    """Send one object; raises OSError when nobody takes it any more."""
    connection.sendall(json.dumps(frame, separators=(",", ":")).encode() + b"\n")


def error_frame(error: BaseException) -> dict[str, Any]:
    """Return what tells the other side of an error; the secrets of our site are taken out."""
    if not isinstance(error, StatelessError):
        text = "stopped" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
        error = errors.CancelledError(text) if isinstance(error, KeyboardInterrupt) else StatelessError(text)
    told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return {"error": scrub.plain(told)}


def raised(told: Mapping[str, Any]) -> StatelessError:
    """Return the error that :func:`error_frame` told of, of the same class where we have it."""
    kind: type[StatelessError] = StatelessError
    named = getattr(errors, str(told.get("kind")), None)
    if isinstance(named, type) and issubclass(named, StatelessError) and not issubclass(named, CommandError):
        kind = named
    error = kind(str(told.get("message")), hint=str(told.get("hint") or ""))
    if type(told.get("exit_code")) is int:
        error.exit_code = told["exit_code"]
    return error


@contextmanager
def socket_path(site: Site) -> Iterator[str]:
    """Yield a short path of the site's socket: unix(7) leaves 107 bytes, and sites may lie deep."""
    folder = os.open(site.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(Path(f"/proc/self/fd/{folder}") / SOCKET)
    finally:
        os.close(folder)
