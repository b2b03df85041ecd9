"""How a run ends: what was raised, or what asked it to stop, as a state, a code and a sentence."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen
from types import FrameType
from typing import Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from statelesskit import errors
from statelesskit.errors import CancelledError, KernelDiedError, StatelessError, TimedOutError
from statelesskit.runbook.launch import RunEnded
from statelesskit.service import STOPPING

GRACE_S = 10.0  # for what is interrupted to end by itself
MAX_MESSAGE = 10_000  # characters; the record's notebook has the whole


def ending_of(error: BaseException) -> RunEnded:
    """Say how a run ended that raised this."""
    if isinstance(error, RunEnded):
        return error
    if isinstance(error, CellExecutionError):
        kind = getattr(errors, str(error.ename), None)
        code = kind.exit_code if isinstance(kind, type) and issubclass(kind, StatelessError) else 1
        state = {2: "refused", 3: "refused", 4: "refused", 143: "cancelled"}.get(code, "failed")
        return RunEnded(state, code, f"{error.ename}: {error.evalue}"[:MAX_MESSAGE])
    if isinstance(error, CellTimeoutError):
        return RunEnded("timed-out", TimedOutError.exit_code, "the kernel's messages stopped in a cell")
    if isinstance(error, DeadKernelError):
        return RunEnded("kernel-died", KernelDiedError.exit_code, "the kernel died")
    if isinstance(error, (KeyboardInterrupt, CancelledError)):
        return RunEnded("cancelled", CancelledError.exit_code, "stopped by a signal")
    if isinstance(error, RuntimeError) and str(error).startswith("Kernel died"):  # jupyter_client has no word for it
        return RunEnded("kernel-died", KernelDiedError.exit_code, "the kernel died before the first cell")
    if isinstance(error, RuntimeError) and str(error).startswith("Kernel didn't respond"):
        return RunEnded("timed-out", TimedOutError.exit_code, f"the kernel did not start: {error}")
    if "Timeout" in type(error).__name__:  # Airflow's is no exception of any other kind
        return RunEnded("timed-out", TimedOutError.exit_code, f"{type(error).__name__}: {error}"[:MAX_MESSAGE])
    return RunEnded("failed", getattr(error, "exit_code", 1), f"{type(error).__name__}: {error}"[:MAX_MESSAGE])


class Stopping:
    """Why a run is to stop, if it is, and the kernel that is told so.

    Asking raises nothing, where half-done reads of the kernel's sockets would be left behind. It interrupts the
    kernel, so that the cell ends by itself and its ``finally`` runs; one that has not ended after the grace,
    or when asked a second time, is killed.

    Attributes:
        why: how the run will have ended; None while nobody has asked.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.why: RunEnded | None = None
        self._grace_s = grace_s
        self._closed = False
        self._kernel: Any = None

    def watch(self, kernel: Any) -> None:
        """Name the kernel's manager."""
        self._kernel = kernel

    def close(self) -> None:
        """Heed nothing any more: the cells have ended, and what is being written now tells how."""
        self._closed = True

    def ask(self, why: RunEnded) -> None:
        """Stop the run; the first reason stands."""
        if self._closed:
            return
        if self.why:
            self.signal(signal.SIGKILL)
            return
        self.why = why
        self.signal(signal.SIGINT)
        last_resort = threading.Timer(self._grace_s, self.signal, [signal.SIGKILL])
        last_resort.daemon = True
        last_resort.start()

    def signal(self, number: int) -> None:
        """Signal the kernel and what it started; they are a process group of their own."""
        process: Popen[bytes] | None = getattr(getattr(self._kernel, "provisioner", None), "process", None)
        if process and process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    @contextmanager
    def after(self, limit_s: float | None, what: str) -> Iterator[None]:
        """Stop the run when the block takes longer than that; no limit when it is none or 0."""
        why = RunEnded("timed-out", TimedOutError.exit_code, f"{what} took longer than the {limit_s or 0:g} s it may")
        clock = threading.Timer(limit_s, self.ask, [why]) if limit_s and limit_s > 0 else None
        if clock:
            clock.daemon = True
            clock.start()
        try:
            yield
        finally:
            if clock:
                clock.cancel()

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Have the signals that ask us to stop do so; one that was ignored (``nohup``) stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers; whoever runs us in another one stops us in their own way
            return

        def stop(number: int, frame: FrameType | None) -> None:
            name = signal.Signals(number).name
            self.ask(RunEnded("cancelled", CancelledError.exit_code, f"stopped by a signal ({name})"))

        numbers = [one for one in (signal.SIGINT, *STOPPING) if signal.getsignal(one) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
