"""Threads that are over when their block is: after an error, after Ctrl-C, and after a second one.

``Thread.join`` can't be trusted with that: interrupted by a signal's exception, Python 3.11 takes the thread
for ended while it goes on (bpo-45274), and it would write to what is being removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Workers:
    """Runs a function in several threads while the block runs, and waits for them at its end.

    What is raised in the block or in one of the threads is the :attr:`failure`. The function looks at it
    often and ends when it is there; it is raised when all have ended.
    """

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        """Take the function; it is called with the thread's number, from 0."""
        self.failure: BaseException | None = None
        self._work = work
        self._begin = threading.Event()
        self._ended = [threading.Event() for _ in range(count)]

    def __enter__(self) -> Self:
        threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(len(self._ended))]
        try:
            for thread in threads:
                thread.start()
            self._begin.set()
        except BaseException as error:
            self.failure = error
            self._begin.set()
            # One that has no identity has not begun; if it ever does, it will see the failure first.
            self._wait([ended for thread, ended in zip(threads, self._ended, strict=True) if thread.ident])
            raise
        return self

    def _run(self, number: int) -> None:
        self._begin.wait()
        try:
            if not self.failure:
                self._work(number)
        except BaseException as error:
            self.failure = self.failure or error
        finally:
            self._ended[number].set()

    def _wait(self, for_: list[threading.Event]) -> None:
        while True:
            try:
                for ended in for_:
                    ended.wait()
                return
            except BaseException as error:  # a signal
                self.failure = self.failure or error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.failure = self.failure or error
        self._wait(self._ended)
        if self.failure and error is None:
            raise self.failure
