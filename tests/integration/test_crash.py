"""Every state that a crash can leave of each operation on snapshots: nothing lost, nothing half-made.

How the states come about is said in tests/crash.py.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from statelesskit import fs
from statelesskit.archive.source import parse_source
from statelesskit.collect import free
from statelesskit.config import Site, load_site
from statelesskit.errors import DamagedError, NoSpaceError
from statelesskit.export.tar import export_tar
from statelesskit.inventory import inventory
from statelesskit.snapshot import list_snapshots, load, load_manifest, set_state
from statelesskit.snapshot.deleted import delete
from statelesskit.snapshot.description import ABOUT, MANIFEST
from statelesskit.snapshot.importing import import_snapshot
from statelesskit.snapshot.manifest_file import objects_of
from statelesskit.snapshot.redescribe import damaged, redescribe
from statelesskit.snapshot.registry import set_note
from statelesskit.snapshot.repair import repair
from statelesskit.snapshot.source import open_source
from statelesskit.snapshot.verify import verify_all
from statelesskit.store import Store
from tests.crash import Recording, recorded
from tests.two_sites import TwoSites

pytestmark = pytest.mark.root


@pytest.fixture
def sites(tmp_path: Path) -> TwoSites:
    sites = TwoSites(tmp_path / "base")
    sites.settle()
    return sites


# --- operations -------------------------------------------------------------------------------


def first_take(sites: TwoSites) -> Callable[[], object]:
    return sites.take


def second_take(sites: TwoSites) -> Callable[[], object]:
    sites.take()
    sites.change()
    return sites.take


def unchanged_take(sites: TwoSites) -> Callable[[], object]:
    sites.take()
    return sites.take


def setting_a_state(sites: TwoSites) -> Callable[[], object]:
    name = sites.take().name
    return lambda: set_state(sites.here, name, "released")


def reading_an_inventory(sites: TwoSites) -> Callable[[], object]:
    sites.take()
    return lambda: [inventory(sites.here, found) for found in list_snapshots(sites.here)]


def verifying(sites: TwoSites) -> Callable[[], object]:
    sites.take()
    sites.change()
    sites.take()
    return lambda: sites.check_clean()


def repacking(sites: TwoSites) -> Callable[[], object]:
    sites.take()
    sites.change()
    sites.take()

    return lambda: free(sites.here, repack=True)


def deleting(sites: TwoSites) -> Callable[[], object]:
    name = sites.take().name
    sites.change()
    sites.take()

    def delete_it() -> None:
        if (sites.here.snapshots / name).exists():
            delete(sites.here, load(sites.here, name), by="t", record="")

    return delete_it


def collecting(sites: TwoSites) -> Callable[[], object]:
    """One pack goes, and one that held more is written anew."""
    gone = sites.take()
    sites.write("only here", random.Random(2).randbytes(300_000))
    gone_too = sites.take()
    (sites.tree / "only here").unlink()
    sites.change()
    sites.take()
    for snapshot in (gone, gone_too):
        delete(sites.here, snapshot, by="t", record="")
    return lambda: free(sites.here)


def noting(sites: TwoSites) -> Callable[[], object]:
    name = sites.take().name
    return lambda: set_note(sites.here, name, "of another mind")


def copying(sites: TwoSites) -> Callable[[], object]:
    name = sites.take().name
    sites.change()
    sites.take(sites.there)  # has some of it
    return lambda: sites.copy(name, sites.here, sites.there)


def importing(sites: TwoSites) -> Callable[[], object]:
    snapshot = sites.take()
    archive = sites.base / "archive.tar"
    export_tar(load_manifest(sites.here, snapshot), Store(sites.here.store), archive)
    return lambda: import_snapshot(sites.there, "kiosk", parse_source(f"tar:{archive}"))


OPERATIONS = (
    first_take, second_take, unchanged_take, setting_a_state, noting, reading_an_inventory, verifying, deleting,
    collecting, repacking, copying, importing,
)  # fmt: skip


@pytest.mark.parametrize("prepare", OPERATIONS, ids=lambda prepare: prepare.__name__)
def test_no_crash_loses_anything(
    sites: TwoSites, prepare: Callable[[TwoSites], Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = prepare(sites)
    before = sites.check_clean()
    with recorded(sites.disk) as recording:
        operation()
    after = sites.check_clean()
    ever = before | after
    truth = sites.take().digest

    def check(whole: bool) -> None:
        found = sites.check_clean()
        assert found in ([after] if whole else [before, after])
        operation()
        last = sites.take()
        again = sites.check_clean()
        assert again["here", last.name] == last
        assert last.digest == truth
        assert last.sequence > max(
            [0, *(one.sequence for (_, name), one in ever.items() if name.startswith("desktop"))]
        )
        assert found.keys() & before.keys() & after.keys() <= again.keys()
        free(sites.here)
        assert sites.check_clean() == again

    check_all(sites, recording, check, monkeypatch)


def check_all(
    sites: TwoSites, recording: Recording, check: Callable[[bool], object], monkeypatch: pytest.MonkeyPatch
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
            assert sites.leftovers() == []
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
    "prepare", [one for one in OPERATIONS if one is not verifying], ids=lambda prepare: prepare.__name__
)
def test_a_disk_that_is_full_at_any_step_loses_nothing(
    sites: TwoSites,
    prepare: Callable[[TwoSites], Callable[[], object]],
    code: int,
    once: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operation = prepare(sites)
    before = sites.check_clean()
    state = Recording(sites.disk)
    start = next(iter(state.states()))[2]
    operation()
    after = sites.check_clean()
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
            found = sites.check_clean()
            # A file that replaced another can't go back when its folder could not be flushed.
            assert not said or found == before or (prepare in (setting_a_state, noting) and found == after)
            assert not said or str(sites.disk) in said
            assert sites.leftovers() == []
            operation()
            assert before.keys() & after.keys() <= sites.check_clean().keys()
        except BaseException as error:
            error.add_note(f"when step {fails} found no room")
            raise
    assert fails > 3


# --- what is damaged before -------------------------------------------------------------------


def finding_damage(sites: TwoSites, place: Path) -> Callable[[], object]:
    return lambda: list(verify_all(sites.here, list_snapshots(sites.here)))


def repairing(sites: TwoSites, place: Path) -> Callable[[], object]:
    return lambda: repair(sites.here, list_snapshots(sites.here), open_source(place))


def damage(sites: TwoSites) -> Path:
    """Spoil one pack in its middle, one in its tables, and a manifest; return where all of it is whole."""
    name = sites.take().name
    sites.change()
    sites.take()
    shutil.copytree(sites.here.root, sites.base / "elsewhere")
    packs = sorted((sites.here.store / "packs").glob("*.pack"), key=lambda path: path.stat().st_size)
    for path, place in ((packs[0], -3), (packs[-1], 1000)):
        data = bytearray(path.read_bytes())
        data[place] ^= 0xFF
        path.unlink()
        path.write_bytes(data)
    (sites.here.snapshots / name / MANIFEST).unlink()
    return sites.base / "elsewhere"


def readable(site: Site, digests: set[bytes]) -> set[bytes]:
    found, store = set(), Store(site.store)
    for digest in digests:
        with suppress(DamagedError):
            assert hashlib.sha256(b"".join(store.read(digest))).digest() == digest
            found.add(digest)
    return found


@pytest.mark.parametrize("prepare", [finding_damage, repairing], ids=lambda prepare: prepare.__name__)
def test_no_crash_makes_anything_worse(
    sites: TwoSites, prepare: Callable[[TwoSites, Path], Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = damage(sites)
    truth = list_snapshots(sites.here)
    needed = set().union(*(objects_of(load_site(elsewhere), found) for found in truth))
    before = readable(sites.here, needed)
    assert before < needed
    operation = prepare(sites, elsewhere)
    with recorded(sites.disk) as recording:
        operation()
    after = readable(sites.here, needed)

    def check(whole: bool) -> None:
        assert list_snapshots(sites.here) == truth
        found = readable(sites.here, needed)
        assert found >= (after if whole else before)
        if prepare is finding_damage:
            operation()
        repair(sites.here, list_snapshots(sites.here), open_source(elsewhere))
        assert [*sites.check_clean().values()] == truth
        assert readable(sites.here, needed) == needed

    check_all(sites, recording, check, monkeypatch)


@pytest.mark.parametrize(("code", "once"), [(errno.ENOSPC, True), (errno.EDQUOT, False)], ids=["once", "from then on"])
def test_a_disk_that_is_full_at_any_step_of_a_repair_makes_nothing_worse(
    sites: TwoSites, code: int, once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = damage(sites)
    truth = list_snapshots(sites.here)
    needed = set().union(*(objects_of(load_site(elsewhere), found) for found in truth))
    about = sites.here.snapshots / truth[0].name / ABOUT
    about.write_bytes(b"?" + about.read_bytes()[1:])
    before = readable(sites.here, needed)
    state = Recording(sites.disk)
    start = next(iter(state.states()))[2]
    source = open_source(elsewhere)

    def operation() -> None:
        for name in damaged(sites.here):
            assert redescribe(sites.here, name, source) == []
        assert repair(sites.here, list_snapshots(sites.here), source).left == []

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
            assert not said or str(sites.disk) in said
            assert sites.leftovers() == []
            assert readable(sites.here, needed) >= before
            operation()
            assert [*sites.check_clean().values()] == truth
            assert readable(sites.here, needed) == needed
        except BaseException as error:
            error.add_note(f"when step {fails} found no room")
            raise
    assert fails > 10
