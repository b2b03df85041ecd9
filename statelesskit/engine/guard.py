"""A script, not a module to call: runs a notebook's kernel so that nothing of it outlives it, or us.

    python -I -S guard.py PARENT TOLD COMMAND ARGUMENT…

Two processes. The outer one stands in for the kernel outside, and leads the process group that is
interrupted; the inner one starts the kernel and, when that is gone, ends all that it left behind. Where
the machine allows it the inner one is process 1 of a PID namespace (an ordinary user gets a user namespace
for it): the Linux kernel ends everything in there with it, also what called setsid. Elsewhere it is a
"subreaper": orphans become its children, and it kills them; that fails only if the inner one itself is
killed. Either way the outer one dies with our caller, and the inner one with the outer one
(prctl(2), PR_SET_PDEATHSIG). ``TOLD`` is a file, which is told which of the two it is.

/proc is left as it is: it shows the host's numbers, so processes outside can still be looked at from inside.
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# What TOLD may hold; after the last comes why it was not one of the others.
NAMESPACE, USER_NAMESPACE, SUBREAPER = "pid namespace", "user and pid namespace", "subreaper: "
FORCED = "STATELESSKIT_GUARD"  # "subreaper" goes without namespaces: for tests, and where they are in the way

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int) -> None:
    """Call a function of the C library; raise OSError when it fails."""
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def enter_namespace() -> str:
    """Have the next child be process 1 of a new PID namespace, if that can be; say what came of it."""
    if os.environ.pop(FORCED, "") == "subreaper":
        return SUBREAPER + "asked for"
    with suppress(OSError):
        call("unshare", CLONE_NEWPID)
        return NAMESPACE
    # Some systems let the first step of it be done and none of the others, so another tries it first.
    child = os.fork()
    if child == 0:
        with suppress(OSError):
            enter_user_namespace()
            os._exit(0)
        os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        return SUBREAPER + "this machine lets this user have no PID namespace"
    enter_user_namespace()
    return USER_NAMESPACE


def enter_user_namespace() -> None:
    """user_namespaces(7): we stay who we are, and everybody else is nobody."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def inner(alive: int, subreaper: bool, argv: list[str]) -> int:
    """Start the kernel, bury orphans, and end all that is left when it is gone; return its exit code."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until we know what to do then
    if subreaper:
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGTERM if subreaper else signal.SIGKILL, 0, 0, 0)
    os.set_blocking(alive, False)
    with suppress(BlockingIOError):
        if os.read(alive, 1) == b"":
            return 125  # the outer one died before we could ask to be told
    os.close(alive)
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel ends when this is no longer its parent
    kernel = os.fork()
    if kernel == 0:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.execvp(argv[0], argv)  # noqa: S606 # jupyter_client's own argument list
    os.setpgid(0, 0)  # what kills the kernel's group is not meant for us: we must end what left that group
    running = True

    def end(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            if running:
                os.kill(kernel, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)  # process 1 gets none from its own namespace
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    while running:
        pid, status = os.wait()
        running = pid != kernel
    while subreaper and kill_children():
        pass
    return os.waitstatus_to_exitcode(status)


def kill_children() -> bool:
    """Kill our children and bury one; theirs become ours. False when there are none."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # proc(5): the second field, the name, is in brackets and may hold brackets and spaces itself.
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
            if parent == os.getpid():
                os.kill(int(stat.parent.name), signal.SIGKILL)
    try:
        os.wait()
    except ChildProcessError:
        return False
    return True


def main(parent: int, told: Path, argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    guard = enter_namespace()
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 125  # it died before we could ask to be told
    told.write_text(guard)
    alive, ours = os.pipe()  # its end that only we hold tells the inner one whether we live
    child = os.fork()
    if child == 0:
        os.close(ours)
        os._exit(code_of(inner(alive, guard.startswith(SUBREAPER), argv)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def code_of(code: int) -> int:
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(code_of(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
