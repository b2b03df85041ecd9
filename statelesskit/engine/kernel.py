"""The kernel of a run: under guard, on sockets of its own."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager

from statelesskit.engine import guard


class GuardedKernel(AsyncKernelManager):  # type: ignore[misc]
    """Starts the kernel's command through :mod:`statelesskit.engine.guard`."""

    def __init__(self, kernel_name: str, folder: Path) -> None:
        super().__init__(kernel_name=kernel_name, transport="ipc")
        # A name of its own: without it all kernels of one working folder would share theirs.
        self.connection_file, self.ip = str(folder / "kernel.json"), str(folder / "kernel")
        self._told = folder / "guard"

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        command: list[str] = super().format_kernel_cmd(extra_arguments)
        script = [sys.executable, "-I", "-S", guard.__file__]
        return [*script, str(os.getpid()), str(self._told), *command]

    def guarded_by(self) -> str:
        """Return what keeps the kernel's processes, as the guard told it."""
        try:
            return self._told.read_text()
        except FileNotFoundError:
            return guard.SUBREAPER + "it did not tell"


@contextmanager
def kernel_of(kernel_name: str) -> Iterator[GuardedKernel]:
    """Make a kernel's manager. Its sockets are in a folder of our user alone, where TCP ports would be open to all."""
    with tempfile.TemporaryDirectory(prefix="statelesskit-") as folder:
        yield GuardedKernel(kernel_name, Path(folder))
