"""A script, not a module to call: runs one command so that nothing of it outlives it, or us.

    STATELESSKIT_CONTAINED='{"parent": PID, "faults": FD, …}' python -I contained.py COMMAND ARGUMENT…

(The settings are in the environment because everybody on the host can read a command line.) The
command gets mount and PID namespaces of its own. With ``tree`` it also gets that tree as its
root, with private /proc, /dev, /run and /tmp; with ``untouched`` what it writes there goes to memory and is
gone with it. Every mount is made after the tree has become the root
and the host's root is gone, so a symlink in the tree can lead a mount nowhere but into the tree.

Two processes: the outer one stands in for the command outside, the inner one is process 1 of the
namespace. The kernel kills the outer one when our caller dies, the inner one when the outer one dies,
and everything else in the namespace, its mounts included, when the inner one does.

Standard library only, all imported before the root changes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

SETTINGS = "STATELESSKIT_CONTAINED"

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
# What a maintainer script could do to the host's kernel by accident: modules, ports and memory, reboot, clock.
DROPPED_CAPABILITIES = (16, 17, 22, 25)
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
DEVICE_LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
MOUNT_POINTS = ("proc", "sys", "dev", "run", "tmp")
PRIVATE = ("dev", "run", "tmp")  # of these, what is written is gone with the namespace
RESOLV_CONF, APT_CONF = Path("/run/statelesskit/resolv.conf"), Path("/run/statelesskit/apt.conf")
MARK = "trusted.statelesskit.mount_point"  # on an empty file that a killed run could leave

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library; raise OSError naming it when it fails."""
    passed = [os.fsencode(one) if isinstance(one, str) else one for one in arguments]
    if getattr(libc, name)(*passed) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name} {' '.join(str(one) for one in arguments if one)}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    call("mount", source, target, kind, ctypes.c_ulong(flags), options)


def read_only(path: str) -> None:
    mount(path, path, None, MS_BIND | MS_REC)
    mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def enter(tree: str) -> None:
    """Make ``tree`` the root, leave the host's behind, and mount what a running system has."""
    mount(tree, tree, None, MS_BIND | MS_REC)
    os.chdir(tree)
    call("pivot_root", ".", ".")
    call("umount2", ".", MNT_DETACH)
    os.chdir("/")
    os.umask(0)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in ("/proc/sys", "/proc/sysrq-trigger"):  # the host's kernel, not the tree's; not every kernel has both
        if Path(name).exists():
            read_only(name)
    mount("sysfs", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108 # the tree's own
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755")
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name, target in DEVICE_LINKS.items():
        Path("/dev", name).symlink_to(f"/proc/self/{target}")
    for name, mode in (("/dev/pts", 0o755), ("/dev/shm", 0o1777), ("/run/lock", 0o1777)):  # noqa: S108
        Path(name).mkdir(mode)
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    Path("/dev/ptmx").symlink_to("pts/ptmx")
    os.umask(0o022)


def cover(tree: str) -> str:
    """Return a root that shows ``tree``, in our namespace alone, where what is written goes to memory."""
    os.chdir(tree)
    mount("tmpfs", tree, "tmpfs", MS_NODEV, "mode=700")
    for name in ("lower", "upper", "work", "root"):
        Path(tree, name).mkdir(0o755)
    mount(".", f"{tree}/lower", None, MS_BIND)  # we still stand in the tree that the tmpfs hides
    os.chdir(tree)  # so that the options hold no name that might need escaping
    mount("overlay", "root", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work")
    return f"{tree}/root"


def write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


@contextmanager
def mount_point(path: Path) -> Iterator[None]:
    """Lend a file to mount over. One that is not there is made, removed again, and its folder's time put back.

    If we are killed meanwhile it stays: empty, and marked, so that the next one to need it removes it.
    """
    if os.path.lexists(path) and not is_marked(path):
        yield
        return
    before = path.parent.stat()
    path.touch(0o644)
    with suppress(OSError):
        os.setxattr(path, MARK, b"")
    after = path.parent.stat()
    try:
        yield
    finally:
        untouched = path.parent.stat().st_mtime_ns == after.st_mtime_ns
        path.unlink()
        if untouched:
            os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))


def is_marked(path: Path) -> bool:
    with suppress(OSError):
        return MARK in os.listxattr(path, follow_symlinks=False)
    return False


@contextmanager
def name_service(text: bytes) -> Iterator[None]:
    """Let the tree see the host's resolv.conf; a symlink into /run gets its target there."""
    path = Path("/etc/resolv.conf").resolve()
    if path.parts[1] in PRIVATE:
        write(path, text)
        yield
        return
    write(RESOLV_CONF, text)
    with mount_point(path):
        mount(str(RESOLV_CONF), str(path), None, MS_BIND)
        try:
            mount(None, str(path), None, MS_REMOUNT | MS_BIND | MS_RDONLY)
            yield
        finally:
            call("umount2", str(path), MNT_DETACH)


def prepare(settings: dict[str, Any], undo: ExitStack) -> None:
    """Set up the sandbox of a tree; ``undo`` takes back what is done to the tree itself."""
    resolv_conf = Path("/etc/resolv.conf")
    names = resolv_conf.read_bytes() if resolv_conf.exists() else b""
    socket.sethostname(settings["hostname"])
    enter(cover(settings["tree"]) if settings["untouched"] else settings["tree"])
    for name, text in settings["files"].items():
        write(Path(name), text.encode())
    if settings["network"]:
        try:
            undo.enter_context(name_service(names))
        except (OSError, RuntimeError) as error:
            print(f"statelesskit: the command cannot resolve names: {error}", file=sys.stderr, flush=True)
    for capability in DROPPED_CAPABILITIES:
        call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)


def inner(settings: dict[str, Any], argv: list[str]) -> int:
    """Be process 1: start the command, pass signals on to it, bury orphans, return its exit code."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    with ExitStack() as undo:
        if settings.get("tree"):
            prepare(settings, undo)
        else:
            mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        try:
            command = subprocess.Popen(argv)
        except OSError as error:
            raise Fault("command", f"{argv[0]} cannot be run there: {error.strerror}") from error
        pass_signals_to(command.pid)
        pid = 0
        while pid != command.pid:
            pid, status = os.wait()
    return os.waitstatus_to_exitcode(status)


def pass_signals_to(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: send(pid, number))


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Fault(Exception):  # noqa: N818 # crosses a process boundary as text
    """Why the command was not run: ``command``, ``permission`` or ``setup``, and a sentence."""


def main(settings: dict[str, Any], argv: list[str]) -> int:
    # Ctrl-C reaches the command from the terminal too; it decides. A handler, unlike SIG_IGN, ends at exec.
    signal.signal(signal.SIGINT, lambda *_: None)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != settings["parent"]:
        return 125  # it died before we could ask to be told
    os.umask(0o022)
    namespaces = CLONE_NEWNS | CLONE_NEWPID
    if settings.get("tree"):
        namespaces |= CLONE_NEWUTS | CLONE_NEWIPC | (0 if settings["network"] else CLONE_NEWNET)
    call("unshare", namespaces)
    child = os.fork()
    if child == 0:
        return inner(settings, argv)
    pass_signals_to(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    given = json.loads(os.environ.pop(SETTINGS))
    try:
        code = main(given, sys.argv[1:])
        os._exit(code if code >= 0 else 128 - code)
    except Fault as error:
        fault = error.args
    except PermissionError as error:
        fault = ("permission", str(error))
    except OSError as error:
        fault = ("setup", str(error))
    os.write(given["faults"], json.dumps(fault).encode() + b"\n")
    os._exit(125)
