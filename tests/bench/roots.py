"""The trees that are measured: a real Debian root before and after an upgrade, and a large one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from statelesskit.progress import SILENT
from statelesskit.prototype.sources import debian


def small_roots(work: Path) -> tuple[Path, Path]:
    """Return a Debian root with kernel and initrd, and the same root after packages were added and upgraded."""
    before, after = work / "trees/small-before", work / "trees/small-after"
    if not (work / "trees/small.done").exists():
        shutil.rmtree(work / "trees", ignore_errors=True)
        before.mkdir(parents=True)
        release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
        suite = release["VERSION_CODENAME"].strip('"')
        debian.build(suite, before, SILENT)
        inside(
            before,
            "apt-get -q update && apt-get -q install -y --no-install-recommends "
            "linux-image-cloud-amd64 initramfs-tools busybox systemd-sysv perl python3 git openssh-server",
        )
        subprocess.run(["cp", "-a", before, after], check=True)
        inside(
            after,
            "apt-get -q install -y --no-install-recommends vim nginx-light linux-image-amd64 && update-initramfs -u",
        )
        for node in (*before.glob("dev/*"), *after.glob("dev/*")):  # ostree takes no devices
            shutil.rmtree(node) if node.is_dir() and not node.is_symlink() else node.unlink()
        (work / "trees/small.done").touch()
    return before, after


def large_root(work: Path) -> tuple[Path, Path]:
    """Return a copy of this machine's own /usr, and the same with every twentieth file changed."""
    before, after = work / "trees/large-before", work / "trees/large-after"
    if not (work / "trees/large.done").exists():
        for path in (before, after):
            shutil.rmtree(path, ignore_errors=True)
        before.mkdir(parents=True)
        subprocess.run(["cp", "-a", "-x", "/usr", before / "usr"], check=True)
        subprocess.run(["cp", "-a", before, after], check=True)
        files = sorted(path for path in after.rglob("*") if path.is_file() and not path.is_symlink())
        for path in files[::20]:
            with path.open("ab") as file:
                file.write(b"changed\n")
        (work / "trees/large.done").touch()
    return before, after


def inside(tree: Path, command: str) -> None:
    """Run a command in a tree, in namespaces of its own."""
    from datetime import UTC, datetime

    from statelesskit.prototype import Prototype
    from statelesskit.prototype.sandbox import _run

    prototype = Prototype("bench", tree, "", datetime.now(UTC), "", "")
    if _run(prototype, ["sh", "-ec", command], network=True):
        raise RuntimeError(f"{command} failed in {tree}")
