"""Collecting: frees what nothing needs and never anything else, beside whatever goes on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from statelesskit import collect as collect_module
from statelesskit.collect import find_garbage, free, needed_objects
from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.export.tree import export_tree
from statelesskit.snapshot import Snapshot, list_snapshots, load, load_manifest
from statelesskit.snapshot.deleted import delete, deletions
from statelesskit.snapshot.manifest_file import MANIFEST
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify_all
from statelesskit.store import Store
from tests.torture import add_prototype

pytestmark = pytest.mark.root


@pytest.fixture
def desktop(site: Site) -> Path:
    top = add_prototype(site)
    top.mkdir()
    change(top, 0)
    return top


def change(top: Path, seed: int, files: int = 40) -> None:
    """Rewrite a third of the files."""
    noise = random.Random(seed)
    for number in range(files):
        if not seed or number % 3 == seed % 3:
            (top / f"{number}").write_bytes(noise.randbytes(3000))


def history(site: Site, top: Path, count: int) -> list[Snapshot]:
    found = []
    for seed in range(1, count + 1):
        change(top, seed)
        found.append(take(site, "desktop")[0])
    return found


def clean(site: Site) -> bool:
    return list(verify_all(site, list_snapshots(site), everything=True)) == []


def garbage_bytes(site: Site) -> int:
    return find_garbage(site, needed_objects(site, list_snapshots(site))).content_bytes


def test_what_is_deleted_is_freed_and_all_else_stays(site: Site, desktop: Path) -> None:
    found = history(site, desktop, 6)
    for one in found[:-1]:
        delete(site, one, by="root", record="r")
    assert list_snapshots(site) == [found[-1]]
    assert [one.name for one in deletions(site)] == [one.name for one in found[:-1]]
    assert garbage_bytes(site) > 0
    before = sum(path.stat().st_size for path in Store(site.store).packs.iterdir())
    freed = free(site)
    after = sum(path.stat().st_size for path in Store(site.store).packs.iterdir())
    assert (freed.bytes, freed.kept) == (before - after, [])
    assert freed.bytes > 0
    assert garbage_bytes(site) < 0.3 * 120_000
    assert clean(site)
    again = free(site)
    assert (again.removed, again.written, again.bytes) == (0, 0, 0)


def test_the_last_snapshot_of_all_leaves_an_empty_store(site: Site, desktop: Path) -> None:
    (only,) = history(site, desktop, 1)
    delete(site, only, by="root", record="")
    free(site)
    assert Store(site.store).pack_names() == frozenset()
    assert take(site, "desktop")[0].sequence == 2
    assert clean(site)


def test_repacking_stores_less_and_is_done_once(site: Site, desktop: Path) -> None:
    for source in sorted(Path(os.__file__).parent.glob("*.py")):  # what programs are made of, not what noise is
        (desktop / source.name).write_bytes(source.read_bytes())
    take(site, "desktop")
    freed = free(site, repack=True)
    assert freed.bytes > 0
    assert clean(site)
    again = free(site, repack=True)
    assert (again.removed, again.written) == (0, 0)


def test_many_small_packs_become_few(site: Site, desktop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "MANY", 4)
    history(site, desktop, 6)
    free(site)
    assert len(Store(site.store).pack_names()) <= 2
    assert clean(site)


def test_nothing_is_removed_while_it_is_not_known_what_is_needed(site: Site, desktop: Path) -> None:
    found = history(site, desktop, 2)
    delete(site, found[0], by="root", record="")
    path = site.snapshots / found[1].name / MANIFEST
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    packs = Store(site.store).pack_names()
    with pytest.raises(DamagedError, match="manifest"):
        free(site)
    assert Store(site.store).pack_names() == packs
    path.write_bytes(whole)
    free(site)
    assert clean(site)


def test_a_pack_with_damage_in_what_is_needed_stays(site: Site, desktop: Path) -> None:
    found = history(site, desktop, 3)
    delete(site, found[0], by="root", record="")
    delete(site, found[1], by="root", record="")
    path = max(Store(site.store).packs.iterdir(), key=lambda one: one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)
    free(site)
    lost = [finding for _, finding in verify_all(site, list_snapshots(site)) if finding.path]
    data[len(data) // 4] ^= 1
    if lost:  # then the pack must still be there to be mended
        assert path.exists()
        path.write_bytes(data)
    assert clean(site)


def test_a_snapshot_that_comes_while_it_collects_keeps_what_it_needs(
    site: Site, desktop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new snapshot holds again what the deleted one held; its objects were garbage when this began."""
    (old,) = history(site, desktop, 1)
    delete(site, old, by="root", record="")
    real = collect_module.find_garbage

    def meanwhile(*args: object, **named: object) -> object:
        found = real(*args, **named)  # type: ignore[arg-type]
        take(site, "desktop")
        return found

    monkeypatch.setattr(collect_module, "find_garbage", meanwhile)
    freed = free(site)
    assert freed.kept
    assert clean(site)
    assert len(list_snapshots(site)) == 1


def test_readers_go_on_while_packs_are_written_anew(site: Site, desktop: Path, tmp_path: Path) -> None:
    found = history(site, desktop, 6)
    manifest, store = load_manifest(site, found[-1]), Store(site.store)
    assert all(digest in store for digest in needed_objects(site, [found[-1]]))  # it has looked
    for one in found[:-1]:
        delete(site, one, by="root", record="")
    free(site)
    assert export_tree(manifest, store, tmp_path / "out") == []


COLLECT = "from statelesskit.config import load_site; from pathlib import Path; import sys; \
from statelesskit.collect import free; from statelesskit.snapshot import list_snapshots; \
from statelesskit.snapshot.deleted import delete; \
site = load_site(Path(sys.argv[1])); print('on', flush=True); \
[delete(site, one, by='root', record='') for one in list_snapshots(site)[:-1]]; free(site, repack=True)"


def test_kill_9_at_any_moment_loses_nothing(site: Site, desktop: Path) -> None:
    noise = random.Random(9)
    for _ in range(12):
        history(site, desktop, 3)
        last = list_snapshots(site)[-1]
        process = subprocess.Popen([sys.executable, "-c", COLLECT, site.root], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(noise.random() * 0.15)
        process.kill()
        process.wait()
        process.stdout.close()
        assert clean(site)
        assert load(site, last.name) == last
    free(site)
    assert clean(site)
    assert not list(site.snapshots.glob(".*")) + list(Store(site.store).packs.glob(".*"))


def test_beside_takes_nothing_is_lost(site: Site, desktop: Path) -> None:
    """Takes and collections in processes of their own, all the time."""
    history(site, desktop, 2)
    script = "from statelesskit.config import load_site; from pathlib import Path; import sys; \
from statelesskit.snapshot.taking import take; site = load_site(Path(sys.argv[1])); \
[take(site, 'desktop') for _ in range(8)]"
    stop = threading.Event()

    def churn() -> None:
        seed = 100
        while not stop.is_set():
            seed += 1
            change(desktop, seed)
            time.sleep(0.02)

    changing = threading.Thread(target=churn)
    changing.start()
    taker = subprocess.Popen([sys.executable, "-c", script, site.root])
    try:
        while taker.poll() is None:
            for one in list_snapshots(site)[:-1]:
                delete(site, one, by="root", record="")
            free(site)
    finally:
        stop.set()
        changing.join()
        assert taker.wait() == 0
    free(site)
    assert clean(site)
    assert list_snapshots(site)[-1].sequence == 10
