"""One risk, and the step that every rule looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from statelesskit.contents import Contents
from statelesskit.manifest import Entry, diff

SEVERITIES = ("high", "medium", "low")
TEXT_MAX = 16 * 1024 * 1024  # bytes of a file that a rule reads
_ASIDE = {"path", "mtime_ns", "link_to"}  # what a file does, does not depend on these


@dataclass(frozen=True, slots=True)
class Risk:
    """One thing to look at before the step is made.

    Attributes:
        severity: ``high`` (somebody gains rights, or machines may not come up), ``medium`` or ``low``.
        kind: a word for the rule that found it, to filter by.
    """

    severity: str
    kind: str
    path: bytes
    reason: str

    def as_json(self) -> dict[str, Any]:
        path = self.path.decode("utf-8", "surrogateescape")
        return {"severity": self.severity, "kind": self.kind, "path": path, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Pair:
    """One path that differs, as it was and as it is; hard links with the metadata of their file."""

    path: bytes
    before: Entry | None
    after: Entry | None

    @property
    def how(self) -> str:
        return "new" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def matters(self) -> bool:
        """Whether more than its times differ."""
        if self.before is None or self.after is None:
            return True
        was, now = self.before.fields(), self.after.fields()
        return any(was.get(name) != now.get(name) for name in was.keys() | now.keys() if name not in _ASIDE)


@dataclass(frozen=True, slots=True)
class Step:
    """From one tree to another, with what differs."""

    before: Contents
    after: Contents
    pairs: tuple[Pair, ...]

    @classmethod
    def between(cls, before: Contents, after: Contents) -> Step:
        return cls(
            before,
            after,
            tuple(
                Pair(
                    change.path,
                    change.before and before.whole(change.before),
                    change.after and after.whole(change.after),
                )
                for change in diff(before.manifest, after.manifest)
            ),
        )
