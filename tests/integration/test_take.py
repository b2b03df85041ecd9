"""Taking: nothing lost, nothing altered, what can't be kept is named, and whatever dies leaves nothing half-made."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from statelesskit import fs, take, tree
from statelesskit.config import Site
from statelesskit.contents import Contents
from statelesskit.export.tree import export_tree
from statelesskit.manifest import HEADER, LINE_MAX, PATH_MAX, Entry, Manifest
from statelesskit.prototype.pending import look_at
from statelesskit.prototype.prepare import Rules
from statelesskit.store import Store
from statelesskit.take import TICK_NS, Taken, take_tree
from tests.torture import build, scratch
from tests.witness import look

pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


def taken(top: Path, store: Store) -> tuple[Manifest, Taken]:
    lines: list[bytes] = []
    result = take_tree(top, store, lines.append)
    return Manifest.parse(HEADER + b"".join(lines)), result


def findings(result: Taken) -> dict[bytes, str]:
    return {finding.path: finding.finding for finding in result.findings}


def entry(manifest: Manifest, path: bytes) -> Entry:
    found = manifest.find(path)
    assert found is not None
    return found


def content(store: Store, found: Entry) -> bytes:
    return b"".join(store.read(bytes.fromhex(found.sha256)))


def leftovers(site: Site) -> list[Path]:
    return [path for folder in (site.snapshots, site.store / "packs") for path in folder.glob(f".*{fs.PARTIAL}*")]


# --- nothing lost -----------------------------------------------------------------------------


def test_a_tree_with_everything_comes_back_and_is_left_as_it_was(place: Path) -> None:
    build(place / "source")
    before = look(place / "source", times_of_reading=True)
    store = Store(place / "store")
    manifest, result = taken(place / "source", store)
    assert result.findings == []
    assert result.entries == len(before) == len(manifest.lines)
    assert look(place / "source", times_of_reading=True) == before

    again, second = taken(place / "source", store)
    assert again.lines == manifest.lines
    assert (second.new_bytes, second.findings) == (0, [])

    assert export_tree(manifest, store, place / "out") == []
    expected = look(place / "source")
    found = look(place / "out")
    for path, facts in expected.items():
        assert found[path] == facts, path[-100:]
    assert found.keys() == expected.keys()


def test_entries_come_in_the_order_of_whole_paths(place: Path) -> None:
    for path in ("a", "a-/x", "a-b/y", "a.b", "a/b/c", "a/b.c", "a/b-/z", "a0", "B"):
        below = place / "tree" / path
        below.parent.mkdir(parents=True, exist_ok=True)
        if not below.exists():
            below.mkdir() if path == "a" else below.write_text("x")
    paths = [found.path for found in tree.walk(place / "tree", print)]
    assert paths == sorted(paths)
    assert len(paths) == len(look(place / "tree"))


def test_what_a_manifest_cannot_hold_is_a_finding(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = place / "tree"
    top.mkdir()
    (top / "holes").write_bytes(b"x")
    (top / "attributes").mkdir()
    (top / "attributes/below").write_text("x")
    (top / "time").write_text("x")
    real_holes, real_xattrs, real_describe = take.holes_of, take.xattrs_of, take.describe
    many = tuple((n * 10**9, 1) for n in range(LINE_MAX // 12))
    huge = tuple((b"user.%d" % n, bytes(65536)) for n in range(20))
    named = {os.stat(top / name).st_ino: name for name in ("holes", "attributes", "time")}

    def holes(fd: int, size: int) -> tuple[tuple[int, int], ...]:
        return many if named.get(os.fstat(fd).st_ino) == "holes" else real_holes(fd, size)

    def xattrs(where: int | str) -> tuple[tuple[bytes, bytes], ...]:
        return huge if isinstance(where, str) and where.endswith("/attributes") else real_xattrs(where)

    def describe(found: tree.Found, info: os.stat_result, attributes: tree.Xattrs, **content: object) -> Entry:
        from dataclasses import replace

        made = real_describe(found, info, attributes, **content)
        return replace(made, mtime_ns=2**70) if found.path == b"time" else made

    monkeypatch.setattr(take, "holes_of", holes)
    monkeypatch.setattr(take, "xattrs_of", xattrs)
    monkeypatch.setattr(take, "describe", describe)
    store = Store(place / "store")
    manifest, result = taken(top, store)
    assert {path: text.split(",")[0] for path, text in findings(result).items()} == {
        b"holes": f"it has {len(many)} holes",
        b"attributes": "its extended attributes are too large to keep; they are left out",
        b"time": "its time is outside the years 1677 to 2262; the nearest of them is kept",
    }
    assert entry(manifest, b"time").mtime_ns == 2**63 - 1
    assert len(manifest.lines) == 5


def test_a_path_too_long_for_a_manifest_is_a_finding_and_all_else_is_taken(place: Path) -> None:
    (place / "tree").mkdir()
    (place / "tree/z").write_text("still here")
    folder = os.open(place / "tree", os.O_RDONLY)
    for _ in range(PATH_MAX // 251 + 2):
        os.mkdir(b"n" * 250, dir_fd=folder)
        below = os.open(b"n" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    manifest, result = taken(place / "tree", Store(place / "store"))
    assert ["longer than" in finding.finding for finding in result.findings] == [True]
    assert manifest.find(b"z")


# --- findings ---------------------------------------------------------------------------------


def test_mounts_in_the_tree_are_findings_and_are_not_entered(place: Path) -> None:
    top = place / "tree"
    for name in ("tmpfs", "bind", "with space\n"):
        (top / name).mkdir(parents=True)
    (top / "file").write_text("covered")
    (place / "elsewhere").mkdir()
    (place / "elsewhere/secret").write_text("not of the tree")
    mounts = [
        ["mount", "-t", "tmpfs", "none", top / "tmpfs"],
        ["mount", "--bind", place / "elsewhere", top / "bind"],
        ["mount", "--bind", place / "elsewhere", top / "with space\n"],
        ["mount", "--bind", place / "elsewhere/secret", top / "file"],
    ]
    try:
        for argv in mounts:
            subprocess.run(argv, check=True)
        (top / "tmpfs/inside").write_text("x")
        store = Store(place / "store")
        manifest, result = taken(top, store)
        assert set(findings(result)) == {b"tmpfs", b"bind", b"with space\n", b"file"}
        assert all("mounted" in text for text in findings(result).values())
        assert [found.path for found in manifest.entries()] == [b"", b"bind", b"tmpfs", b"with space\n"]
        assert store.pack_files() == frozenset()
        with pytest.raises(OSError, match="mounted") as raised:
            fs.remove_tree(top)
        assert raised.value.errno == errno.EBUSY
        assert (place / "elsewhere/secret").read_text() == "not of the tree"
    finally:
        for argv in mounts:
            subprocess.run(["umount", argv[-1]], check=False)


def test_a_tree_mounted_in_itself_ends(place: Path) -> None:
    top = place / "tree"
    (top / "a/loop").mkdir(parents=True)
    (top / "a/file").write_text("once")
    subprocess.run(["mount", "--bind", top, top / "a/loop"], check=True)
    try:
        manifest, result = taken(top, Store(place / "store"))
    finally:
        subprocess.run(["umount", top / "a/loop"], check=True)
    assert [found.path for found in manifest.entries()] == [b"", b"a", b"a/file", b"a/loop"]
    assert "mounted" in findings(result)[b"a/loop"]


def test_what_nobody_may_change_is_taken(place: Path) -> None:
    top = place / "tree"
    (top / "sealed/inside").mkdir(parents=True)
    (top / "fixed").write_text("for ever")
    (top / "log").write_text("so far")
    flags = {"fixed": "+i", "log": "+a", "sealed": "+i", ".": "+a"}
    try:
        for name, flag in flags.items():
            if subprocess.run(["chattr", flag, top / name], check=False).returncode:
                pytest.skip("this file system knows no such flags, or we may not set them")
        time.sleep(TICK_NS / 1e9 * 1.5)  # what has just changed would be looked at again
        store, lines = Store(place / "store"), list[bytes]()
        for _ in range(2):  # the second time from memory
            lines.clear()
            result = take_tree(top, store, lines.append, memory_file=place / "memory")
            assert findings(result) == {
                b"": "it is append-only (chattr), which is not kept",
                b"fixed": "it is immutable (chattr), which is not kept",
                b"log": "it is append-only (chattr), which is not kept",
                b"sealed": "it is immutable (chattr), which is not kept",
            }
    finally:
        for name in flags:
            subprocess.run(["chattr", "-ia", top / name], check=False)
    manifest = Manifest.parse(HEADER + b"".join(lines))
    assert [found.path for found in manifest.entries()] == [b"", b"fixed", b"log", b"sealed", b"sealed/inside"]
    assert [content(store, entry(manifest, name)) for name in (b"fixed", b"log")] == [b"for ever", b"so far"]


def test_an_emptied_file_is_no_other_name_of_what_has_its_content(place: Path) -> None:
    top = place / "tree"
    top.mkdir()
    (top / "m").write_text("secret")
    for name in ("a", "n", "z"):
        os.link(top / "m", top / name)
    lines: list[bytes] = []
    take_tree(top, Store(place / "store"), lines.append, rules=Rules(empty=("m", "n")))
    manifest = Manifest.parse(HEADER + b"".join(lines))
    found = [(one.path, one.type, one.size, one.link_to) for one in manifest.entries()][1:]
    assert found == [(b"a", "file", 6, b""), (b"m", "file", 0, b""), (b"n", "link", 0, b"m"), (b"z", "link", 0, b"a")]
    now, _ = look_at(
        top, Contents(manifest, Store(place / "store")), Store(place / "store"), rules=Rules((), ("m", "n"))
    )
    assert now.manifest.lines == manifest.lines


def test_a_file_that_someone_writes_to_all_the_time_is_a_finding(place: Path) -> None:
    (place / "tree").mkdir()
    (place / "tree/quiet").write_text("quiet")
    stop = threading.Event()

    def append() -> None:
        with (place / "tree/log").open("ab", buffering=0) as log:
            while not stop.is_set():
                log.write(b"x" * 4096)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        time.sleep(0.05)
        store = Store(place / "store")
        manifest, result = taken(place / "tree", store)
    finally:
        stop.set()
        thread.join()
    assert findings(result) == {b"log": "it changed while it was read, 3 times"}
    assert len(content(store, entry(manifest, b"log"))) == entry(manifest, b"log").size
    assert content(store, entry(manifest, b"quiet")) == b"quiet"


@pytest.mark.parametrize("size", [100, 5 * 2**20])
@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_changes_once_is_read_again(
    place: Path, size: int, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "tree/file"
    path.parent.mkdir()
    path.write_bytes(b"a" * size)
    real = take._pread
    calls = iter(range(10**6))

    def pread(fd: int, length: int, offset: int) -> bytes:
        piece = real(fd, length, offset)
        if next(calls) == 0:
            if change == "shrink":
                os.truncate(path, size // 2)
            with path.open("r+b") as file:
                if change == "grow":
                    file.seek(0, os.SEEK_END)
                file.write(b"b" * 50)
        return piece

    monkeypatch.setattr(take, "_pread", pread)
    store = Store(place / "store")
    manifest, result = taken(place / "tree", store)
    assert result.findings == []
    assert content(store, entry(manifest, b"file")) == path.read_bytes()


def test_two_changes_in_one_tick_of_the_clock_are_not_missed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As git's "racily clean": the times after the change are those before it."""
    monkeypatch.setattr(take, "TICK_NS", 500_000_000)  # long enough for a busy machine to get from here to the reading
    path = place / "tree/file"
    path.parent.mkdir()
    path.write_bytes(b"old")
    real, calls = take._pread, iter(range(10**6))
    version = take._version
    first = version(path.stat())

    def pread(fd: int, length: int, offset: int) -> bytes:
        piece = real(fd, length, offset)
        if next(calls) == 0:
            path.write_bytes(b"new")
        return piece

    monkeypatch.setattr(take, "_pread", pread)
    monkeypatch.setattr(take, "_version", lambda info: first if next(calls) < 4 else version(info))
    store = Store(place / "store")
    manifest, _ = taken(place / "tree", store)
    assert content(store, entry(manifest, b"file")) == b"new"


def test_a_file_that_grows_for_ever_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "tree/file"
    path.parent.mkdir()
    path.write_bytes(bytes(take.LARGE))
    read = []

    def pread(fd: int, length: int, offset: int) -> bytes:
        read.append(length)
        assert len(read) < 100
        return b"\1" * length

    monkeypatch.setattr(take, "_pread", pread)
    _, result = taken(place / "tree", Store(place / "store"))
    assert list(findings(result)) == [b"file"]


@pytest.mark.parametrize("at_rest", [True, False])
def test_large_holes_are_not_read_where_nobody_just_wrote(
    place: Path, at_rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, size = place / "tree/giant", 40 * take.PIECE + 5
    path.parent.mkdir()
    with path.open("wb") as file:
        for offset in (0, 7 * take.PIECE + 100, 20 * take.PIECE - 1, size - 3):
            file.seek(offset)
            file.write(b"xyz")
    time.sleep(TICK_NS / 1e9 * 1.5)  # what has just changed would be read again
    read, real = [], take._pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        read.append(len(piece := real(fd, length, offset)))
        return piece

    monkeypatch.setattr(take, "_pread", pread)
    monkeypatch.setattr(take, "REST_NS", 0 if at_rest else 10**12)
    manifest, result = taken(place / "tree", store := Store(place / "store"))
    assert result.findings == []
    assert b"".join(store.read(bytes.fromhex(entry(manifest, b"giant").sha256))) == path.read_bytes()
    assert sum(read) < 6 * take.PIECE if at_rest else sum(read) == size


def replacing(monkeypatch: pytest.MonkeyPatch, path: Path, act) -> None:  # type: ignore[no-untyped-def]
    """Do something to a file between the moment the walk sees it and the moment it is opened."""
    real = take.open_file

    def open_file(found: tree.Found) -> int:
        if found.path == os.fsencode(path.name):
            act()
        return real(found)

    monkeypatch.setattr(take, "open_file", open_file)


def test_files_that_vanish_are_findings_and_their_other_names_are_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = place / "tree"
    top.mkdir()
    (top / "gone").write_text("content")
    os.link(top / "gone", top / "other name")
    os.link(top / "gone", top / "third name")
    replacing(monkeypatch, top / "gone", (top / "gone").unlink)
    store = Store(place / "store")
    manifest, result = taken(top, store)
    assert findings(result) == {
        b"gone": "it could not be read: No such file or directory",
        b"": "the folder changed while it was read",
    }
    assert content(store, entry(manifest, b"other name")) == b"content"
    assert entry(manifest, b"third name").link_to == b"other name"


def test_a_hard_link_to_a_file_that_could_not_be_read_is_a_finding(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = place / "tree"
    top.mkdir()
    (top / "bad").write_text("on a bad sector")
    os.link(top / "bad", top / "other name")
    (top / "good").write_text("good")
    bad = (top / "bad").stat().st_ino
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    manifest, result = taken(top, Store(place / "store"))
    assert findings(result) == {
        b"bad": "it could not be read: Input/output error",
        b"other name": "it is a hard link to a file that could not be read",
    }
    assert [found.path for found in manifest.entries()] == [b"", b"good"]


def test_attributes_that_cannot_be_read_are_findings_and_the_rest_is_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = place / "tree"
    (top / "folder").mkdir(parents=True)
    (top / "folder/file").write_text("x")

    def listxattr(*args: object, **options: object) -> list[str]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "listxattr", listxattr)
    manifest, result = taken(top, Store(place / "store"))
    assert set(findings(result)) == {b"", b"folder", b"folder/file"}
    assert len(manifest.lines) == 3


def test_a_file_replaced_by_a_fifo_does_not_block(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "tree/file"
    path.parent.mkdir()
    path.write_text("x")

    def act() -> None:
        path.unlink()
        os.mkfifo(path)

    replacing(monkeypatch, path, act)
    _, result = taken(place / "tree", Store(place / "store"))
    assert findings(result)[b"file"] == "it was replaced by something that is no file"


def test_a_file_replaced_by_a_symlink_is_not_followed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "tree/file"
    path.parent.mkdir()
    path.write_text("x")
    (place / "secret").write_text("secret")

    def act() -> None:
        path.unlink()
        path.symlink_to(place / "secret")

    replacing(monkeypatch, path, act)
    store = Store(place / "store")
    manifest, result = taken(place / "tree", store)
    assert b"file" in findings(result)
    assert len(manifest.lines) == 1
    assert store.pack_files() == frozenset()


def test_a_file_replaced_by_another_is_no_hard_link_of_the_old_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "tree/file"
    path.parent.mkdir()
    path.write_text("old")
    os.link(path, place / "tree/old name")
    (place / "new").write_text("new")
    replacing(monkeypatch, path, lambda: (place / "new").rename(path))
    store = Store(place / "store")
    manifest, _ = taken(place / "tree", store)
    assert content(store, entry(manifest, b"file")) == b"new"
    assert content(store, entry(manifest, b"old name")) == b"old"


@pytest.mark.parametrize("to", ["symlink", "folder", "nothing"])
def test_a_folder_swapped_in_the_walk_leads_nowhere(place: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    top = place / "tree"
    (top / "folder").mkdir(parents=True)
    (top / "folder/inside").write_text("x")
    (place / "outside").mkdir()
    (place / "outside/secret").write_text("secret")
    real = tree._enter

    def enter(found: tree.Found, *more):  # type: ignore[no-untyped-def]
        if found.path == b"folder":
            (top / "folder").rename(place / "away")
            if to == "symlink":
                (top / "folder").symlink_to(place / "outside")
            elif to == "folder":
                (place / "outside").rename(top / "folder")
        return real(found, *more)

    monkeypatch.setattr(tree, "_enter", enter)
    manifest, result = taken(top, Store(place / "store"))
    assert set(findings(result)) == {b"folder", b""}
    assert [found.path for found in manifest.entries()] == [b"", b"folder"]


def test_a_folder_that_changes_while_it_is_read_is_a_finding(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "tree/sub/file"
    path.parent.mkdir(parents=True)
    path.write_text("x")
    real = take.open_file
    time.sleep(0.02)

    def open_file(found: tree.Found) -> int:
        (path.parent / "late").write_text("came too late for the list")
        return real(found)

    monkeypatch.setattr(take, "open_file", open_file)
    _, result = taken(place / "tree", Store(place / "store"))
    assert findings(result) == {b"sub": "the folder changed while it was read"}


AS_NOBODY = """
import os, sys
from pathlib import Path
from statelesskit.manifest import HEADER, Manifest
from statelesskit.store import Store
from statelesskit.take import take_tree
os.setgroups([]); os.setgid(65534); os.setuid(65534)
lines = []
taken = take_tree(Path(sys.argv[1]), Store(Path(sys.argv[2])), lines.append)
for entry in Manifest.parse(HEADER + b"".join(lines)).entries():
    print("entry", os.fsdecode(entry.path))
for finding in taken.findings:
    print("finding", os.fsdecode(finding.path), finding.finding, sep="|")
"""


def test_what_may_not_be_read_is_a_finding(place: Path) -> None:
    top = place / "tree"
    for name in ("closed", "no entry", "open"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text("x")
    (top / "secret").write_text("x")
    os.link(top / "secret", top / "secret too")
    for name, mode in (("secret", 0), ("closed", 0o700), ("no entry", 0o744), ("open", 0o755)):
        (top / name).chmod(mode)
    (place / "store").mkdir()
    os.chown(place / "store", 65534, 65534)
    place.chmod(0o755)
    # The interpreter may live where nobody can go, so it changes its user after it has started.
    argv = [sys.executable, "-c", AS_NOBODY, top, place / "store"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd="/")
    lines = done.stdout.splitlines()
    assert [line[6:] for line in lines if line.startswith("entry")] == ["", "closed", "no entry", "open", "open/file"]
    assert sorted(line.split("|")[1] for line in lines if line.startswith("finding")) == [
        "",
        "closed",
        "no entry/file",
        "secret",
        "secret too",
    ]
