"""Locks between processes: one worker at a time per object, and the others are told who it is.

The kernel holds the lock (flock), so it ends with its holder, however that dies. The file's text
only says who holds it; it is never removed, so two processes can't lock two files of one name.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from statelesskit.errors import LockedError


@contextmanager
def held(path: Path, *, what: str, doing: str, wait_s: float = 0, shared: bool = False) -> Iterator[None]:
    """Hold the lock while the block runs.

    Args:
        path: the lock file; made if it is not there.
        what: the object in words, for the other's message ("prototype desktop").
        doing: what we do with it, for the other's message.
        wait_s: how long to wait for somebody else to finish.
        shared: others may hold it too, if they share it as well.

    Raises:
        LockedError: somebody else holds it; the message says who, since when, doing what.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # 0600: whoever can open it, for reading too, can hold it, and every admin would wait for them.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _acquire(fd, what, wait_s, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        holder = {
            "doing": doing,
            "pid": int(Path("/proc/self").readlink().name),  # as others see it: a run's kernel has numbers of its own
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "user": user_name(),
        }
        with suppress(OSError):  # the text is a courtesy: on a full disk we must still be able to stop things
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(holder).encode(), 0)
        try:
            yield
        finally:
            if not shared:  # another who shares it may have written there
                with suppress(OSError):
                    os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _acquire(fd: int, what: str, wait_s: float, how: int) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{what} is locked: {_holder(fd)}", hint="wait until that has ended, or stop it, then try again"
                ) from None
        time.sleep(0.1)


def _holder(fd: int) -> str:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
        return f"{holder['doing']} by {holder['user']} (process {holder['pid']}) since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "somebody has just taken it"


_acting_for = ""


def act_for(user: str) -> None:
    """Have this process work in the name of somebody else from now on: of whom a service serves."""
    global _acting_for  # a process serves one person
    _acting_for = user


def user_name() -> str:
    """Return the login name of the person behind this process, seen through sudo; a claim, not a proof.

    In a process that serves somebody it is their name, which the kernel has told.
    """
    if _acting_for:
        return _acting_for
    if os.environ.get("SUDO_USER") and os.geteuid() == 0:
        return os.environ["SUDO_USER"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
