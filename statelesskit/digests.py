"""A set of SHA-256 digests in little memory: 40 bytes for each of a million, where Python's own takes 140."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

SIZE = 32  # bytes of a digest
BUCKETS = 1 << 16  # a digest's first two bytes say which


class DigestSet:
    """Grows only. Any number of threads may add at once, and of two who add the same one is told it was new."""

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self._buckets: list[bytearray | None] = [None] * BUCKETS
        self._lock = threading.Lock()
        self._count = 0
        for digest in digests:
            self.add(digest)

    def add(self, digest: bytes) -> bool:
        """Add a digest; say whether it was new."""
        with self._lock:
            number = digest[0] << 8 | digest[1]
            bucket = self._buckets[number]
            if bucket is None:
                self._buckets[number] = bytearray(digest)
            elif _holds(bucket, digest):
                return False
            else:
                bucket += digest
            self._count += 1
            return True

    def __contains__(self, digest: bytes) -> bool:
        bucket = self._buckets[digest[0] << 8 | digest[1]]
        return bucket is not None and _holds(bucket, digest)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        """Yield all, those with the same first two bytes together."""
        for bucket in self._buckets:
            if bucket:
                yield from (bytes(bucket[start : start + SIZE]) for start in range(0, len(bucket), SIZE))


def _holds(bucket: bytearray, digest: bytes) -> bool:
    place = bucket.find(digest)
    while place > 0 and place % SIZE:  # across two others: so improbable that it can only be meant
        place = bucket.find(digest, place + 1)
    return place >= 0
