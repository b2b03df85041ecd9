"""Every state that a crash can leave of each operation on snapshots: nothing lost, nothing half-made.

How the states come about is said in tests/crash.py.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.inventory import inventory
from statelesskit.memory import RACY_NS
from statelesskit.snapshot import Snapshot, list_snapshots, set_state
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify
from tests.crash import recorded

pytestmark = pytest.mark.root


@dataclass
class Bench:
    """A site with nothing in it but what is durable, and beside it a tree that it adopts."""

    base: Path

    def __post_init__(self) -> None:
        self.tree = self.base / "tree"
        self.tree.mkdir(parents=True)
        self.disk = self.base / "disk"  # what is recorded, and laid anew for every state
        self.site = self.add_site("here")
        self.write("etc/os-release", b"ID=debian\n")
        self.write("a", b"a" * 300)
        self.write("b/c", b"c")

    def add_site(self, name: str) -> Site:
        root = self.disk / name
        for folder, mode in FOLDERS.items():
            (root / folder).mkdir(parents=True, mode=mode)
        (root / "site.toml").write_text(TEMPLATE.format(format=1, name="test", base_dn="ou=stateless", port=1))
        about = {
            "format": 1, "source": f"at:{self.tree}", "tree": str(self.tree),
            "created_at": "2026-11-23T07:30:00+00:00", "created_by": "t", "note": "",
        }  # fmt: skip
        (root / "prototypes/desktop").mkdir()
        (root / "prototypes/desktop/prototype.json").write_text(json.dumps(about))
        return load_site(root)

    def write(self, name: str, content: bytes) -> None:
        path = self.tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def settle(self) -> None:
        """Let the kernel's clock step on, so that nothing in the tree is racy."""
        time.sleep(RACY_NS / 1e9 * 1.5)

    def change(self) -> None:
        self.write("a", b"another")
        self.write("new", random.Random(1).randbytes(600_000))  # more than a frame
        (self.tree / "b/c").unlink()
        self.settle()

    def take(self) -> Snapshot:
        return take(self.site, "desktop")[0]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path / "bench")
    bench.settle()
    return bench


def leftovers(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if fs.PARTIAL in path.name]


def first_take(bench: Bench) -> Callable[[], object]:
    return bench.take


def second_take(bench: Bench) -> Callable[[], object]:
    bench.take()
    bench.change()
    return bench.take


def unchanged_take(bench: Bench) -> Callable[[], object]:
    bench.take()
    return bench.take


def setting_a_state(bench: Bench) -> Callable[[], object]:
    name = bench.take().name
    return lambda: set_state(bench.site, name, "released")


def reading_an_inventory(bench: Bench) -> Callable[[], object]:
    bench.take()
    return lambda: [inventory(bench.site, found) for found in list_snapshots(bench.site)]


@pytest.mark.parametrize(
    "prepare",
    [first_take, second_take, unchanged_take, setting_a_state, reading_an_inventory],
    ids=lambda prepare: prepare.__name__,
)
def test_no_crash_loses_anything(
    bench: Bench, prepare: Callable[[Bench], Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = prepare(bench)
    before = check_clean(bench.site)
    with recorded(bench.disk) as recording:
        operation()
    assert recording.beside == []
    assert recording.events
    after = check_clean(bench.site)
    truth = bench.take().digest
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nothing crashes any more
    count = 0
    for what, whole, state in recording.states():
        recording.lay(state)
        count += 1
        try:
            found = check_clean(bench.site)
            assert found in ([after] if whole else [before, after])
            operation()
            last = bench.take()
            again = check_clean(bench.site)
            assert again[last.name] == last
            assert last.digest == truth
            assert found.keys() <= again.keys()
            assert leftovers(bench.disk) == []
        except BaseException as error:
            error.add_note(f"in the state {what}")
            raise
    assert count > len(recording.events) / 2


def check_clean(site: Site) -> dict[str, Snapshot]:
    """Verify every snapshot that is listed, and that their order is one; return them by name."""
    snapshots = list_snapshots(site)
    for one in snapshots:
        assert list(verify(site, one)) == []
    assert len({(one.prototype, one.sequence) for one in snapshots}) == len(snapshots)
    return {one.name: one for one in snapshots}
