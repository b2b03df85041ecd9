"""Exports that share files: only what is the same and untouched, and each is equal to its own manifest."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from statelesskit.config import Site
from statelesskit.errors import DamagedError, NoSpaceError, RefusedError
from statelesskit.export import tree
from statelesskit.export.registry import registered, seen_of
from statelesskit.export.snapshot_tree import Exported, export_snapshot
from statelesskit.snapshot import load
from statelesskit.snapshot.taking import take
from statelesskit.write_tree import write_tree
from tests.torture import add_prototype, scratch, statelesskit
from tests.witness import look

pytestmark = pytest.mark.root


@pytest.fixture
def top(site: Site) -> Path:
    """A prototype with a little of everything that matters to sharing."""
    top = add_prototype(site)
    (top / "sub").mkdir(parents=True)
    for name in ("same", "edited", "longer", "gone", "moded", "sub/deep", "twin1", "twin2"):
        (top / name).write_text(f"content of {name[:4]}\n")
        os.utime(top / name, ns=(0, 10**18))
    os.setxattr(top / "same", "user.x", b"1")
    os.link(top / "gone", top / "sub/linked")
    os.link(top / "sub/deep", top / "sub/deeper")
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    (top / "setuid").write_text("s")
    (top / "setuid").chmod(0o4755)
    (top / "symlink").symlink_to("same")
    os.mkfifo(top / "fifo")
    return top


def export(site: Site, name: str, target: Path | None = None, **options: object) -> tuple[Path, Exported]:
    snapshot, _ = take(site, "desktop")
    place = target or site.exports / name
    return place, export_snapshot(site, load(site, snapshot.name), place, **options)  # type: ignore[arg-type]


def shared(one: Path, two: Path) -> set[str]:
    files = [path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        name for name in files if (two / name).exists() and os.path.samestat((one / name).stat(), (two / name).stat())
    }


ALONE = {"same", "edited", "longer", "moded", "twin1", "twin2", "sparse", "setuid"}


def test_the_next_export_links_what_is_the_same(site: Site, top: Path) -> None:
    one, first = export(site, "one")
    before = look(top)
    assert first.shared == 0
    assert look(one) == before
    (top / "longer").write_text("longer than it was\n")
    (top / "moded").chmod(0o600)
    two, second = export(site, "two")
    assert look(two) == look(top)
    assert look(one) == before
    assert shared(one, two) == ALONE - {"longer", "moded"}  # and nothing that has several names in its tree
    assert second.shared == len(ALONE) - 2
    three, third = export(site, "three", reread=True)
    assert (look(three), third.shared) == (look(top), len(ALONE))
    assert not os.path.samestat((two / "twin1").stat(), (two / "twin2").stat())
    store = {path.stat().st_ino for path in site.store.rglob("*")}
    assert not store & {path.stat().st_ino for path in three.rglob("*")}
    assert [item.path for item in registered(site)] == [one, two, three]


EDITS: list[Callable[[Path], object]] = [
    lambda path: path.write_text("CONTENT of edit\n"),
    lambda path: path.write_text("short"),
    lambda path: path.chmod(0o666),
    lambda path: os.chown(path, 5, 5),
    lambda path: os.setxattr(path, "user.more", b""),
    lambda path: (path.unlink(), path.write_text("CONTENT of edit\n")),
    lambda path: (path.unlink(), path.symlink_to("same")),
    lambda path: (path.unlink(), os.link(path.parent / "setuid", path)),
    lambda path: (path.unlink(), path.mkdir()),
    lambda path: path.unlink(),
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("seen", [True, False])
def test_what_was_edited_in_an_export_is_never_spread(
    site: Site, top: Path, edit: Callable[[Path], object], seen: bool
) -> None:
    """Also when its time was put back, and also when there are no fingerprints to go by."""
    one, _ = export(site, "one")
    edit(one / "edited")
    if not (one / "edited").is_symlink() and (one / "edited").exists():
        os.utime(one / "edited", ns=(0, 10**18))
    if not seen:
        for path in site.exports.glob("registered/*.seen"):
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert seen_of(site, one) == b""
    two, done = export(site, "two")
    assert look(two) == look(top)
    assert "edited" not in shared(one, two)
    assert "same" in shared(one, two)
    assert done.shared >= len(ALONE) - 2


def test_removing_an_export_moves_ctimes_but_the_rest_is_still_shared(site: Site, top: Path) -> None:
    one, _ = export(site, "one")
    two, _ = export(site, "two")
    shutil.rmtree(one)
    time.sleep(0.03)  # what changed just now is not believed
    assert [item.path for item in registered(site)] == [two]
    three, done = export(site, "three")
    assert (look(three), done.shared) == (look(top), len(ALONE))
    two.rename(two.with_name("moved"))
    two.mkdir()  # another folder at the same path is not that export
    assert [item.path for item in registered(site)] == [three]


def test_a_known_file_is_not_read_again(site: Site, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(site, "one")
    read: list[bytes] = []
    monkeypatch.setattr(
        "statelesskit.export.sharing.Sharing._holds", lambda self, entry, found: read.append(entry.path)
    )
    for name in ("two", "three"):
        _, done = export(site, name)
        assert (read, done.shared) == ([], len(ALONE))


def test_elsewhere_it_shares_only_when_told_to(site: Site, top: Path, tmp_path: Path) -> None:
    one, _ = export(site, "one")
    two, done = export(site, "", tmp_path / "two")
    assert (shared(one, two), done.shared) == (set(), 0)
    three, done = export(site, "", tmp_path / "three", share_with=two)
    assert (shared(two, three), done.shared) == (ALONE, len(ALONE))
    assert look(three) == look(top)
    assert export(site, "four")[1].shared == len(ALONE)
    assert not shared(site.exports / "four", two)


def test_another_file_system_is_refused_or_left_alone(site: Site, top: Path) -> None:
    one, _ = export(site, "one")
    with scratch() as place:
        (place / "other").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", place / "other"], check=True)
        with pytest.raises(RefusedError, match="another file system"):
            export(site, "", place / "other/two", share_with=one)
        assert list((place / "other").iterdir()) == []


def test_a_file_that_is_written_to_meanwhile_is_seen(site: Site, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = export(site, "one")

    def written(*args: object) -> None:
        write_tree(*args)  # type: ignore[arg-type]
        (one / "edited").write_text("CONTENT of edit\n")
        os.utime(one / "edited", ns=(0, 10**18))

    monkeypatch.setattr(tree, "write_tree", written)
    with pytest.raises(DamagedError, match="edited was written to"):
        export(site, "two")
    assert not (site.exports / "two").exists()
    assert [item.path for item in registered(site)] == [one]


def test_a_failed_export_leaves_the_other_as_it_was(site: Site, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = export(site, "one")
    before = look(one)
    (top / "new").write_text("new")

    def full(*args: object, **more: object) -> None:
        raise NoSpaceError("the disk is full")

    monkeypatch.setattr("statelesskit.export.tree.check_tree", full)
    with pytest.raises(NoSpaceError):
        export(site, "two")
    assert look(one) == before
    assert {path.name for path in site.exports.iterdir()} == {"one", "registered"}


def test_an_export_that_is_killed_leaves_the_other_as_it_was(site: Site, top: Path) -> None:
    for name in range(600):
        (top / f"small{name}").write_text(f"{name}")
    (top / "large").write_bytes(os.urandom(2**20) * 60)
    one, _ = export(site, "one")
    before = look(one)
    (top / "large").write_bytes(os.urandom(2**20) * 60)
    snapshot, _ = take(site, "desktop")
    argv = statelesskit(site, "export", "tree", snapshot.name, site.exports / "two")
    for enough in (1, 300, 600):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        made = 0
        while process.poll() is None and made < enough:
            with suppress(FileNotFoundError):  # it just got its name
                made = sum(len(list(path.iterdir())) for path in site.exports.glob(".two.partial-*"))
        process.kill()
        process.wait()
        assert look(one) == before
        assert [item.path for item in registered(site) if item.path != site.exports / "two"] == [one]
        shutil.rmtree(site.exports / "two", ignore_errors=True)  # it was quicker
    subprocess.run(argv, check=True, capture_output=True)
    assert look(site.exports / "two") == look(top)
    assert look(one) == before
    assert len(shared(one, site.exports / "two")) == len(ALONE) + 600
    assert {path.name for path in site.exports.iterdir()} == {"one", "two", "registered"}


def test_what_cannot_be_read_of_an_export_is_said(site: Site, top: Path) -> None:
    export(site, "one")
    (path,) = site.exports.glob("registered/*.json")
    good = path.read_text()
    for bad in ("", "[]", "{}", good.replace('"format": 1', '"format": 2'), good.replace('"inode"', '"node"')):
        path.write_text(bad)
        with pytest.raises(DamagedError, match=r"registered/.* cannot be read"):
            registered(site)
