"""The site's private slapd: started, stopped and asked how it is.

Whether it runs is asked on its socket, which also works from another PID namespace. A process is
only ever signalled through a pidfd, after its command line has shown that it is ours.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from statelesskit.config import Site
from statelesskit.directory.conf import conf_file, ldapi_uri, ldaps_uri, log_file, pid_file, prepare
from statelesskit.directory.listening import is_listening
from statelesskit.errors import DirectoryUnavailableError, PermissionNeededError, TimedOutError
from statelesskit.lock import held
from statelesskit.names import printable
from statelesskit.run import child_environment, find_tool

__all__ = ["Status", "prepare", "start", "status", "stop"]

LOG_TAIL = 15  # lines shown when it could not start
POLL_S = 0.02
PROBE_S = 5  # a server that takes longer to say who we are does not answer
TCP_LISTEN = "0A"  # in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Status:
    """How the private server is.

    Attributes:
        running: it answers on its socket and lets us in.
        pid: its process, if that can be seen from here.
        since: when it was started.
    """

    running: bool
    pid: int | None
    ldapi_uri: str
    ldaps_uri: str
    since: datetime | None = None


def start(site: Site, timeout_s: float = 15) -> Status:
    """Start the private slapd, detached, and return when it answers; nothing happens if it runs.

    Raises:
        DirectoryUnavailableError: it ended at once; the message has the end of its log, or says who
            holds its port.
        PermissionNeededError: we are not the site's owner.
        TimedOutError: it runs but does not answer.
    """
    _check_caller(site)
    with _locked(site, "starting it", timeout_s):
        _bring_up(site, timeout_s)
        return status(site)


def _bring_up(site: Site, timeout_s: float) -> None:
    from statelesskit.directory.restoring import finish_restore

    if not _answers(site):
        prepare(site)
        with _process(site) as found:
            if found:
                _await_answer(site, found[1], timeout_s)
            else:
                finish_restore(site)
                _spawn(site, timeout_s)


def stop(site: Site, timeout_s: float = 15) -> None:
    """End the private slapd and wait until it is gone; nothing happens if it does not run.

    Raises:
        PermissionNeededError: we are not the site's owner.
        TimedOutError: it is still there.
    """
    _check_caller(site)
    with _locked(site, "stopping it", timeout_s):
        _bring_down(site, timeout_s)


def _bring_down(site: Site, timeout_s: float) -> bool:
    """Stop it, and say whether it ran."""
    with _process(site) as found:
        if not found:
            return False
        pid, pidfd = found
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not _ended(pidfd, timeout_s):
            raise TimedOutError(f"slapd (process {pid}) did not end within {timeout_s:g} s", hint=f"kill -9 {pid}")
        _reap(pid)
        return True


@contextmanager
def stopped(site: Site, doing: str, timeout_s: float = 15) -> Iterator[None]:
    """Keep the private slapd down while the block runs, and nobody can start it; then start it if it ran before.

    Raises:
        as :func:`stop` and :func:`start`.
    """
    _check_caller(site)
    with _locked(site, doing, timeout_s):
        ran = _bring_down(site, timeout_s)
        try:
            yield
        finally:
            if ran:
                _bring_up(site, timeout_s)


def status(site: Site) -> Status:
    """Say how the private slapd is.

    Raises:
        PermissionNeededError: we are neither root nor the site's owner, so we cannot know.
    """
    _check_caller(site, or_root=True)
    with _process(site) as found:
        since = datetime.fromtimestamp(pid_file(site).stat().st_mtime, UTC) if found else None
        return Status(_answers(site), found[0] if found else None, ldapi_uri(site), ldaps_uri(site), since)


def _check_caller(site: Site, *, or_root: bool = False) -> None:
    # slapd runs as the site's owner. Root must not start or stop it for another: it would write, as
    # root, into folders where that user can put links.
    owner = site.root.stat().st_uid
    if os.geteuid() != owner and not (or_root and os.geteuid() == 0):
        raise PermissionNeededError(
            f"the site {site.root} belongs to the user with the number {owner}",
            hint=f"run the same command as that user: sudo -u '#{owner}' …",
        )


@contextmanager
def _locked(site: Site, doing: str, wait_s: float) -> Iterator[None]:
    with held(site.lock_file("directory"), what="the directory's server", doing=doing, wait_s=wait_s):
        yield


def _answers(site: Site) -> bool:
    if not is_listening(site):
        return False
    from statelesskit.directory.session import connect, disconnect

    try:
        disconnect(connect(site, answer_within_s=PROBE_S))
    except DirectoryUnavailableError:
        return False
    return True


# --- the process ------------------------------------------------------------------------------


@contextmanager
def _process(site: Site) -> Iterator[tuple[int, int] | None]:
    """Give number and pidfd of our slapd, or nothing if the pid file is stale or names another program."""
    try:
        pid = int(pid_file(site).read_text(encoding="ascii"))
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):
        yield None
        return
    try:
        yield (pid, pidfd) if _is_ours(site, pid) else None
    finally:
        os.close(pidfd)


def _is_ours(site: Site, pid: int) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return argv[0].endswith(b"/slapd") and os.fsencode(conf_file(site)) in argv


def _spawn(site: Site, timeout_s: float) -> None:
    log = log_file(site)
    log_start = log.stat().st_size if log.exists() else 0
    # A session of its own, so Ctrl-C here does not reach it, and no folder held that somebody may
    # want to unmount. "none" logs what must be known; 0 would hide even why it cannot start.
    argv = [find_tool("env"), "--chdir=/", find_tool("slapd"), "-d", "none", "-f", str(conf_file(site))]
    argv += ["-h", f"{ldapi_uri(site)} {ldaps_uri(site)}"]
    files: list[tuple[int, int, str, int, int] | tuple[int, int, int] | tuple[int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # What a shell handed down is not the server's to keep: a pipe it held would never end for its reader.
    handed_down = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    files += [(os.POSIX_SPAWN_CLOSE, fd) for fd in handed_down if fd > 2 and _is_inherited(fd)]
    pid = os.posix_spawn(
        argv[0], argv, child_environment(), file_actions=files, setsid=True, setsigmask=[], setsigdef=[signal.SIGPIPE]
    )
    pidfd = os.pidfd_open(pid)
    try:
        _await_answer(site, pidfd, timeout_s)
    except BaseException as error:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not _ended(pidfd, timeout_s):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _ended(pidfd, timeout_s)
        _reap(pid)
        if isinstance(error, DirectoryUnavailableError):
            raise _why_ended(site, log_start) from None
        raise
    finally:
        os.close(pidfd)


def _is_inherited(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the one the list was read with
        return False


def _await_answer(site: Site, pidfd: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _answers(site):
        if _ended(pidfd, POLL_S):
            raise DirectoryUnavailableError("slapd ended")
        if time.monotonic() > deadline:
            raise TimedOutError(
                f"slapd runs but did not answer on {ldapi_uri(site)} within {timeout_s:g} s",
                hint=f"see {log_file(site)}; then: statelesskit site stop, and start it again",
            )


def _ended(pidfd: int, timeout_s: float) -> bool:
    """Say whether the process has ended, waiting for it at most so long."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # it is our child only if we started it
        os.waitpid(pid, 0)


# --- why it could not start -------------------------------------------------------------------


def _why_ended(site: Site, log_start: int) -> DirectoryUnavailableError:
    holder = _port_holder(site.port)
    if holder:
        return DirectoryUnavailableError(
            f"slapd cannot listen on port {site.port}: {holder} already does",
            hint=f"end that, or choose another port under [directory] in {site.root / 'site.toml'}",
        )
    with log_file(site).open("rb") as log:
        log.seek(log_start)
        lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_TAIL:]
    return DirectoryUnavailableError(
        "slapd ended before it answered; the end of its log:\n" + "\n".join(f"  | {printable(line)}" for line in lines),
        hint=f"the log is {log_file(site)}; check the configuration with: slaptest -u -f {conf_file(site)}",
    )


def _port_holder(port: int) -> str:
    """Return who listens on a loopback or wildcard port, or "" if nobody does."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return ""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            for fd in folder.iterdir():
                with suppress(OSError):
                    if str(fd.readlink()) in inodes:
                        name = (folder.parent / "comm").read_text(encoding="utf-8", errors="replace").strip()
                        return f"{printable(name)} (process {folder.parent.name})"
    return "a program of another user"
