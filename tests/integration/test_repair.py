"""What a snapshot lost comes back from a site, a store or a tree, and a repair never makes anything worse."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from statelesskit import fs
from statelesskit.action import Work
from statelesskit.actions.repair_snapshots import RepairSnapshots
from statelesskit.config import Site
from statelesskit.errors import NoSpaceError
from statelesskit.export.tree import export_tree
from statelesskit.pack import Pack
from statelesskit.progress import SILENT
from statelesskit.snapshot import Snapshot, list_snapshots, load, load_manifest, set_state
from statelesskit.snapshot.deleted import note_deletion
from statelesskit.snapshot.description import ABOUT, MANIFEST, change
from statelesskit.snapshot.redescribe import damaged, redescribe
from statelesskit.snapshot.registry import set_note
from statelesskit.snapshot.repair import repair
from statelesskit.snapshot.source import open_source
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import check_whole, verify_all
from statelesskit.snapshot.whole import is_partial
from statelesskit.store import LARGE, Store
from tests.torture import add_prototype, scratch, statelesskit

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


def test_a_disk_that_is_full_is_said_and_what_was_there_stays(
    site: Site, snapshot: Snapshot, places: dict[str, Path]
) -> None:
    harm(site, "data")
    size = sum(path.stat().st_size for path in site.store.rglob("*"))
    with scratch() as place:
        store = place / "store"
        store.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + 600_000}", "none", store], check=True)
        shutil.copytree(site.store, store, dirs_exist_ok=True)
        shutil.rmtree(site.store)
        site.store.symlink_to(store)
        before = whole_objects(site)
        with pytest.raises(NoSpaceError, match="no space left"):
            repair(site, list_snapshots(site), open_source(places["site"]))
        assert whole_objects(site) == before
        assert not list((site.store / "packs").glob(f".*{fs.PARTIAL}*"))
        subprocess.run(["mount", "-o", "remount,size=64m", store], check=True)
        assert repair(site, list_snapshots(site), open_source(places["site"])).left == []
        assert clean(site)


# --- what is said about a snapshot ------------------------------------------------------------


def repaired(site: Site, place: Path) -> dict[str, Any]:
    """Repair as the command does; return the result, which may tell of findings that are left."""
    action = RepairSnapshots.check({"place": str(place)})
    return action.apply(site, action.plan(site), Work("t", "r", SILENT))


def findings(site: Site) -> str:
    done = subprocess.run(statelesskit(site, "snapshot", "verify"), capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout if done.returncode else ""


@pytest.fixture
def second(site: Site, snapshot: Snapshot, places: dict[str, Path]) -> Snapshot:
    """Released here with a note of its own, the fifth in the order; the other site has it otherwise."""
    for number in range(3):
        gone = take(site, "desktop")[0]
        note_deletion(site, gone, deleted_at="", deleted_by="", record=str(number))
        shutil.rmtree(site.snapshots / gone.name)
    found, _ = take(site, "desktop", note="as there")
    shutil.rmtree(places["site"])
    shutil.copytree(site.root, places["site"])
    there = places["site"] / "snapshots" / found.name
    change(there, sequence=9, parent="", state="tested")
    set_state(site, found.name, "released")
    return set_note(site, found.name, "as here")[1]


def test_any_byte_of_a_description_that_goes_bad_comes_back(
    site: Site, snapshot: Snapshot, second: Snapshot, places: dict[str, Path]
) -> None:
    """What each site has for itself is proven by the checksum, as long as that and the note are legible."""
    source = open_source(places["site"])
    path = site.snapshots / second.name / ABOUT
    whole = path.read_bytes()
    unproven = {}
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :])
        if not damaged(site):
            assert json.loads(path.read_bytes()) == json.loads(whole)
            continue
        if redescribe(site, second.name, source):
            unproven[place] = load(site, second.name)
        else:
            assert path.read_bytes() == whole, place
    lines = {whole[:place].count(b"\n") for place in unproven}
    assert {whole.splitlines()[number].split(b'"')[1] for number in lines} == {b"checksum", b"note"}
    for found in unproven.values():
        assert (found.state, found.sequence, found.digest) == ("staged", second.sequence, second.digest)


def test_a_description_comes_back_where_the_manifest_is_gone_too(
    site: Site, snapshot: Snapshot, second: Snapshot, places: dict[str, Path]
) -> None:
    path = site.snapshots / second.name / ABOUT
    path.write_bytes(b"?" + path.read_bytes()[1:])
    (path.parent / MANIFEST).unlink()
    assert "cannot be read" in findings(site)
    result = repaired(site, places["site"])
    assert result["descriptions_restored"] == {second.name: {"not_proven": []}}
    assert (result["manifests_restored"], result["findings"]) == ([second.name], [])
    assert load(site, second.name) == second
    assert findings(site) == ""


@pytest.mark.parametrize("how", ["gone", "emptied"])
def test_of_a_description_that_is_gone_nothing_is_proven_and_it_is_staged(
    site: Site, snapshot: Snapshot, second: Snapshot, places: dict[str, Path], how: str
) -> None:
    path = site.snapshots / second.name / ABOUT
    path.unlink()
    if how == "emptied":
        path.touch()
    argv = statelesskit(site, "snapshot", "verify", "--repair-from", places["site"])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing proves that these are as they were: sequence, parent, state, note" in done.stderr
    found = load(site, second.name)
    assert (found.state, found.note, found.parent) == ("staged", "as there", snapshot.name)
    assert (found.sequence, found.digest) == (second.sequence, second.digest)
    assert take(site, "desktop")[0].sequence == second.sequence + 1
    assert findings(site) == ""


def test_what_was_revoked_anywhere_does_not_come_back_as_good(
    site: Site, snapshot: Snapshot, second: Snapshot, places: dict[str, Path]
) -> None:
    change(places["site"] / "snapshots" / second.name, state="revoked")
    (site.snapshots / second.name / ABOUT).unlink()
    repaired(site, places["site"])
    assert load(site, second.name).state == "revoked"


@pytest.mark.parametrize("kind", ["another", "altered there", "damaged there", "not there", "store", "tree"])
def test_another_snapshot_of_that_name_gives_nothing(
    site: Site, snapshot: Snapshot, second: Snapshot, places: dict[str, Path], kind: str
) -> None:
    """And what is lost is said, while all other snapshots are verified and repaired."""
    there = places["site"] / "snapshots" / second.name
    if kind == "another":
        change(there, digest="sha256:" + "0" * 64)
    elif kind == "altered there":
        (there / ABOUT).write_text((there / ABOUT).read_text().replace("tested", "staged"))
    elif kind == "damaged there":
        (there / ABOUT).write_text("{")
    elif kind == "not there":
        shutil.rmtree(there)
    path = site.snapshots / second.name / ABOUT
    path.write_bytes(path.read_bytes()[:-20])
    before = path.read_bytes()
    (site.snapshots / snapshot.name / MANIFEST).unlink()
    result = repaired(site, places.get(kind, places["site"]))
    assert result["descriptions_restored"] == {}
    assert second.name in {finding["snapshot"] for finding in result["findings"]}
    assert path.read_bytes() == before
    if kind != "store":
        assert result["manifests_restored"] == [snapshot.name]
    assert f"{second.name}: {path} cannot be read" in findings(site)
    listed = subprocess.run(statelesskit(site, "snapshot", "list"), capture_output=True, text=True, check=False)
    assert (listed.returncode, snapshot.name in listed.stdout, str(path) in listed.stderr) == (9, True, True)
