"""``statelesskit-service``: listens on the site's socket, and gives each caller a process that serves only them.

This process itself reads nothing that a caller sends. It starts, counts and buries the others.
"""

from __future__ import annotations

import ctypes
import grp
import importlib
import os
import select
import signal
import socket
import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

import click

from statelesskit import fs
from statelesskit.config import Site, load_site, site_root
from statelesskit.errors import ConfigError, PermissionNeededError, RefusedError, StatelessError
from statelesskit.lock import held
from statelesskit.service.policy import Caller
from statelesskit.service.serving import serve
from statelesskit.service.unit import unit_text
from statelesskit.service.wire import SOCKET, error_frame, send, socket_path

MOST, MOST_OF_ONE = 128, 24  # callers at a time: of all, and of one uid that is not root
MOST_REFUSED, REFUSED_S = 200, 3600.0
PR_SET_PDEATHSIG = 1
FIRST_PASSED = 3  # sd_listen_fds(3): the number of the first socket that systemd passes
LEAVE_S = 30.0  # for those who are served when we are stopped, to clean up
# What most callers need and what takes long to import; their processes have it from us.
AHEAD = (
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.serialization",
    "statelesskit.directory.fleet",
    "statelesskit.push",
    "statelesskit.snapshot",
    "statelesskit.take",
)


class Server:
    """Serves a site until it is told to stop."""

    def __init__(self, root: Path, listener: socket.socket) -> None:
        self._root, self._listener = root, listener
        self._served: dict[int, int] = {}  # process: uid
        self._refused: dict[int, deque[float]] = {}  # uid: when, the last times
        self._stopping = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; those who are being served are stopped, too."""
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that it wakes us
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._listener.setblocking(False)
        while not self._stopping:
            ready, _, _ = select.select([self._listener.fileno(), woken], [], [])
            with suppress(BlockingIOError):
                os.read(woken, 4096)
            self._bury()
            if self._listener.fileno() in ready:
                with suppress(OSError):  # whoever it was has gone again
                    connection, _ = self._listener.accept()
                    self._begin(connection)
        self._leave()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _begin(self, connection: socket.socket) -> None:
        with connection:
            caller = Caller.of(connection)
            if full := self._full(caller):
                connection.setblocking(False)
                send(connection, error_frame(full))
                return
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    status = self._be_served(parent, caller, connection)
                finally:
                    os._exit(status)
            self._served[pid] = caller.uid

    def _full(self, caller: Caller) -> StatelessError | None:
        """Say why a caller is not served now, if so; root always is."""
        if caller.uid == 0:
            return None
        refused = self._refused.get(caller.uid, deque())
        if len(refused) == MOST_REFUSED and time.monotonic() - refused[0] < REFUSED_S:
            # Each leaves a record: whoever may do nothing could fill the disk.
            return RefusedError(f"refused {MOST_REFUSED} times within the hour", hint="ask whoever keeps the site")
        of_one = Counter(self._served.values())[caller.uid]
        if len(self._served) >= MOST or of_one >= MOST_OF_ONE:
            return RefusedError("the service is busy with others, or with you", hint="try again in a moment")
        return None

    def _be_served(self, parent: int, caller: Caller, connection: socket.socket) -> int:
        """Serve in the new process; it does not outlive us, and ends tidily when we die."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _interrupt)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            return 1
        self._listener.close()
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), 0)  # "-" as a file is the caller's, which we don't have
        try:
            # Read anew for each: a rule that was changed holds from now on.
            allowed = serve(load_site(self._root), caller, connection)
            return 0 if allowed else RefusedError.exit_code
        except (StatelessError, KeyboardInterrupt) as error:
            with suppress(OSError):
                send(connection, error_frame(error))
        return 1

    def _bury(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                uid = self._served.pop(ended[0], 0)
                if ended[1] and os.waitstatus_to_exitcode(ended[1]) == RefusedError.exit_code:
                    self._refused.setdefault(uid, deque(maxlen=MOST_REFUSED)).append(time.monotonic())

    def _leave(self) -> None:
        for pid in self._served:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + LEAVE_S
        while self._served and time.monotonic() < until:
            self._bury()
            time.sleep(0.05)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def listen(site: Site) -> socket.socket:
    """Return the socket that systemd passed, or make the site's own.

    Raises:
        ConfigError: there is no such group.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        return socket.socket(fileno=FIRST_PASSED)
    try:
        group = grp.getgrnam(site.service.group).gr_gid if site.service.group else -1
    except KeyError:
        raise ConfigError(
            f"there is no group {site.service.group!r}", hint="make it, or change service.group in site.toml"
        ) from None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with socket_path(site) as path:
        with suppress(FileNotFoundError):
            fs.unlink(Path(path))  # of one that was killed: we hold the lock
        before = os.umask(0o777)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        os.chown(path, -1, group)
        Path(path).chmod(0o660 if group >= 0 else 0o666)
    listener.listen(MOST)
    return listener


@click.command()
@click.option("--site", metavar="DIR", help="The site (else $STATELESSKIT_SITE, else /srv/stateless).")
@click.option("--print-unit", is_flag=True, help="Print the systemd units, each below its name, and end.")
def main(site: str | None, print_unit: bool) -> None:
    """Perform what others ask for on a site's socket, as its site.toml allows; run by root, mostly by systemd."""
    root = site_root(site)
    try:
        with ExitStack() as stack:
            found = load_site(root)
            if print_unit:
                click.echo(unit_text(root, found.service.group), nl=False)
                return
            if os.geteuid() != 0:
                raise PermissionNeededError("the service performs what needs root", hint="run it as root, by systemd")
            if not found.service.enabled:
                hint = f"set enabled = true under [service] in {root / 'site.toml'}"
                raise ConfigError(f"the service of {root} is not enabled", hint=hint)
            lock = root / "locks" / "service.lock"
            stack.enter_context(held(lock, what=f"the service of {root}", doing="serving"))
            os.umask(0o022)
            os.chdir("/")  # a path that is none from there is nobody's
            for module in AHEAD:
                importlib.import_module(module)
            listener = stack.enter_context(listen(found))
            click.echo(f"serving {root / SOCKET}", err=True)
            Server(root, listener).run()
    except StatelessError as error:
        raise SystemExit(_failed(error)) from None


def _failed(error: StatelessError) -> int:
    click.echo(f"error: {error}", err=True)
    return error.exit_code


if __name__ == "__main__":
    main()
