"""Who a process is, beyond its number, which others get after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def identity(pid: int = 0) -> dict[str, Any]:
    """Return the facts by which :func:`is_alive` knows a process again: this one, or the one of that number."""
    pid = pid or int(Path("/proc/self").readlink().name)  # as others see it: a run's kernel has numbers of its own
    return {"boot_id": _boot_id(), "pid": pid, "process_started": _started(pid)}


def is_alive(facts: Mapping[str, Any]) -> bool:
    """Say whether that very process runs, on this host and since this boot."""
    pid = facts.get("pid")
    started = _started(pid) if type(pid) is int and pid > 0 else None
    return started is not None and (started, _boot_id()) == (facts.get("process_started"), facts.get("boot_id"))


def _boot_id() -> str:
    return _BOOT_ID.read_text("ascii").strip()


def _started(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # proc(5): the second field, the name, is in brackets and may hold brackets and spaces itself.
    fields = text.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
