"""Bad weather for a directory: a server that is frozen or killed, and a gateway that cuts connections to order."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from statelesskit.config import Site
from statelesskit.directory import slapd
from statelesskit.errors import DirectoryUnavailableError, StatelessError

BIND, SEARCH, MODIFY, ADD, DELETE = 0x60, 0x63, 0x66, 0x68, 0x4A  # RFC 4511: the tags of the requests


def freeze(pid: int) -> None:
    """Stop a process, and return when none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)
    while any(
        (task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in Path(f"/proc/{pid}/task").iterdir()
    ):
        time.sleep(0.001)


def killed_after(
    site: Site, delay_s: float, job: Callable[[], object], *, when: threading.Event | None = None
) -> StatelessError | None:
    """Do a job while slapd dies, start it again, and return what the job failed with."""
    pid = slapd.status(site).pid
    assert pid

    def kill() -> None:
        if when:
            when.wait(30)
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        job()
    except DirectoryUnavailableError as error:
        return error
    finally:
        killer.join()
        slapd.start(site)
    return None


class Gateway:
    """Passes LDAP on from one unix socket to another.

    Attributes:
        orders: for the next request of a kind: ``before`` cuts the connection and passes nothing on,
            ``after`` cuts it when the server has done it and before its answer comes back. Each is kept once.
        seen: the kinds of the requests that came, in order.
        away: refuses whoever comes.
    """

    def __init__(self, path: Path, server: Path) -> None:
        self.orders: list[tuple[int, str]] = []
        self.seen: list[int] = []
        self.away = False
        self._server = server
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections there are, as a gateway does to idle ones."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                if self.away:
                    caller.close()
                else:
                    threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with caller, server, suppress(OSError):
            server.connect(str(self._server))
            self._open |= {caller, server}
            threading.Thread(target=self._answer, args=(server, caller), daemon=True).start()
            for message in _messages(caller):
                kind = _kind(message)
                self.seen.append(kind)
                if (kind, "before") in self.orders:
                    self.orders.remove((kind, "before"))
                    break
                server.sendall(message)
        self._open -= {caller, server}

    def _answer(self, server: socket.socket, caller: socket.socket) -> None:
        with suppress(OSError):
            for message in _messages(server):
                order = (_kind(message) - 1, "after")  # the answer's tag is its request's and one more
                if _kind(message) == 0x6B:
                    order = (DELETE, "after")
                if order in self.orders:
                    self.orders.remove(order)
                    break
                caller.sendall(message)
        for one in (server, caller):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def gateway(path: Path, server: Path) -> Iterator[Gateway]:
    """Open a gateway for the time of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Gateway(path, server)
    try:
        yield made
    finally:
        made.close()


def _messages(source: socket.socket) -> Iterator[bytes]:
    """Yield one LDAP message after the other."""
    data = b""
    while part := source.recv(65536):
        data += part
        while len(data) > 1 and len(data) >= (size := _size(data)):
            yield data[:size]
            data = data[size:]


def _size(data: bytes) -> int:
    if data[1] < 0x80:
        return 2 + data[1]
    width = data[1] & 0x7F
    return 2 + width + int.from_bytes(data[2 : 2 + width], "big") if len(data) >= 2 + width else 1 << 62


def _kind(message: bytes) -> int:
    start = 2 + (message[1] & 0x7F if message[1] >= 0x80 else 0)
    return message[start + 2 + message[start + 1]]  # behind the message's number
