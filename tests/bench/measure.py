"""Run commands in turn, round after round, and compare their medians: a ratio holds when the machine's speed drifts."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Contender:
    """One way to do a job.

    Attributes:
        before: brings the world to the state each run starts from; not timed.
        command: run by a shell, so that pipes can be measured; timed with all its children.
        size: the folder whose size afterwards is told.
    """

    name: str
    command: str
    before: Callable[[], None] = lambda: None
    size: Path | None = None
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    stored_mb: float = 0.0

    @property
    def wall(self) -> float:
        return statistics.median(self.wall_s)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_s)


def race(contenders: Sequence[Contender], rounds: int) -> None:
    """Let each contender run once a round, after one round that is not counted."""
    for number in range(rounds + 1):
        for contender in contenders:
            contender.before()
            subprocess.run(["sync"], check=True)
            wall, cpu, peak = timed(contender.command)
            if number:
                contender.wall_s.append(wall)
                contender.cpu_s.append(cpu)
            contender.peak_mb = max(contender.peak_mb, peak)
            if contender.size is not None:
                contender.stored_mb = folder_mb(contender.size)


def timed(command: str) -> tuple[float, float, float]:
    """Run a shell command; return its wall and processor time in seconds, and its largest process in MB."""
    began = time.monotonic()
    pid = os.posix_spawn("/bin/sh", ["/bin/sh", "-ec", command], dict(os.environ), file_actions=_quiet())
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - began
    if status:
        raise RuntimeError(f"{command!r} ended with {os.waitstatus_to_exitcode(status)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _quiet() -> list[tuple[int, ...]]:
    return [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]  # type: ignore[list-item]


def folder_mb(path: Path) -> float:
    """Return what a folder takes, in MB."""
    done = subprocess.run(["du", "-s", "--block-size=1", path], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) / 1e6


def raise_limits() -> None:
    """Peers open many files too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
