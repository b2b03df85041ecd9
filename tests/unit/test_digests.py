"""The compact set of digests is a set, for many threads too."""

from __future__ import annotations

import hashlib
import random
import threading

from statelesskit.digests import SIZE, DigestSet


def test_it_holds_what_was_added() -> None:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(2000)]
    found = DigestSet(digests[:1000])
    assert [found.add(digest) for digest in digests] == [False] * 1000 + [True] * 1000
    assert len(found) == 2000
    assert all(digest in found for digest in digests)
    assert hashlib.sha256(b"other").digest() not in found
    assert set(found) == set(digests)


def test_what_lies_across_two_others_is_not_held() -> None:
    zeros, ones = bytes(SIZE), bytes(2) + b"\1" * (SIZE - 2)
    across = (ones + zeros)[: SIZE + 8][8:]  # has other first bytes, so it is never even looked for
    inside = bytes(SIZE - 8) + bytes(2) + b"\1" * 6  # the end of the one and the beginning of the other
    found = DigestSet([zeros, ones])
    assert across not in found
    assert inside not in found
    assert found.add(inside)
    assert inside in found
    assert set(found) == {zeros, ones, inside}


def test_of_many_threads_one_is_told_that_it_was_new() -> None:
    digests = [random.Random(number).randbytes(SIZE) for number in range(3000)]
    found, new = DigestSet(), [0] * 4

    def add(thread: int) -> None:
        for digest in digests:
            new[thread] += found.add(digest)

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == len(found) == 3000
