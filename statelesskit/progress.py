"""How long work tells of itself. The base class is silent; fronts (terminal, form) make their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Progress:
    """What an operation reports to: one stage at a time, counted in a unit."""

    def stage(
        self, what: str, *, total: int | None = None, unit: str = "", total_bytes: int = 0, about: bool = False
    ) -> None:
        """Begin a stage; ends the one before it.

        Args:
            what: in the present continuous ("reading files").
            total: how much there is to do, if that is known.
            unit: "files", "bytes" or "" (bytes are shown as MB).
            total_bytes: how large all of it is, if that is known; then the time left is told by it.
            about: the totals are only what is expected.
        """

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        """Say that ``amount`` more units, or part of one, are done. Cheap enough to call for every file."""

    def say(self, line: str) -> None:
        """Show one line of what another program printed."""

    def waiting(self, line: str) -> None:
        """Say why nothing goes on for the moment."""


def pace(
    done: int, total: int, unit: str, spent_s: float, *, done_bytes: int = 0, total_bytes: int = 0, about: bool = False
) -> str:
    """Return how far a stage is, and after two seconds how long it may still take."""
    text = _of(_amount(done, unit), _amount(total, unit) if total >= done else "", about, _unit(unit))
    if done_bytes:
        text += ", " + _of(
            _amount(done_bytes, "bytes"),
            _amount(total_bytes, "bytes") if total_bytes >= done_bytes else "",
            about,
            "MB",
        )
    gained, whole = (done_bytes, total_bytes) if total_bytes else (done, total)
    if whole >= gained > 0 and spent_s > 2:
        text += f", about {spent_s * (whole - gained) / gained:.0f} s left"
    return text


def _of(done: str, total: str, about: bool, unit: str) -> str:
    return f"{done}{' of ' if total else ''}{'~' if about and total else ''}{total} {unit}".rstrip()


def _amount(count: int, unit: str) -> str:
    return f"{count / 1e6:.1f}" if unit == "bytes" else str(count)


def _unit(unit: str) -> str:
    return "MB" if unit == "bytes" else unit


SILENT = Progress()

_SHOWN: ContextVar[Progress] = ContextVar("progress", default=SILENT)


def current() -> Progress:
    """Return what the front that called us shows progress with: for what has none of its own at hand."""
    return _SHOWN.get()


@contextmanager
def shown(progress: Progress) -> Iterator[Progress]:
    """Make it the current one in this thread while the block runs."""
    token = _SHOWN.set(progress)
    try:
        yield progress
    finally:
        _SHOWN.reset(token)
