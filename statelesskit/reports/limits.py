"""How often one address may ask: a bucket that fills with time, of a bounded number of addresses."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

ADDRESSES = 4096


class Limit:
    """So many requests at once from one address, and then so many a second; an IPv6 network of 64 bits is one."""

    def __init__(self, at_once: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once, self._per_s, self._clock = at_once, per_s, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str | None) -> bool:
        """Count one request; say whether it is within the limit."""
        name, now = _network(address or ""), self._clock()
        left, at = self._buckets.pop(name, (float(self._at_once), now))
        left = min(self._at_once, left + (now - at) * self._per_s)
        allowed = left >= 1
        self._buckets[name] = (left - allowed, now)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return allowed


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((int(found), 64), strict=False))
    return address
