"""Workers are over when their block is, whatever ends it."""

from __future__ import annotations

import signal
import time
from types import FrameType

import pytest

from statelesskit.workers import Workers


class Slow:
    """Works in small steps until it is told to stop; a step is never cut short."""

    def __init__(self, count: int = 3) -> None:
        self.workers = Workers(count, self.work)
        self.active = 0
        self.steps = 0

    def work(self, number: int) -> None:
        while not self.workers.failure:
            self.active += 1
            time.sleep(0.05)
            self.active -= 1
            self.steps += 1


def test_each_thread_has_its_number_and_all_are_waited_for() -> None:
    seen: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.01 * number)
        seen.append(number)

    with Workers(4, work):
        pass
    assert sorted(seen) == [0, 1, 2, 3]


def test_an_error_in_a_thread_is_raised_when_all_have_ended() -> None:
    slow = Slow(1)
    failing = Workers(1, lambda number: 1 // number)
    with pytest.raises(ZeroDivisionError), failing:
        pass
    with pytest.raises(ZeroDivisionError), slow.workers:
        raise failing.failure or AssertionError
    assert slow.active == 0


@pytest.mark.parametrize("delay", [0.0001, 0.001, 0.01, 0.06])
@pytest.mark.parametrize("again", [0, 0.0005, 0.02])
def test_after_a_signal_nobody_works_any_more(delay: float, again: float) -> None:
    left = iter(range(2))

    def stop(number: int, frame: FrameType | None) -> None:
        if next(left, None) is not None:
            raise KeyboardInterrupt

    slow = Slow()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted(slow, delay, again)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert slow.active == 0
    steps = slow.steps
    time.sleep(0.1)
    assert slow.steps == steps


def interrupted(slow: Slow, delay: float, again: float) -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, delay, again)
        with slow.workers:
            slow.workers.wait()  # which is where it is interrupted
        time.sleep(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
