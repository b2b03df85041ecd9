"""What a job of the bench gives, and where it happens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measure import Row
from tests.bench.roots import Root, large_root, small_root


@dataclass(frozen=True)
class Goal:
    """One number that was promised, and what was reached."""

    what: str
    wanted: float
    reached: float
    unit: str = "×"

    @property
    def met(self) -> bool:
        return self.reached <= self.wanted


@dataclass
class Result:
    """A table of a job."""

    title: str
    rows: list[Row]
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        rows = [Row(**row) for row in data["rows"]]
        return cls(data["title"], rows, [Goal(**goal) for goal in data["goals"]], data["notes"])


@dataclass(frozen=True)
class Bench:
    """Where it happens, and how often."""

    work: Path
    rounds: int

    @property
    def repos(self) -> Path:
        return self.work / "repos"

    def roots(self) -> Iterator[tuple[Root, int]]:
        yield small_root(self.work), self.rounds
        yield large_root(self.work), min(3, self.rounds)
