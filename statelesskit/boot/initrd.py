"""Take a snapshot's kernel, and build its initrd with its own initramfs-tools and our hook in it.

Everything runs inside the tree, so nothing of this host gets in; what is written there goes to memory, so the tree
stays as it is, even when we are killed. The same tree gives the same bytes.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from statelesskit import fs
from statelesskit.errors import CommandError, NoSpaceError, NotFoundError, PermissionNeededError
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.prototype.sandbox import run_contained

NAME = "statelesskit"
PLACES = {
    "conf": "/etc/initramfs-tools/conf.d/zz-statelesskit",  # the last that is read
    "hook": "/etc/initramfs-tools/hooks/statelesskit",
    "statelesskit": "/etc/initramfs-tools/scripts/statelesskit",
}
INSTALL = "install it in the prototype: statelesskit prototype run NAME -- apt-get install"
LACKING = {  # what `build` ends with
    70: ("no kernel with its modules", f"{INSTALL} linux-image-amd64"),
    71: ("no initramfs-tools", f"{INSTALL} initramfs-tools busybox"),
    72: ("no busybox, which its initrd needs", f"{INSTALL} busybox"),
}


@dataclass(frozen=True, slots=True)
class BootFiles:
    """The kernel's release as ``uname -r`` says it, and the files of kernel and initrd."""

    kernel_release: str
    kernel: Path
    initrd: Path


def build_boot_files(tree: Path, dest: Path, progress: Progress = SILENT) -> BootFiles:
    """Write ``vmlinuz`` and ``initrd.img`` of a snapshot into the folder ``dest``.

    Args:
        tree: an exported tree of it, which is not modified.

    Raises:
        NotFoundError: the snapshot lacks a kernel, initramfs-tools or busybox.
        CommandError: its initramfs-tools failed.
        UsageError: the tree has no folders to mount on.
        PermissionNeededError: we are not root.
        NoSpaceError: it does not fit into ``dest``, or what its tools write not into memory.

    After an error, what an earlier build left in ``dest`` is there, and nothing else of this one.
    """
    if os.geteuid() != 0:
        raise PermissionNeededError("only root can build an initrd in a snapshot's tree", hint="run it with sudo")
    progress.stage("finding the kernel")
    with tempfile.TemporaryFile() as told:
        _build(tree, "release", told.fileno())
        told.seek(0)
        release = told.read().decode(errors="backslashreplace").strip()
    kernel, initrd = dest / "vmlinuz", dest / "initrd.img"
    with fs.new_file(kernel) as kernel_fd, fs.new_file(initrd) as initrd_fd:
        _build(tree, "kernel", kernel_fd)
        progress.stage(f"building the initrd of Linux {printable(release)}")
        _build(tree, "initrd", initrd_fd)
    return BootFiles(release, kernel, initrd)


def _build(tree: Path, what: str, out: int) -> None:
    """Run ``resources/initramfs/build`` in the tree, its output to an open file."""
    resources = files("statelesskit") / "resources/initramfs"
    script = (resources / "build").read_text("utf-8")
    placed = {place: (resources / name).read_text("utf-8") for name, place in PLACES.items()}
    argv = ["sh", "-c", script, "build", what]
    with tempfile.TemporaryFile() as errors, Path(os.devnull).open("rb") as nothing:
        code = run_contained(
            tree, argv, name=NAME, network=False, untouched=True, files=placed,
            stdin=nothing.fileno(), stdout=out, stderr=errors.fileno(),
        )  # fmt: skip
        errors.seek(0)
        said = errors.read().decode(errors="backslashreplace")
    if code in LACKING:
        lacks, hint = LACKING[code]
        raise NotFoundError(f"{printable(tree)} has {lacks}", hint=hint)
    if code and "No space left on device" in said:
        raise NoSpaceError(
            f"no space left for the {what} of {printable(tree)}: where it is to be kept, or in memory",
            hint="free some space and try again; nothing half-made was left",
        )
    if code:
        raise CommandError(["build", what], code, "\n".join(printable(line) for line in said.splitlines()))
