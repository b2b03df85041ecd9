from __future__ import annotations

import time
from pathlib import Path

import pytest

from statelesskit.progress import Progress, pace
from statelesskit.store import Store
from statelesskit.take import TICK_NS, take_tree


@pytest.mark.parametrize(
    ("done", "total", "size", "size_total", "spent_s", "text"),
    [
        (0, 10, 0, 0, 0, "0 of ~10 files"),
        (5, 0, 0, 0, 9, "5 files"),
        (5, 10, 0, 0, 9, "5 of ~10 files, about 9 s left"),
        (5, 10, 1_000_000, 4_000_000, 9, "5 of ~10 files, 1.0 of ~4.0 MB, about 27 s left"),
        (5, 10, 1_000_000, 4_000_000, 1, "5 of ~10 files, 1.0 of ~4.0 MB"),
        (11, 10, 5_000_000, 4_000_000, 9, "11 files, 5.0 MB"),  # more than there was last time
    ],
)
def test_pace(done: int, total: int, size: int, size_total: int, spent_s: float, text: str) -> None:
    assert pace(done, total, "files", spent_s, done_bytes=size, total_bytes=size_total, about=True) == text


class Told(Progress):
    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.began: list[tuple[str, int | None, int]] = []

    def stage(
        self, what: str, *, total: int | None = None, unit: str = "", total_bytes: int = 0, about: bool = False
    ) -> None:
        self.began.append((what, total, total_bytes))

    def advance(self, amount: int = 1, size_bytes: int = 0) -> None:
        self.files += amount
        self.bytes += size_bytes


def test_a_take_tells_of_all_files_and_bytes_also_of_those_it_remembers(tmp_path: Path) -> None:
    (tmp_path / "top/folder").mkdir(parents=True)
    for number in range(200):
        (tmp_path / f"top/folder/{number}").write_bytes(b"x" * number)
    with (tmp_path / "top/large").open("wb") as file:
        file.truncate(9_000_000)
    time.sleep(TICK_NS / 1e9 * 1.5)  # what has just changed would be read again
    for _ in range(2):
        told = Told()
        result = take_tree(
            tmp_path / "top", Store(tmp_path / "store"), lambda lines: None, told, memory_file=tmp_path / "memory",
            expected=(7, 8),
        )  # fmt: skip
        assert told.began[0] == ("reading files", 7, 8)
        assert (told.files, told.bytes) == (result.files, result.bytes) == (201, 9_000_000 + 199 * 100)
