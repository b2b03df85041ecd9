"""Threads that are over when their block is: after an error, after Ctrl-C, and after a second one.

Neither ``Thread.start`` and ``Thread.join`` nor ``threading.Event`` can be trusted with that. Interrupted by a
signal's exception, ``join`` takes the thread for ended while it goes on, and it would write to what is being
removed (bpo-45274); ``wait`` raises "release unlocked lock" instead of what the signal raised; and a signal that
comes just before it falls asleep is not seen until it wakes. So we look again and again at what nobody can spoil.
"""

from __future__ import annotations

import queue
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Workers:
    """Runs a function in several threads while the block runs, and waits for them at its end.

    What is raised in the block or in one of the threads is the :attr:`failure`. The function looks at it
    often and ends when it is there; it is raised when all have ended.

    A block that has nothing more to do waits by :meth:`wait`, as its last line: a signal that comes when this one's
    ``__exit__`` is just being called, outside of any ``try``, would be raised with nobody waited for.
    """

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        """Take the function; it is called with the thread's number, from 0."""
        self.failure: BaseException | None = None
        self._work = work
        self._begin = allocate_lock()  # held until all have been started
        self._working = set(range(count))
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes who waits; it proves nothing

    def __enter__(self) -> Self:
        all_started = False
        self._begin.acquire()
        try:
            for number in range(len(self._working)):
                start_new_thread(self._run, (number,))
            all_started = True
            self._begin.release()
        except BaseException as error:
            self.failure = error
            if all_started:
                self.wait()
            else:
                self._begin.release()  # those that have been started see the failure before anything else
            raise
        return self

    def _run(self, number: int) -> None:
        try:
            with self._begin:
                pass
            if not self.failure:
                self._work(number)
        except BaseException as error:
            self.failure = self.failure or error
        finally:
            self._working.discard(number)
            self._ended.put(None)

    def wait(self) -> None:
        """Wait until all threads have ended."""
        while self._working:
            try:
                with suppress(queue.Empty):
                    self._ended.get(timeout=0.2)
            except BaseException as error:  # a signal
                self.failure = self.failure or error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.failure = self.failure or error
        self.wait()
        if self.failure and error is None:
            raise self.failure
