"""What went wrong with others' stores, item by item; here are the tests that stand nowhere else.

OSTree's destructive tests and field bugs, composefs' should-fail dumps, casync's and swupd's lists:

- A flipped byte is found, repaired, and clean again: test_flips.py, test_repair.py, test_nothing_lost.py.
- An object under another's name: here. One that is missing makes a snapshot partial, and it is given to
  nobody: test_verify.py. Only a mode or an owner altered: here.
- Repair and fetch again: test_repair.py. A path that leads out of the tree: test_manifest.py, test_export.py
  ("hostile manifest"), test_copy.py ("made by an attacker"), test_archive.py ("hostile archive").
- Many takes at once lose no entry: here. A collection beside a take, an export, a copy: test_collect.py,
  test_nothing_lost.py, test_copy.py ("collected meanwhile").
- No room, at any step and on a real small disk: test_crash.py, test_snapshots.py, test_copy.py, test_archive.py.
- kill -9 and lost power at any step: test_crash.py; at random moments of real commands: test_snapshots.py,
  test_collect.py, test_repair.py, test_copy.py. Run again after that: test_crash.py.
- Manifests that name nothing, ``.``, ``..``, ``/``; hard links to folders and to themselves; attributes too
  large; lines cut off: test_manifest.py. The same tree has the same digest at two sites: here; archives are
  the same bytes: test_archive.py. A store that was altered gives an error, never wrong bytes: test_export.py.
- Source content that is wrong, an object that is missing in one place and whole in the other: test_repair.py.
- Holes and zeros, unusual names, hard links, devices and sockets, types that change: torture.py by
  test_take.py, test_export.py and test_archive.py; test_memory.py, test_restore.py.
- Inode numbers beyond 32 bits: here. A tree that changes while it is read: test_take.py.
- Names with ``../``: here, and for archives in test_archive.py.
- Machine ids and host keys in a snapshot: test_prepare.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from statelesskit.config import Site
from statelesskit.errors import DamagedError, NameInvalidError
from statelesskit.memory import fingerprint
from statelesskit.snapshot import Snapshot, list_snapshots, load, load_manifest, manifest_text, set_state
from statelesskit.snapshot.description import ABOUT, MANIFEST
from statelesskit.snapshot.manifest_file import zstd
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import check_whole, verify_all
from statelesskit.store import Store, Writer
from tests.torture import add_prototype
from tests.two_sites import TwoSites

pytestmark = pytest.mark.root


@pytest.fixture
def snapshot(site: Site) -> Snapshot:
    top = add_prototype(site)
    top.mkdir()
    (top / "file").write_text("a content that lies in the store")
    return take(site, "desktop")[0]


def test_a_pack_under_the_name_of_another_is_named(site: Site, snapshot: Snapshot) -> None:
    (right,) = (site.store / "packs").glob("*.pack")
    with Writer(Store(site.store), 1) as writer:
        writer.add(0, b"of nobody")
        writer.finish()
    (other,) = set((site.store / "packs").glob("*.pack")) - {right}
    other.replace(right)
    found = list(verify_all(site, [snapshot]))
    assert any(not name and right.name in finding.finding for name, finding in found)
    assert (snapshot.name, b"file") in {(name, finding.path) for name, finding in found}
    with pytest.raises(DamagedError, match="partial"):
        check_whole(site, snapshot)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"mode":420', b'"mode":2541'), (b'"path":"file"', b'"path":"file","uid":5')]
)
def test_a_mode_or_an_owner_that_was_altered_in_the_manifest_is_found(
    site: Site, snapshot: Snapshot, old: bytes, new: bytes
) -> None:
    """Also by one who writes a whole new description for it: the digest is what the snapshot is named for."""
    folder = site.snapshots / snapshot.name
    text = manifest_text(site, snapshot)
    assert old in text
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_bytes(zstd.compress(text.replace(old, new)))
    found = [finding.finding for _, finding in verify_all(site, [snapshot])]
    assert any(str(folder / MANIFEST) in finding and snapshot.digest in finding for finding in found)
    with pytest.raises(DamagedError):
        check_whole(site, snapshot)
    with pytest.raises(DamagedError):
        load_manifest(site, snapshot)


def test_takes_of_many_at_once_lose_no_entry(site: Site) -> None:
    names = [f"prototype{number}" for number in range(2 * (os.cpu_count() or 1))]
    for name in names:
        top = add_prototype(site, name) if name == names[0] else _another(site, names[0], name)
        top.mkdir()
        (top / "own").write_text(name)
        (top / "shared").write_text("the same in all")
    children = []
    for name in names:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(3):
                    take(site, name)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(names)
    listed = list_snapshots(site)
    assert [(one.prototype, one.sequence) for one in listed] == [(name, n) for name in sorted(names) for n in (1, 2, 3)]
    assert list(verify_all(site, listed, everything=True)) == []


def _another(site: Site, like: str, name: str) -> Path:
    (site.prototypes / name).mkdir()
    shutil.copy(site.prototypes / like / "prototype.json", site.prototypes / name)
    return site.prototypes / name / "tree"


def test_the_same_tree_has_the_same_digest_at_two_sites(tmp_path: Path) -> None:
    sites = TwoSites(tmp_path / "base")
    (sites.tree / "sparse").touch()
    os.truncate(sites.tree / "sparse", 10_000)
    sites.change()
    sites.take(sites.there)
    sites.write("later", b"")
    assert sites.take(sites.here).digest == sites.take(sites.there).digest


def test_inode_numbers_beyond_32_bits_are_told_apart(tmp_path: Path) -> None:
    inodes = (7, 7 + 2**32, 7 + 2**63, 2**64 - 1)
    assert len({fingerprint(_Stat(tmp_path.stat(), inode)) for inode in inodes}) == len(inodes)


class _Stat:
    """What stat says, with another inode number."""

    def __init__(self, info: os.stat_result, inode: int) -> None:
        self._info, self.st_ino = info, inode

    def __getattr__(self, name: str) -> object:
        return getattr(self._info, name)


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "", "/etc", "desktop-20261124T090000Z/../../x", "a/b", "x\0", "-rf"]
)
def test_a_name_leads_nowhere_else(site: Site, snapshot: Snapshot, name: str) -> None:
    with pytest.raises(NameInvalidError):
        load(site, name)
    with pytest.raises(NameInvalidError):
        set_state(site, name, "tested")


def test_a_description_that_names_another_place_is_refused(site: Site, snapshot: Snapshot) -> None:
    path = site.snapshots / snapshot.name / ABOUT
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"name": "../../x"}))
    with pytest.raises(DamagedError, match="is about"):
        list_snapshots(site)
    path.write_text(json.dumps(about | {"digest": "sha256:" + hashlib.sha256(b"").hexdigest()}))
    assert any(str(path) in finding.finding for _, finding in verify_all(site, list_snapshots(site)))
