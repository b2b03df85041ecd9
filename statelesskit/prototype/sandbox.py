"""Run a command inside a prototype's tree, as if that tree were running, and leave no trace but its work."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from statelesskit.config import Site
from statelesskit.errors import EnvironmentLacksError, PermissionNeededError, StatelessError, UsageError
from statelesskit.lock import held
from statelesskit.names import printable
from statelesskit.prototype import contained
from statelesskit.prototype.registry import Prototype
from statelesskit.prototype.sources.debian import host_settings
from statelesskit.run import SYSTEM_PATH

GRACE_S = 10  # for a cancelled command to end by itself
PASSED_ON = ("COLORTERM", "DEBIAN_FRONTEND", "TERM", "http_proxy", "https_proxy", "no_proxy")
FAULTS: dict[str, type[StatelessError]] = {
    "command": UsageError,
    "permission": PermissionNeededError,
    "setup": EnvironmentLacksError,
}


def run_in(prototype: Prototype, argv: Sequence[str], *, site: Site, network: bool = True) -> int:
    """Run a command with the prototype's tree as its root; return its exit code (128 + N for a signal N).

    It has the caller's standard streams, and namespaces of its own for mounts, processes, host name and
    IPC: private /proc, /dev, /run and /tmp, the host's resolv.conf, a fresh environment. Packages start
    no services, because with an empty /run neither systemctl nor invoke-rc.d sees a running system.
    When the command ends, all it started ends. The prototype's lock is held meanwhile.

    Args:
        network: false leaves it without any network interface that is up.

    Raises:
        UsageError: the tree lacks a folder to mount on, or the command.
        PermissionNeededError: we are not root, or root may not make namespaces here.
        LockedError: somebody else works on the prototype.
    """
    if not argv:
        raise UsageError("no command was given", hint="statelesskit prototype run NAME -- apt-get update")
    if os.geteuid() != 0:
        raise PermissionNeededError("only root can run a command in a prototype", hint="run it with sudo")
    doing = f"run {printable(argv[0])}"
    with held(site.lock_file(f"prototype/{prototype.name}"), what=f"prototype {prototype.name}", doing=doing):
        return run_contained(prototype.tree, list(argv), name=prototype.name, network=network)


def _require_mount_points(tree: Path) -> None:
    for name in contained.MOUNT_POINTS:
        try:
            there = stat.S_ISDIR(os.lstat(tree / name).st_mode)
        except FileNotFoundError:
            there = False
        if not there:
            raise UsageError(
                f"the tree {printable(tree)} has no folder {name}/ to mount on (a symlink is none)",
                hint=f"a machine that boots it needs that folder too: mkdir {printable(tree / name)}",
            )


def run_contained(
    tree: Path,
    argv: Sequence[str],
    *,
    name: str,
    network: bool,
    untouched: bool = False,
    files: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> int:
    """Run a command with a tree as its root, as :func:`run_in` says; no lock is held.

    Args:
        name: the host name it sees.
        untouched: what it writes goes to memory and is gone when it ends.
        files: text by absolute path, written into the tree before.
        stdin, stdout, stderr: open files; without them they are the caller's.

    Raises:
        UsageError, PermissionNeededError: as for :func:`run_in`.
    """
    _require_mount_points(tree)
    environment = {
        "DEBIAN_FRONTEND": "noninteractive",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LOGNAME": "root",
        "PATH": SYSTEM_PATH,
        "SYSTEMD_OFFLINE": "1",
        "TERM": "dumb",
        "USER": "root",
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
    }
    apt_conf = host_settings() if network else ""
    if apt_conf:
        environment["APT_CONFIG"] = str(contained.APT_CONF)
    faults, faults_end = os.pipe()
    with os.fdopen(faults, "rb") as told:
        try:
            settings = {
                "parent": os.getpid(),
                "faults": faults_end,
                "tree": str(tree),
                "hostname": name,
                "network": network,
                "untouched": untouched,
                "files": {**({str(contained.APT_CONF): apt_conf} if apt_conf else {}), **(files or {})},
            }
            process = subprocess.Popen(
                [sys.executable, "-I", contained.__file__, *argv],
                env={contained.SETTINGS: json.dumps(settings), **environment},
                pass_fds=[faults_end],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
        finally:
            os.close(faults_end)
        code = _wait(process)
        fault = told.readline()
    if fault:
        kind, message = json.loads(fault)
        raise FAULTS[kind](f"in the tree of {name}: {printable(message)}")
    return code


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        while True:
            try:
                code = process.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:
                # Typed at a terminal it reached the command too, and an editor or a shell wants to stay.
                if not os.isatty(0):
                    raise
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
