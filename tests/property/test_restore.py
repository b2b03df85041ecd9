"""Whatever small tree there is: taken and written out again it is the same, and the walk is in order."""

# Paths of trees are bytes, which pathlib does not know.
# ruff: noqa: PTH101, PTH102, PTH211

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statelesskit.export.tree import check_tree
from statelesskit.manifest import HEADER, Manifest
from statelesskit.progress import SILENT
from statelesskit.store import Store
from statelesskit.take import take_tree
from statelesskit.tree import walk
from statelesskit.write_tree import write_tree
from tests.witness import look

pytestmark = pytest.mark.root

NAMES = (
    st.sampled_from([b"a", b"a.", b"a-b", b"a/b"[:1] + b"0", b"A", b"\xff", b"\xc3\xa4", b"..a", b"n" * 255])
    | st.binary(min_size=1, max_size=4)
).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)
SIZES = st.sampled_from([0, 1, 4095, 4096, 8192, 100_000, 262_144, 300_001])
FILES = st.tuples(
    st.just("file"), SIZES, st.sampled_from([b"", b"x", b"\0", b"ab"]), st.integers(0, 400_000), st.integers(0, 9)
)
OTHERS = st.tuples(st.sampled_from(["dir", "fifo", "socket", "char", "block", "link"]))
SYMLINKS = st.tuples(st.just("symlink"), st.binary(min_size=1, max_size=50).filter(lambda text: b"\0" not in text))
META = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "owner": st.tuples(*[st.sampled_from([0, 1, 65534, 2**31 + 5, 2**32 - 2])] * 2),
        "mtime": st.integers(-(2**31) * 10**9, 2**33 * 10**9),
        "xattr": st.none() | st.binary(max_size=40),
    }
)
TREES = st.dictionaries(PATHS, st.tuples(st.one_of(FILES, OTHERS, SYMLINKS), META), max_size=10)


def build(top: Path, plan: dict[tuple[bytes, ...], Any]) -> None:
    """Make what of the plan is possible: what would lie below a file is left out."""
    top.mkdir()
    made: list[bytes] = []
    described = []
    for names, ((kind, *rest), meta) in plan.items():
        *above, path = (os.fsencode(top) + b"/" + b"/".join(names[: n + 1]) for n in range(len(names)))
        if {path, *above} & set(made) or os.path.lexists(path) or (kind == "link" and not made):
            continue
        for folder in above:
            if not os.path.lexists(folder):
                os.mkdir(folder)
        _make(path, kind, rest, made)
        described.append((path, meta))
    for path, meta in sorted(described, key=lambda item: item[0], reverse=True):
        os.chown(path, *meta["owner"], follow_symlinks=False)
        if meta["xattr"] is not None:
            os.setxattr(path, "trusted.any", meta["xattr"], follow_symlinks=False)
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            os.chmod(path, meta["mode"])
    for path, meta in sorted(described, key=lambda item: item[0], reverse=True):
        os.utime(path, ns=(0, meta["mtime"]), follow_symlinks=False)


def _make(path: bytes, kind: str, rest: list[Any], made: list[bytes]) -> None:
    if kind == "dir":
        os.mkdir(path)
        return
    if kind == "link":
        os.link(made[-1], path, follow_symlinks=False)
    elif kind == "symlink":
        os.symlink(rest[0], path)
    elif kind == "file":
        size, pattern, where, count = rest
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.ftruncate(fd, size)
        for number in range(count):  # pieces, with holes between
            place = (where * (number + 1)) % max(size, 1)
            os.pwrite(fd, (pattern * 5000)[: size - place], place)
        os.close(fd)
    else:
        types = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
        os.mknod(path, types[kind], os.makedev(7, 300))
    made.append(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_a_restored_tree_is_the_tree_that_was_taken(plan: dict[tuple[bytes, ...], Any]) -> None:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # flushing to a disk takes most of the time
    place = Path(tempfile.mkdtemp(prefix="statelesskit-test-", dir=memory))
    try:
        source, out = place / "source", place / "out"
        build(source, plan)
        expected = look(source)
        store, lines = Store(place / "store"), list[bytes]()
        result = take_tree(source, store, lines.append)
        assert result.findings == []
        manifest = Manifest.parse(HEADER + b"".join(lines))
        assert [entry.path for entry in manifest.entries()] == sorted(expected)
        assert [found.path for found in walk(source, print)] == sorted(expected)
        out.mkdir()
        write_tree(manifest, store, out)
        assert look(out) == expected
        assert check_tree(manifest, out, reread=True, progress=SILENT) == []
        again = list[bytes]()
        assert take_tree(out, store, again.append).new_bytes == 0
        assert again == lines
    finally:
        shutil.rmtree(place)
