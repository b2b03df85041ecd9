"""Every byte of a small site, altered: each is found by a verification, or heals because it is derived."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from statelesskit.config import Site
from statelesskit.errors import StatelessError
from statelesskit.inventory import INVENTORY, inventory
from statelesskit.manifest import HEADER
from statelesskit.snapshot import Snapshot, list_snapshots
from statelesskit.snapshot.description import ABOUT, MANIFEST
from statelesskit.snapshot.taking import MEMORY, take
from statelesskit.snapshot.verify import verify
from statelesskit.store import Store
from statelesskit.take import take_tree
from tests.torture import add_prototype


@pytest.fixture
def snapshot(site: Site) -> Snapshot:
    top = add_prototype(site)
    (top / "etc").mkdir(parents=True)
    (top / "etc/os-release").write_text('ID=debian\nNAME="A name"\n')
    (top / "one").write_text("the content of one, " * 30)
    (top / "empty").touch()
    (top / "two").symlink_to("one")
    found, _ = take(site, "desktop", note="a note with an ä")
    inventory(site, found)
    return found


BITS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF)


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def altered(path: Path, ways: tuple[int, ...] = BITS) -> Iterator[bytes]:
    """Alter each byte of a file in several ways, one after the other, and cut the file there; then restore it."""
    whole = path.read_bytes()
    path.chmod(0o644)
    for place in range(len(whole)):
        for bits in ways:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            yield whole
        path.write_bytes(whole[:place])
        yield whole
    path.write_bytes(whole + b"\0")
    yield whole
    path.write_bytes(whole)


def findings(site: Site) -> list[str]:
    """Say all that a verification of the whole site says."""
    try:
        return [finding.finding for found in list_snapshots(site) for finding in verify(site, found)]
    except StatelessError as error:
        return [error.message]


def test_every_byte_of_a_pack_is_watched(site: Site, snapshot: Snapshot) -> None:
    packs = list((site.store / "packs").iterdir())
    for path in packs:
        for _ in altered(path):
            assert any(path.name in finding for finding in findings(site))
    assert packs
    assert findings(site) == []


def test_every_byte_of_a_manifest_is_watched(site: Site, snapshot: Snapshot) -> None:
    path = site.snapshots / snapshot.name / MANIFEST
    for _ in altered(path):
        assert any(str(path) in finding for finding in findings(site))
    assert findings(site) == []


def test_every_byte_of_a_description_is_watched(site: Site, snapshot: Snapshot) -> None:
    path = site.snapshots / snapshot.name / ABOUT
    for whole in altered(path):
        if not any(str(path) in finding for finding in findings(site)):  # JSON has more than one way to say a thing
            assert json.loads(path.read_bytes()) == json.loads(whole)
    assert findings(site) == []


def test_an_altered_inventory_heals(site: Site, snapshot: Snapshot) -> None:
    path = site.snapshots / snapshot.name / INVENTORY
    right = inventory(site, snapshot)
    for whole in altered(path, (0x01, 0x20)):
        assert inventory(site, snapshot) == right
        assert path.read_bytes() == whole or json.loads(path.read_bytes()) == json.loads(whole)


def test_an_altered_memory_is_not_believed(site: Site, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    path = site.prototypes / "desktop" / MEMORY
    whole = path.read_bytes()

    def digest() -> str:
        total = hashlib.sha256(HEADER)
        take_tree(site.prototypes / "desktop/tree", Store(site.store), total.update, memory_file=path)
        return f"sha256:{total.hexdigest()}"

    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert digest() == snapshot.digest
        path.write_bytes(whole[:place])
        assert digest() == snapshot.digest
    assert findings(site) == []
