"""Let an iterator work ahead in a thread of its own, where that releases Python's lock: reading, unpacking, hashing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

from statelesskit.workers import Workers

T = TypeVar("T")
MOST = 3  # items made and not yet asked for


def ahead(items: Iterator[T]) -> Generator[T]:
    """Yield the same items, and raise the same error. The thread has ended when this has ended, or was closed."""
    room = threading.Semaphore(MOST)
    made: queue.SimpleQueue[tuple[T, ...]] = queue.SimpleQueue()

    def work(_: int) -> None:
        try:
            for item in items:
                made.put((item,))
                while not room.acquire(timeout=0.2) and not worker.failure:
                    pass
                if worker.failure:
                    return
        finally:
            made.put(())

    with (worker := Workers(1, work)):
        while got := made.get():
            room.release()
            yield got[0]
