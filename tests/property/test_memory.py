"""A take that remembers gives the same manifest as one that reads everything, whatever happened in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statelesskit import take as take_module
from statelesskit import tree as tree_module
from statelesskit.memory import RACY_NS, STRETCH
from statelesskit.store import Store
from statelesskit.take import Taken, take_tree

NAMES = st.sampled_from(["a", "a.b", "b", "c", "d/x", "d/y", "d/e/z", "a0"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "same size", "remove", "folder", "link", "symlink", "chmod", "move", "xattr",
                               "touch"]), NAMES, NAMES),
    min_size=1, max_size=6,
)  # fmt: skip


def taken(top: Path, store: Path, memory: Path | None) -> tuple[bytes, Taken]:
    lines: list[bytes] = []
    result = take_tree(top, Store(store), lines.append, memory_file=memory)
    return b"".join(lines), result


def settle() -> None:
    """Let the kernel's clock step on, so that what happened is no longer racy."""
    time.sleep(RACY_NS / 1e9 * 1.5)


def do(top: Path, step: tuple[str, str, str]) -> None:
    """Change something; what can't be done in this tree is not done."""
    kind, name, other = step
    path, second = top / name, top / other
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        second.parent.mkdir(parents=True, exist_ok=True)
        if kind == "write":
            path.write_bytes(os.urandom(20))
        elif kind == "same size":
            before = path.stat()
            path.write_bytes(os.urandom(before.st_size))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif kind == "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif kind == "folder":
            path.mkdir()
        elif kind == "link":
            second.hardlink_to(path)
        elif kind == "symlink":
            second.symlink_to(name)
        elif kind == "chmod":
            path.chmod(0o640 if path.is_file() else 0o750)
        elif kind == "move":
            path.rename(second)
        elif kind == "xattr":
            os.setxattr(path, "user.note", os.urandom(4))
        elif kind == "touch":
            os.utime(path, ns=(0, -1))
    except OSError:
        pass


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds=st.lists(STEPS, min_size=2, max_size=4))
def test_remembering_changes_nothing(rounds: list[list[tuple[str, str, str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        top = base / "top"
        top.mkdir()
        for steps in rounds:
            for step in steps:
                do(top, step)
            settle()
            remembered, told = taken(top, base / "store", base / "memory")
            everything, truth = taken(top, base / "other", None)
            assert remembered == everything
            assert (told.entries, told.files, told.bytes) == (truth.entries, truth.files, truth.bytes)
            store = Store(base / "store")
            for line in everything.splitlines():
                if b'"sha256"' in line:
                    digest = bytes.fromhex(line.split(b'"sha256":"')[1][:64].decode())
                    assert digest in store


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    for name in ("one", "two", "sub/three", "sub/deep/four"):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
    settle()
    return top


def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note which files are opened to be read."""
    from statelesskit import take

    opened: list[bytes] = []
    real = take.open_file
    monkeypatch.setattr(take, "open_file", lambda found: opened.append(found.path) or real(found))
    return opened


def test_only_what_changed_is_read(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = reads(monkeypatch)
    taken(tree, tmp_path / "store", tmp_path / "memory")
    assert len(opened) == 4
    opened.clear()
    taken(tree, tmp_path / "store", tmp_path / "memory")
    assert opened == []
    (tree / "sub/three").write_bytes(b"changed")
    settle()
    taken(tree, tmp_path / "store", tmp_path / "memory")
    assert opened == [b"sub/three"]


def test_a_change_in_the_same_step_of_the_clock_is_seen(tree: Path, tmp_path: Path) -> None:
    for number in range(20):
        content = f"{number:03}".encode()
        (tree / "one").write_bytes(content)
        os.utime(tree / "one", ns=(0, 0))
        lines, _ = taken(tree, tmp_path / "store", tmp_path / "memory")
        assert lines == taken(tree, tmp_path / "other", None)[0]


@pytest.mark.parametrize("what", ["pack gone", "pack altered", "other tree", "cut", "missing"])
def test_a_memory_that_does_not_fit_is_not_believed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    memory, store = tmp_path / "memory", tmp_path / "store"
    first, _ = taken(tree, store, memory)
    (pack, *_) = (store / "packs").glob("*.pack")
    if what == "pack gone":
        pack.unlink()
    elif what == "pack altered":
        pack.chmod(0o600)
        os.utime(pack)
    elif what == "other tree":
        shutil.copytree(tree, tmp_path / "copy")
        settle()
        tree = tmp_path / "copy"
    elif what == "cut":
        memory.write_bytes(memory.read_bytes()[:-1])
    else:
        memory.unlink()
    opened = reads(monkeypatch)
    second, _ = taken(tree, store, memory)
    assert len(opened) == 4
    if what != "other tree":
        assert first == second


def test_every_byte_of_the_memory_altered_gives_the_same_manifest(tree: Path, tmp_path: Path) -> None:
    memory, store = tmp_path / "memory", tmp_path / "store"
    first, _ = taken(tree, store, memory)
    good = memory.read_bytes()
    for position in range(0, len(good), 7):
        memory.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        assert taken(tree, store, memory)[0] == first


def test_what_was_found_is_found_again(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from statelesskit import take

    def refuse(place: int | str) -> tuple[tuple[bytes, bytes], ...]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(take, "xattrs_of", refuse)
    _, first = taken(tree, tmp_path / "store", tmp_path / "memory")
    _, second = taken(tree, tmp_path / "store", tmp_path / "memory")
    assert len(first.findings) > 1
    assert first.findings == second.findings
    monkeypatch.undo()
    _, third = taken(tree, tmp_path / "store", tmp_path / "memory")
    assert [finding for finding in third.findings if finding.path] == []


@pytest.mark.root
def test_a_mount_that_came_later_is_seen(tree: Path, tmp_path: Path) -> None:
    taken(tree, tmp_path / "store", tmp_path / "memory")
    subprocess.run(["mount", "-t", "tmpfs", "none", tree / "sub/deep"], check=True)
    try:
        lines, told = taken(tree, tmp_path / "store", tmp_path / "memory")
        assert b"four" not in lines
        assert [finding.path for finding in told.findings] == [b"sub/deep"]
    finally:
        subprocess.run(["umount", tree / "sub/deep"], check=True)


def test_an_insertion_in_a_large_folder_disturbs_only_its_stretch(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tree / "many"
    many.mkdir()
    for number in range(3 * STRETCH):
        (many / f"{number:05}").write_bytes(b"%d" % number)
    (many / "00300x").mkdir()
    settle()
    taken(tree, tmp_path / "store", tmp_path / "memory")
    before = (tmp_path / "memory").read_bytes()
    (many / "00100a").write_bytes(b"new")
    settle()
    opened = reads(monkeypatch)
    looked: list[bytes] = []
    real = tree_module._look
    monkeypatch.setattr(
        tree_module, "_look", lambda level, name, *more: looked.append(name) or real(level, name, *more)
    )
    lines, told = taken(tree, tmp_path / "store", tmp_path / "memory")
    assert opened == [b"many/00100a"]
    assert len(looked) < 2 * STRETCH
    monkeypatch.undo()
    assert (lines, told.files) == (taken(tree, tmp_path / "other", None)[0], 3 * STRETCH + 5)
    (many / "00100a").unlink()
    settle()
    taken(tree, tmp_path / "store", tmp_path / "memory")
    assert abs(len((tmp_path / "memory").read_bytes()) - len(before)) < 4096


def test_a_memory_that_says_the_same_stays_untouched(tree: Path, tmp_path: Path) -> None:
    """Also where names must be looked at again each time, such as those of hard links."""
    (tree / "sub/other").hardlink_to(tree / "one")
    settle()
    taken(tree, tmp_path / "store", tmp_path / "memory")
    before = (tmp_path / "memory").stat()
    taken(tree, tmp_path / "store", tmp_path / "memory")
    assert (tmp_path / "memory").stat() == before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_failure_leaves_the_old_memory_and_nothing_else(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(tree, tmp_path / "store", tmp_path / "memory")
    before = (tmp_path / "memory").read_bytes()
    (tree / "sub/new").write_bytes(b"new")
    monkeypatch.setattr(take_module.Writer, "finish", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        taken(tree, tmp_path / "store", tmp_path / "memory")
    assert (tmp_path / "memory").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory", "store", "top"]


MANY = r"""
import re, sys
from pathlib import Path
from statelesskit.store import Store
from statelesskit.take import take_tree

top, base = map(Path, sys.argv[1:])
result = take_tree(top, Store(base / "store"), lambda lines: None, memory_file=base / "memory")
# Not ru_maxrss, which a program inherits from the one that started it.
print(result.files, int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10)
"""


@pytest.mark.parametrize("folders", [1, 40], ids=["all in one folder", "in many"])
def test_a_take_of_many_files_needs_little_memory(tmp_path: Path, folders: int) -> None:
    """Ours and the interpreter's are 30 MB; with all that is known of 40 000 files it would be over 100."""
    for folder in range(folders):
        (tmp_path / f"top/{folder}").mkdir(parents=True)
        for number in range(40_000 // folders):
            (tmp_path / f"top/{folder}/{number}").touch()
    for _ in range(2):
        argv = [sys.executable, "-c", MANY, tmp_path / "top", tmp_path]
        files, peak = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
        assert int(files) == 40_000
        assert int(peak) < 70
