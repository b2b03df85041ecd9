"""What rots is found, by one pass over the packs for all snapshots, and what is not whole is given to nobody."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from statelesskit import inventory as inventory_module
from statelesskit import store as store_module
from statelesskit.actions.create_channel import CreateChannel
from statelesskit.config import Site
from statelesskit.errors import DamagedError, RefusedError
from statelesskit.inventory import inventory
from statelesskit.pack import Pack
from statelesskit.push import plan_push
from statelesskit.repack import remove_packs, rewrite
from statelesskit.snapshot import Snapshot, load, load_manifest
from statelesskit.snapshot import verify as verify_module
from statelesskit.snapshot.manifest_file import MANIFEST
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import check_whole, verify, verify_all
from statelesskit.snapshot.whole import is_partial, mark_of, objects_of
from statelesskit.store import Store
from tests.torture import add_prototype, statelesskit

pytestmark = pytest.mark.root
NOISE = random.Random(3)


@pytest.fixture
def tree(site: Site) -> Path:
    top = add_prototype(site)
    top.mkdir()
    (top / 'odd "sha256":"name').write_text("odd")
    for number in range(20):
        (top / f"file{number}").write_bytes(NOISE.randbytes(2000))
    return top


@pytest.fixture
def snapshots(site: Site, tree: Path) -> list[Snapshot]:
    """Three: the second has a file more, the third one less."""
    first, _ = take(site, "desktop")
    (tree / "more").write_bytes(NOISE.randbytes(3000))
    second, _ = take(site, "desktop")
    (tree / "file3").unlink()
    third, _ = take(site, "desktop")
    return [first, second, third]


def found(site: Site, *snapshots: Snapshot) -> set[tuple[str, bytes]]:
    return {(name, finding.path) for name, finding in verify_all(site, snapshots)}


def spoil(path: Path, place: int = -1) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x21
    path.write_bytes(data)


def pack_with(site: Site, snapshot: Snapshot, path: bytes) -> Path:
    entry = load_manifest(site, snapshot).find(path)
    assert entry
    (pack,) = Store(site.store).packs_with(bytes.fromhex(entry.sha256))
    return pack


def test_objects_of_a_manifest(site: Site, snapshots: list[Snapshot]) -> None:
    for snapshot in snapshots:
        entries = load_manifest(site, snapshot).entries()
        assert objects_of(site, snapshot) == {bytes.fromhex(entry.sha256) for entry in entries if entry.type == "file"}


def test_each_pack_is_read_once(site: Site, snapshots: list[Snapshot], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = Pack.faults

    def counted(self: Pack, advance: Callable[[int], object] = bool) -> object:
        read.append(self.path)
        return real(self, advance)

    monkeypatch.setattr(Pack, "faults", counted)
    assert found(site, *snapshots) == set()
    assert sorted(read) == sorted((site.store / "packs").iterdir())
    read.clear()
    assert list(verify(site, snapshots[0])) == []
    assert read == [path for path in read if path != pack_with(site, snapshots[1], b"more")]


def test_only_those_that_need_it_are_partial(site: Site, snapshots: list[Snapshot]) -> None:
    first, second, third = snapshots
    pack = pack_with(site, second, b"more")
    whole = pack.read_bytes()
    spoil(pack, 50)
    assert found(site, *snapshots) == {("", b""), (second.name, b"more"), (third.name, b"more")}
    assert [is_partial(site, one.name) for one in snapshots] == [False, True, True]
    check_whole(site, first)
    for one in (second, third):
        with pytest.raises(DamagedError, match="is partial"):
            check_whole(site, one)
    about = json.loads(mark_of(site, second.name).read_text())
    assert (about["count"], about["findings"][0]["path"]) == (1, "more")
    pack.write_bytes(whole)
    assert found(site, *snapshots) == set()
    assert not any(is_partial(site, one.name) for one in snapshots)
    check_whole(site, second)


def test_what_was_found_damaged_is_kept_anew_by_the_next_take(
    site: Site, tree: Path, snapshots: list[Snapshot]
) -> None:
    pack = pack_with(site, snapshots[1], b"more")
    spoil(pack, 50)
    assert found(site, *snapshots)
    _, taken = take(site, "desktop")
    assert taken.new_bytes == 3000
    # Alone in its pack, it came under the same name and took the damaged one's place.
    assert found(site, *snapshots) == set()
    assert not any(is_partial(site, one.name) for one in snapshots)
    assert Store(site.store).listed_damaged() == frozenset()


def test_a_missing_object_is_seen_without_a_verification(site: Site, snapshots: list[Snapshot]) -> None:
    pack_with(site, snapshots[1], b"more").unlink()
    check_whole(site, snapshots[0])
    with pytest.raises(DamagedError, match="1 objects are not in the store"):
        check_whole(site, snapshots[1])
    assert found(site, *snapshots) == {(snapshots[1].name, b"more"), (snapshots[2].name, b"more")}


def test_one_that_is_deleted_meanwhile_is_passed_over(site: Site, snapshots: list[Snapshot]) -> None:
    shutil.rmtree(site.snapshots / snapshots[1].name)
    assert found(site, *snapshots) == set()


def test_packs_that_are_written_anew_meanwhile_are_no_finding(
    site: Site, snapshots: list[Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Pack.faults

    def late(self: Pack, advance: Callable[[int], object] = bool) -> object:
        store = Store(site.store)
        packs = [pack.path for pack in store.readable_packs()]
        new = rewrite(store, packs, objects_of(site, snapshots[1]) | objects_of(site, snapshots[2]), level=2)
        remove_packs(store, [path for path in packs if path not in new.packs])
        monkeypatch.setattr(Pack, "faults", real)
        return real(self, advance)

    monkeypatch.setattr(verify_module, "THREADS", 1)
    monkeypatch.setattr(Pack, "faults", late)
    assert found(site, *snapshots[1:]) == set()
    assert found(site, *snapshots[1:]) == set()


def test_a_manifest_that_is_none_hurts_no_other(site: Site, snapshots: list[Snapshot]) -> None:
    (site.snapshots / snapshots[1].name / MANIFEST).write_bytes(b"garbage")
    pack_with(site, snapshots[2], b"file0").unlink()
    lost = {b"file0", *(f"file{n}".encode() for n in range(20))}
    rows = found(site, *snapshots)
    assert (snapshots[1].name, b"") in rows
    assert {path for name, path in rows if name == snapshots[0].name} >= {b"file0"}
    assert {path for name, path in rows if name == snapshots[2].name} <= lost | {b'odd "sha256":"name', b"more"}
    with pytest.raises(DamagedError):
        check_whole(site, snapshots[1])


def test_counts_go_on_from_one_snapshot_to_the_next(site: Site, snapshots: list[Snapshot]) -> None:
    for number, wrong in enumerate(snapshots):
        about = site.snapshots / wrong.name / "snapshot.json"
        held = about.read_text()
        about.write_text(json.dumps(json.loads(held) | {"bytes": wrong.bytes + 1}))
        assert found(site, *(load(site, one.name) for one in snapshots)) == {(snapshots[number].name, b"")}
        about.write_text(held)
    assert found(site, *reversed(snapshots)) == set()


def test_the_index_and_the_inventory_are_mended_and_it_is_said(
    site: Site, snapshots: list[Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "FEW_OBJECTS", 0)
    store = Store(site.store)
    store.missing([bytes(32)])
    inventory(site, snapshots[0])
    kept = site.snapshots / snapshots[0].name / inventory_module.INVENTORY
    assert run(site, 0) == []
    spoil(store.index_file, 30)
    spoil(kept, 30)
    rows = run(site, 1)
    assert [row["snapshot"] for row in rows] == ["", snapshots[0].name]
    assert str(store.index_file) in rows[0]["finding"]
    assert str(kept) in rows[1]["finding"]
    assert run(site, 0) == []
    assert not is_partial(site, snapshots[0].name)


def run(site: Site, expected: int, *words: str) -> list[dict[str, str]]:
    argv = statelesskit(site, "snapshot", "verify", "--json", *words)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_partial_snapshot_is_given_to_nobody(site: Site, snapshots: list[Snapshot], tmp_path: Path) -> None:
    name = snapshots[1].name
    spoil(pack_with(site, snapshots[1], b"more"), 50)
    assert {row["snapshot"] for row in run(site, 1)} == {"", name, snapshots[2].name}
    for kind in ("tree", "squashfs"):
        argv = statelesskit(site, "export", kind, name, tmp_path / kind)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 9, done.stderr
        assert f"{name} is partial" in done.stderr
        assert not (tmp_path / kind).exists()
    with pytest.raises(DamagedError, match="is partial"):
        CreateChannel(channel="desktop/stable", snapshot=name).plan(site)

    class Directory:
        def channel(self, name: str) -> None:
            return None

    with pytest.raises(RefusedError, match="is partial"):
        plan_push(site, Directory(), "desktop/stable", name)  # type: ignore[arg-type]
    listed = subprocess.run(
        statelesskit(site, "snapshot", "list", "--json"), capture_output=True, text=True, check=True
    )
    assert [json.loads(line)["partial"] for line in listed.stdout.splitlines()] == [False, True, True]
    shown = subprocess.run(statelesskit(site, "snapshot", "show", name), capture_output=True, text=True, check=True)
    assert "partial" in shown.stdout
