"""Run commands in turn, round after round, and compare their medians: a ratio holds when the machine's speed drifts."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# An installed tool has its bytecode, whatever the one who measures sets for himself.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Contender:
    """One way to do a job.

    Attributes:
        before: brings the world to the state each run starts from; not timed.
        command: run by a shell, so that pipes can be measured; timed with all its children. ``$ROUND`` is the
            number of the round, from 0.
        sizes: the files and folders whose size afterwards is told.
        rounds: at most so many, for one that is slow.
    """

    name: str
    command: str
    before: Callable[[], object] = lambda: None
    sizes: tuple[Path, ...] = ()
    rounds: int = 100


@dataclass
class Row:
    """What was measured of one contender.

    Attributes:
        cpu_s: user and system time of the command and all its children.
        peak_mb: of the largest of its processes, in the worst round.
        amount: of files or snapshots, where a job is measured at several sizes.
        failed: why there is no figure.
    """

    name: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    stored_mb: float = 0.0
    amount: int = 0
    failed: str = ""

    @property
    def wall(self) -> float:
        return statistics.median(self.wall_s)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_s)

    def run(self, command: str, number: int = 0) -> None:
        """Run a command once and note what it took; a command that fails is not run again."""
        if self.failed:
            return
        try:
            wall, cpu, peak = timed(command, number)
        except CommandError as error:
            self.failed = str(error)
            return
        self.wall_s.append(wall)
        self.cpu_s.append(cpu)
        self.peak_mb = max(self.peak_mb, peak)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def race(contenders: Sequence[Contender], rounds: int) -> list[Row]:
    """Let each contender run once a round, in turn."""
    rows = [Row(contender.name) for contender in contenders]
    for number in range(rounds):
        for contender, row in zip(contenders, rows, strict=True):
            if number >= contender.rounds or row.failed:
                continue
            contender.before()
            subprocess.run(["sync"], check=True)
            row.run(contender.command, number)
            row.stored_mb = stored_mb(contender.sizes)
            shown = f"{row.wall_s[-1]:8.2f} s {row.cpu_s[-1]:8.2f} s CPU" if not row.failed else row.failed
            print(f"  {number + 1}/{rounds} {contender.name:32} {shown}", flush=True)
    return rows


class CommandError(Exception):
    """A measured command ended with an error."""


def timed(command: str, number: int = 0) -> tuple[float, float, float]:
    """Run a shell command; return its wall and processor time in seconds, and its largest process in MB.

    GNU time stands between, as a process starts with the peak of the one that made it (getrusage(2)).
    """
    with tempfile.NamedTemporaryFile("r") as peak, tempfile.TemporaryFile() as errors:
        argv = ["/usr/bin/time", "-q", "-f", "%M", "-o", peak.name, "/bin/sh", "-ec", command]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
        ]
        began = time.monotonic()
        pid = os.posix_spawn(argv[0], argv, {**ENVIRONMENT, "ROUND": str(number)}, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic() - began
        if status:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines() or ["nothing was said"]
            raise CommandError(f"it ended with {os.waitstatus_to_exitcode(status)}: {said[-1][:120]}")
        return wall, usage.ru_utime + usage.ru_stime, int(peak.read()) / 1024


def stored_mb(paths: Iterable[Path]) -> float:
    """Return what files and folders take on the disk, in MB."""
    if not (there := [path for path in paths if path.exists()]):
        return 0.0
    done = subprocess.run(["du", "-sc", "--block-size=1", *there], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0]) / 1e6


def warm(*folders: Path) -> None:
    """Read all files once, so that each contender finds them in memory."""
    for folder in folders:
        subprocess.run(f"tar -C {folder} -cf - . | cat >/dev/null", shell=True, check=True, capture_output=True)


def raise_limits() -> None:
    """Peers open many files too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
