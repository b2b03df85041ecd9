"""A prototype held against a snapshot: the same as taking and comparing, but nothing is stored."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from statelesskit.contents import Contents
from statelesskit.errors import DamagedError
from statelesskit.manifest import HEADER, Manifest, diff
from statelesskit.prototype import pending
from statelesskit.prototype.pending import look_at
from statelesskit.store import Store
from statelesskit.take import take_tree


def taken(top: Path, store: Store) -> Contents:
    lines: list[bytes] = []
    take_tree(top, store, lines.append)
    return Contents(Manifest.parse(HEADER + b"".join(lines)), store)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    (path / "etc/deep").mkdir(parents=True)
    for name in ("same", "touched", "longer", "swapped", "gone", "hidden", "moded"):
        (path / "etc" / name).write_text(f"content of {name}\n")
    os.link(path / "etc/same", path / "etc/linked")
    (path / "link").symlink_to("etc")
    with (path / "etc/sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    return path


def alter(top: Path) -> None:
    etc = top / "etc"
    os.utime(etc / "touched", ns=(5, 5))
    (etc / "longer").write_text("much longer than it was before\n")
    (etc / "swapped").unlink()
    (etc / "swapped").symlink_to("same")
    (etc / "gone").unlink()
    (etc / "moded").chmod(0o600)
    (etc / "new\udc80").write_text("new\n")
    os.link(etc / "longer", etc / "again")
    was = (etc / "hidden").stat()
    (etc / "hidden").write_text("CONTENT OF HIDDEN\n"[: was.st_size])
    os.utime(etc / "hidden", ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.mark.parametrize("reread", [False, True])
def test_an_unchanged_tree_has_no_changes(top: Path, tmp_path: Path, reread: bool) -> None:
    store = Store(tmp_path / "store")
    before = taken(top, store)
    now, findings = look_at(top, before, store, reread=reread)
    assert now.manifest.lines == before.manifest.lines
    assert findings == []


def test_it_is_what_taking_would_give(top: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    before = taken(top, store)
    alter(top)
    stored = sorted(path.name for path in store.packs.iterdir())
    now, findings = look_at(top, before, store, reread=True)
    quick, _ = look_at(top, before, store)
    assert sorted(path.name for path in store.packs.iterdir()) == stored
    assert findings == []
    after = taken(top, Store(tmp_path / "other"))
    assert now.manifest.lines == after.manifest.lines
    # Without reading all, only the content that was changed behind the file's back is missed.
    assert [change.path for change in diff(quick.manifest, now.manifest)] == [b"etc/hidden"]
    fields = {change.path: change.fields for change in diff(before.manifest, quick.manifest)}
    assert fields[b"etc/touched"] == ("mtime_ns",)
    assert fields[b"etc/moded"] == ("mode",)


def test_reads_only_what_seems_changed(top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    before = taken(top, store)
    alter(top)
    opened: list[bytes] = []
    real = pending.open_file
    monkeypatch.setattr(pending, "open_file", lambda found: (opened.append(found.path), real(found))[1])
    look_at(top, before, store)
    assert opened == [b"etc/again", b"etc/new\x80", b"etc/touched"]


def test_new_contents_are_read_from_the_tree(top: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    before = taken(top, store)
    alter(top)
    now, _ = look_at(top, before, store)
    assert now.read(b"etc/longer", 100) == b"much longer than it was before\n"
    assert now.read(b"etc/same", 100) == b"content of same\n"
    assert now.read(b"etc/new\x80", 100) == b"new\n"
    (top / "etc/new\udc80").write_text("newer\n")
    with pytest.raises(DamagedError, match="changed meanwhile"):
        now.read(b"etc/new\x80", 100)
    (top / "etc/new\udc80").unlink()
    (top / "etc/new\udc80").symlink_to("/etc/passwd")
    with pytest.raises(DamagedError, match="cannot be read any more"):
        now.read(b"etc/new\x80", 100)


def test_what_vanishes_is_a_finding(top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    before = taken(top, store)
    alter(top)

    def vanish(found: object) -> int:
        raise FileNotFoundError(2, os.strerror(2))

    monkeypatch.setattr(pending, "open_file", vanish)
    now, findings = look_at(top, before, store)
    assert {finding.path for finding in findings} == {
        b"etc/again",
        b"etc/longer",  # the other name of the same file
        b"etc/new\x80",
        b"etc/touched",
    }
    Manifest.parse(HEADER + b"".join(now.manifest.lines))


def test_is_quick(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    for number in range(20):
        (top / str(number)).mkdir(parents=True)
        for name in range(100):
            (top / str(number) / str(name)).write_bytes(b"")
    store = Store(tmp_path / "store")
    before = taken(top, store)
    began = time.monotonic()
    assert look_at(top, before, store)[0].manifest.lines == before.manifest.lines
    assert time.monotonic() - began < 2  # 2000 files; it takes 0.06 s on an idle machine
