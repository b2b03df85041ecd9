"""The trees that are measured: a Debian root through a real upgrade, a large one, and ones that grow."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from statelesskit.progress import SILENT
from statelesskit.prototype.sources import debian

PACKAGES = "linux-image-cloud-amd64 initramfs-tools busybox systemd-sysv perl python3 git openssh-server"
MORE = "vim nginx-light postgresql-client"
LARGE_MAX = 16 * 1024 * 1024  # bytes; larger files of /usr are left out of the large root
FOLDER = 500  # files in each folder of a tree that grows


@dataclass(frozen=True)
class Root:
    """A tree that is measured at ``live``, before and after it is upgraded there.

    Attributes:
        before: the tree as it is to begin with, never changed.
        change: brings ``live`` from before to after in place; what does not change keeps inode and ctime.
    """

    name: str
    before: Path
    live: Path
    change: Callable[[Path], None]

    @property
    def _state(self) -> Path:
        return self.live.with_suffix(".state")

    def is_reset(self) -> bool:
        return self._state.exists() and self._state.read_text() == "before"

    def reset(self) -> None:
        """Make ``live`` as it is before."""
        if not self.is_reset():
            self._state.write_text("between")
            make_like(self.before, self.live)
            self._state.write_text("before")

    def upgrade(self) -> None:
        self.reset()
        self._state.write_text("between")
        self.change(self.live)
        self._state.write_text("after")


def small_root(work: Path) -> Root:
    """Return a Debian root as released, which the security updates and more packages are then installed in."""
    trees = work / "trees"
    before, after = trees / "small-before", trees / "small-after"
    if not (trees / "small.done").exists():
        for path in (before, after):
            shutil.rmtree(path, ignore_errors=True)
        before.mkdir(parents=True)
        release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
        suite = release["VERSION_CODENAME"].strip('"')
        with patch.object(debian, "POCKETS", ("",)):
            debian.build(suite, before, SILENT)
        install = "apt-get -q install -y --no-install-recommends"
        inside(before, f"apt-get -q update && {install} {PACKAGES} && apt-get clean")
        subprocess.run(["cp", "-a", before, after], check=True)
        targets = [target for target in debian.host_targets() if target.belongs_to(suite)]
        (after / "etc/apt/sources.list.d/host.sources").write_text(debian.sources_for(targets))
        inside(after, f"apt-get -q update && apt-get -q dist-upgrade -y && {install} {MORE} && apt-get clean")
        for node in (*before.glob("dev/*"), *after.glob("dev/*")):  # ostree takes no devices
            shutil.rmtree(node) if node.is_dir() and not node.is_symlink() else node.unlink()
        (trees / "small.done").touch()
    return Root("small", before, trees / "small-live", lambda live: make_like(after, live))


def large_root(work: Path) -> Root:
    """Return a copy of this machine's own /usr without the largest files; every twentieth file changes."""
    trees = work / "trees"
    before = trees / "large-before"
    if not (trees / "large.done").exists():
        shutil.rmtree(before, ignore_errors=True)
        before.mkdir(parents=True)
        command = ["rsync", "-aHAXSx", "--numeric-ids", f"--max-size={LARGE_MAX}", "/usr", f"{before}/"]
        subprocess.run(command, check=True)
        (before / "etc").mkdir()  # without which it is no root tree
        (trees / "large.done").touch()

    def change(live: Path) -> None:
        files = sorted(path for path in live.rglob("*") if path.is_file() and not path.is_symlink())
        for path in files[::20]:
            with path.open("ab") as file:
                file.write(b"changed\n")

    return Root("large", before, trees / "large-live", change)


def growing_roots(work: Path, amounts: list[int]) -> dict[int, Path]:
    """Return for each amount a tree of that many small files, all different; each lies in the next larger one."""
    top = work / "trees/growth"
    roots = {}
    path = top
    for amount in sorted(amounts, reverse=True):
        path = path / f"usr{amount}" if path == top else path / f"usr/n{amount}"
        roots[amount] = path
    done = work / "trees/growth.done"
    wanted = " ".join(map(str, sorted(amounts)))
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(top, ignore_errors=True)
        held = 0
        for amount, path in sorted(roots.items()):
            fill(path / "usr", amount - held, seed=amount)
            held = amount
        done.write_text(wanted)
    return roots


def fill(folder: Path, files: int, *, seed: int = 0) -> None:
    """Make files of some hundred bytes, no two of the same content, in folders of ``FOLDER``."""
    for number in range(files):
        if number % FOLDER == 0:
            place = folder / f"d{number // FOLDER:05}"
            place.mkdir(parents=True)
        text = f"{seed} {number * 2654435761 % 2**32:x}\n" * (number % 40 + 1)
        fd = os.open(f"{place}/f{number % FOLDER}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, text.encode())
        os.close(fd)


def make_like(source: Path, target: Path) -> None:
    """Make ``target`` like ``source`` in place, touching only what differs in content or metadata."""
    target.mkdir(exist_ok=True)
    command = ["rsync", "-aHAXS", "--numeric-ids", "--delete", "--checksum", f"{source}/", f"{target}/"]
    subprocess.run(command, check=True)


def inside(tree: Path, command: str) -> None:
    """Run a command in a tree, in namespaces of its own."""
    from statelesskit.prototype import Prototype
    from statelesskit.prototype.sandbox import _run

    prototype = Prototype("bench", tree, "", datetime.now(UTC), "", "")
    if _run(prototype, ["sh", "-ec", command], network=True):
        raise RuntimeError(f"{command} failed in {tree}")
