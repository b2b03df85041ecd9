"""What a snapshot lost comes back from a site, a store or a tree, and a repair never makes anything worse."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.export.tree import export_tree
from statelesskit.pack import Pack
from statelesskit.snapshot import Snapshot, list_snapshots, load_manifest
from statelesskit.snapshot.manifest_file import MANIFEST
from statelesskit.snapshot.repair import repair
from statelesskit.snapshot.source import open_source
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import check_whole, verify_all
from statelesskit.snapshot.whole import is_partial
from statelesskit.store import LARGE, Store
from tests.torture import add_prototype, statelesskit

pytestmark = pytest.mark.root
NOISE = random.Random(5)
PLACES = ("site", "store", "tree")


@pytest.fixture
def snapshot(site: Site) -> Snapshot:
    top = add_prototype(site)
    top.mkdir()
    (top / "sub").mkdir()
    for number in range(40):
        (top / f"sub/{number}").write_bytes(NOISE.randbytes(3000))
    (top / "large").write_bytes(NOISE.randbytes(LARGE + 1000))
    (top / "link").symlink_to("sub")
    return take(site, "desktop")[0]


@pytest.fixture
def places(site: Site, snapshot: Snapshot, tmp_path: Path) -> dict[str, Path]:
    """What was put aside while all was well."""
    found = {kind: tmp_path / "places" / kind for kind in PLACES}
    found["site"].parent.mkdir()
    shutil.copytree(site.root, found["site"])
    shutil.copytree(site.store, found["store"])
    export_tree(load_manifest(site, snapshot), Store(site.store), found["tree"])
    return found


def packs(site: Site) -> list[Path]:
    return sorted((site.store / "packs").glob("*.pack"))


def spoil(path: Path, place: int, bits: int = 0x40) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[place] ^= bits
    path.write_bytes(data)


def harm(site: Site, how: str) -> None:
    if how == "data":
        for path in packs(site):
            spoil(path, 5000)
    elif how == "tables":
        for path in packs(site):
            spoil(path, -30)
    else:
        for path in packs(site):
            path.unlink()


def clean(site: Site) -> bool:
    return not list(verify_all(site, list_snapshots(site), everything=True))


@pytest.mark.parametrize("how", ["data", "tables", "missing"])
@pytest.mark.parametrize("kind", PLACES)
def test_objects_come_back(site: Site, snapshot: Snapshot, places: dict[str, Path], kind: str, how: str) -> None:
    before = {path.name for path in packs(site)}
    harm(site, how)
    assert not clean(site)
    assert is_partial(site, snapshot.name)
    done = repair(site, list_snapshots(site), open_source(places[kind]))
    assert done.left == []
    assert done.objects
    assert clean(site)
    check_whole(site, snapshot)
    aside = {path.name for path in (site.store / "packs").glob("*.damaged")}
    assert aside == (set() if how == "missing" else {f"{name}.damaged" for name in before})
    assert Store(site.store).listed_damaged() == frozenset()
    again = repair(site, list_snapshots(site), open_source(places[kind]))
    assert (again.objects, again.set_aside, again.left) == (0, [], [])


@pytest.mark.parametrize("kind", ["site", "tree"])
@pytest.mark.parametrize("how", ["missing", "garbage", "another"])
def test_a_manifest_comes_back(site: Site, snapshot: Snapshot, places: dict[str, Path], kind: str, how: str) -> None:
    path = site.snapshots / snapshot.name / MANIFEST
    held = path.read_bytes()
    path.chmod(0o644)
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(b"garbage" if how == "garbage" else held[:-1])
    done = repair(site, [snapshot], open_source(places[kind]))
    assert done.manifests == [snapshot.name]
    assert done.left == []
    assert clean(site)


def test_a_manifest_and_all_objects_come_back_from_a_tree(
    site: Site, snapshot: Snapshot, places: dict[str, Path]
) -> None:
    (site.snapshots / snapshot.name / MANIFEST).unlink()
    shutil.rmtree(site.store / "packs")
    assert repair(site, [snapshot], open_source(places["tree"])).left == []
    assert clean(site)


def test_a_place_that_is_wrong_gives_nothing_wrong(site: Site, snapshot: Snapshot, places: dict[str, Path]) -> None:
    """Files that were changed, links where files were: what fits is taken, and the rest is still said to be lost."""
    tree = places["tree"]
    (tree / "sub/1").write_bytes(b"other")
    (tree / "sub/2").unlink()
    (tree / "sub/2").symlink_to(places["site"] / "prototypes/desktop/tree/sub/2")
    (tree / "large").write_bytes(NOISE.randbytes(LARGE + 1000))
    harm(site, "missing")
    done = repair(site, [snapshot], open_source(tree))
    assert {finding.path for _, finding in done.left} == {b"sub/1", b"sub/2", b"large"}
    assert is_partial(site, snapshot.name)
    assert repair(site, [snapshot], open_source(places["store"])).left == []


def test_a_damaged_place_gives_what_it_still_has(site: Site, snapshot: Snapshot, places: dict[str, Path]) -> None:
    for path in (places["store"] / "packs").glob("*.pack"):
        spoil(path, 5000)
    harm(site, "missing")
    done = repair(site, [snapshot], open_source(places["store"]))
    assert done.objects
    assert done.left
    assert not clean(site)


def test_a_damaged_pack_stays_while_something_is_only_there(
    site: Site, snapshot: Snapshot, places: dict[str, Path]
) -> None:
    harm(site, "data")
    before = {path: path.read_bytes() for path in packs(site)}
    shutil.rmtree(places["store"] / "packs")
    (places["store"] / "packs").mkdir()
    done = repair(site, [snapshot], open_source(places["store"]))
    assert done.left
    assert done.set_aside == []
    assert {path: path.read_bytes() for path in packs(site)} == before


def test_the_command_repairs_and_leaves_a_record(site: Site, snapshot: Snapshot, places: dict[str, Path]) -> None:
    harm(site, "data")
    argv = statelesskit(site, "snapshot", "verify", "--repair-from", places["site"], "--json")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["objects_fetched"] > 0
    assert (site.records / result["record"]).is_dir()
    assert clean(site)
    harm(site, "missing")
    shutil.rmtree(places["store"] / "packs")
    argv = statelesskit(site, "snapshot", "verify", snapshot.name, "--repair-from", places["store"])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (places["store"] / "packs").mkdir()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "findings left" in done.stderr


def test_killed_at_any_moment_it_leaves_what_was_there(site: Site, snapshot: Snapshot, places: dict[str, Path]) -> None:
    harm(site, "data")
    shutil.copytree(site.store, places["tree"].parent / "harmed")
    argv = statelesskit(site, "snapshot", "verify", "--repair-from", places["site"])
    began = time.monotonic()
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    whole = time.monotonic() - began
    readable = None
    for turn in range(10):
        shutil.rmtree(site.store)
        shutil.copytree(places["tree"].parent / "harmed", site.store)
        if readable is None:
            readable = whole_objects(site)
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * (0.3 + 0.07 * turn))
        process.kill()
        process.wait()
        assert whole_objects(site) >= readable
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
        assert clean(site)
        assert not list((site.store / "packs").glob(f".*{fs.PARTIAL}*"))


def whole_objects(site: Site) -> set[bytes]:
    store, found = Store(site.store), set()
    for pack in store.readable_packs():
        damaged = pack.faults()[1]
        found |= {digest for number, digest in enumerate(pack.digests()) if number not in damaged}
    return found


def test_a_damage_that_hurts_nothing_costs_nothing(site: Site) -> None:
    """What is then written anew has the name of the damaged pack, and must not be set aside with it."""
    top = add_prototype(site)
    top.mkdir()
    for number in range(8):
        (top / str(number)).write_bytes(b"%d" % number * 500)
    taken = take(site, "desktop")[0]
    (path,) = packs(site)
    whole = path.read_bytes()
    for place in range(200):
        for bit in range(8):
            spoil(path, place, 1 << bit)
            if Pack(path).faults()[1] == [] and Pack(path).faults()[0]:
                break
            path.write_bytes(whole)
        else:
            continue
        break
    else:
        pytest.fail("every bit matters")
    done = repair(site, list_snapshots(site), open_source(site.root))
    assert done.left == []
    assert clean(site)
    check_whole(site, taken)
    assert path.read_bytes() == whole
