"""Every state that a crash can leave of each operation on snapshots: nothing lost, nothing half-made.

How the states come about is said in tests/crash.py.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from statelesskit import fs
from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.errors import DamagedError, NoSpaceError
from statelesskit.inventory import inventory
from statelesskit.memory import RACY_NS
from statelesskit.repack import remove_packs, rewrite
from statelesskit.snapshot import Snapshot, list_snapshots, set_state
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.repair import repair
from statelesskit.snapshot.source import open_source
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify_all
from statelesskit.snapshot.whole import objects_of
from statelesskit.store import Store
from tests.crash import Recording, recorded

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


# --- operations -------------------------------------------------------------------------------


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


def verifying(bench: Bench) -> Callable[[], object]:
    bench.take()
    bench.change()
    bench.take()
    return lambda: check_clean(bench.site)


def repacking(bench: Bench) -> Callable[[], object]:
    bench.take()
    bench.change()
    bench.take()

    def repack() -> None:
        store = Store(bench.site.store)
        before = {pack.path for pack in store.readable_packs()}
        needed = set().union(*(objects_of(bench.site, found) for found in list_snapshots(bench.site)))
        done = rewrite(store, before, needed)
        assert not done.damaged
        remove_packs(store, before - set(done.packs))

    return repack


@pytest.mark.parametrize(
    "prepare",
    [first_take, second_take, unchanged_take, setting_a_state, reading_an_inventory, verifying, repacking],
    ids=lambda prepare: prepare.__name__,
)
def test_no_crash_loses_anything(
    bench: Bench, prepare: Callable[[Bench], Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = prepare(bench)
    before = check_clean(bench.site)
    with recorded(bench.disk) as recording:
        operation()
    after = check_clean(bench.site)
    truth = bench.take().digest

    def check(whole: bool) -> None:
        found = check_clean(bench.site)
        assert found in ([after] if whole else [before, after])
        operation()
        last = bench.take()
        again = check_clean(bench.site)
        assert again[last.name] == last
        assert last.digest == truth
        assert found.keys() <= again.keys()

    check_all(bench, recording, check, monkeypatch)


def check_all(
    bench: Bench, recording: Recording, check: Callable[[bool], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lay every state that a crash can leave, and check it: what is there, and that all goes on from there."""
    assert recording.beside == []
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nothing crashes any more
    count = 0
    for what, whole, state in recording.states():
        recording.lay(state)
        count += 1
        try:
            check(whole)
            assert leftovers(bench.disk) == []
        except BaseException as error:
            error.add_note(f"in the state {what}")
            raise
    assert count > len(recording.events) / 2


# --- a full disk ------------------------------------------------------------------------------


class _Full:
    """A disk on which the n-th step that needs room finds none: that one alone, or every one from there on."""

    NEEDS_ROOM = ("create", "open_log", "make_folder", "write_all", "fsync")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: int, code: int, *, once: bool) -> None:
        self.count = 0
        lock = threading.Lock()

        def through(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                with lock:
                    self.count += 1
                    full = self.count == fails if once else self.count >= fails
                if full and name == "write_all":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                if full:
                    raise OSError(code, os.strerror(code))
                return real(*args)

            return call

        # To go back to an old name needs none, so a disk that stays full can rename.
        for name in (*self.NEEDS_ROOM, *(["rename"] if once else [])):
            monkeypatch.setattr(fs, name, through(name, getattr(fs, name)))


@pytest.mark.parametrize(("code", "once"), [(errno.ENOSPC, True), (errno.EDQUOT, False)], ids=["once", "from then on"])
@pytest.mark.parametrize(
    "prepare", [first_take, second_take, setting_a_state, repacking], ids=lambda prepare: prepare.__name__
)
def test_a_disk_that_is_full_at_any_step_loses_nothing(
    bench: Bench,
    prepare: Callable[[Bench], Callable[[], object]],
    code: int,
    once: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operation = prepare(bench)
    before = check_clean(bench.site)
    state = Recording(bench.disk)
    start = next(iter(state.states()))[2]
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    reached = fails = 0
    while reached >= fails:
        fails += 1
        state.lay(start)
        with monkeypatch.context() as patched:
            disk = _Full(patched, fails, code, once=once)
            try:
                said = ""
                operation()
            except NoSpaceError as error:
                said = error.message
        reached = disk.count
        try:
            found = check_clean(bench.site)
            # A file that replaced another can't go back when its folder could not be flushed.
            assert not said or found == before or (prepare is setting_a_state and found.keys() == before.keys())
            assert not said or str(bench.disk) in said
            assert leftovers(bench.disk) == []
            operation()
            assert before.keys() <= check_clean(bench.site).keys()
        except BaseException as error:
            error.add_note(f"when step {fails} found no room")
            raise
    assert fails >= 5


# --- what is damaged before -------------------------------------------------------------------


def finding_damage(bench: Bench, place: Path) -> Callable[[], object]:
    return lambda: list(verify_all(bench.site, list_snapshots(bench.site)))


def repairing(bench: Bench, place: Path) -> Callable[[], object]:
    return lambda: repair(bench.site, list_snapshots(bench.site), open_source(place))


def damage(bench: Bench) -> Path:
    """Spoil one pack in its middle, one in its tables, and a manifest; return where all of it is whole."""
    name = bench.take().name
    bench.change()
    bench.take()
    shutil.copytree(bench.site.root, bench.base / "elsewhere")
    packs = sorted((bench.site.store / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)
    for path, place in ((packs[0], -3), (packs[-1], 1000)):
        data = bytearray(path.read_bytes())
        data[place] ^= 0xFF
        path.unlink()
        path.write_bytes(data)
    (bench.site.snapshots / name / MANIFEST).unlink()
    return bench.base / "elsewhere"


def readable(site: Site, digests: set[bytes]) -> set[bytes]:
    found, store = set(), Store(site.store)
    for digest in digests:
        with suppress(DamagedError):
            assert hashlib.sha256(b"".join(store.read(digest))).digest() == digest
            found.add(digest)
    return found


@pytest.mark.parametrize("prepare", [finding_damage, repairing], ids=lambda prepare: prepare.__name__)
def test_no_crash_makes_anything_worse(
    bench: Bench, prepare: Callable[[Bench, Path], Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = damage(bench)
    truth = check_clean(other := load_site(elsewhere))
    needed = set().union(*(objects_of(other, found) for found in truth.values()))
    before = readable(bench.site, needed)
    assert before < needed
    operation = prepare(bench, elsewhere)
    with recorded(bench.disk) as recording:
        operation()
    after = readable(bench.site, needed)

    def check(whole: bool) -> None:
        assert {found.name: found for found in list_snapshots(bench.site)} == truth
        found = readable(bench.site, needed)
        assert found >= (after if whole else before)
        if prepare is finding_damage:
            operation()
        repair(bench.site, list_snapshots(bench.site), open_source(elsewhere))
        assert check_clean(bench.site) == truth
        assert readable(bench.site, needed) == needed

    check_all(bench, recording, check, monkeypatch)


def check_clean(site: Site) -> dict[str, Snapshot]:
    """Verify every snapshot that is listed, and that their order is one; return them by name."""
    snapshots = list_snapshots(site)
    assert list(verify_all(site, snapshots, every_pack=True)) == []
    assert len({(one.prototype, one.sequence) for one in snapshots}) == len(snapshots)
    return {one.name: one for one in snapshots}
