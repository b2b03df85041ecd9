"""How long work tells of itself. The base class is silent; fronts (terminal, form) make their own."""

from __future__ import annotations


class Progress:
    """What an operation reports to: one stage at a time, counted in a unit."""

    def stage(self, what: str, *, total: int | None = None, unit: str = "") -> None:
        """Begin a stage; ends the one before it.

        Args:
            what: in the present continuous ("reading files").
            total: how much there is to do, if that is known.
            unit: "files", "bytes" or "" (bytes are shown as MB).
        """

    def advance(self, amount: int = 1) -> None:
        """Say that ``amount`` more units are done. Cheap enough to call for every file."""

    def say(self, line: str) -> None:
        """Show one line of what another program printed."""


SILENT = Progress()
