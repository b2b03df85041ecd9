"""Files of a tree by path, symlinks and hard links followed as the kernel would."""

from __future__ import annotations

import pytest

from statelesskit.errors import RefusedError
from statelesskit.manifest import Entry
from tests.trees import Memory, tree

TREE = tree(
    {
        "a": b"a",
        "lib": "usr/lib",
        "loop": "loop2",
        "loop2": "loop",
        "usr/lib/os": b"content of os",
        "usr/lib-x": b"",
        "usr/lib.y": b"",
        "usr/lib0": b"",
        "usr/up": "../../../../a",
        "usr/abs": "/lib/./os",
        "usr/lib/deep/er/x": b"x",
        "usr/linked": Entry(b"", "link", link_to=b"usr/lib/os"),
        "usr/nowhere": "gone",
        "usr/byte\udc80": b"8",
    }
)


def test_finds_by_path_and_gives_hard_links_their_metadata() -> None:
    linked = TREE.find(b"usr/linked")
    assert linked is not None
    assert (linked.path, linked.type, linked.size) == (b"usr/linked", "file", 13)
    assert TREE.find(b"usr/byte\x80") is not None
    top = TREE.find(b"")
    assert top is not None
    assert top.type == "dir"
    for absent in (b"usr/li", b"usr/lib/", b"zzz", b"usr/lib/os/x"):
        assert TREE.find(absent) is None


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (b"lib/os", b"usr/lib/os"),
        (b"usr/abs", b"usr/lib/os"),
        (b"usr/up", b"a"),
        (b"/usr//lib/../lib/os", b"usr/lib/os"),
        (b"lib", b"usr/lib"),
        (b"loop", None),
        (b"usr/nowhere", None),
        (b"a/b", None),
    ],
)
def test_follows_symlinks_and_never_leaves_the_tree(path: bytes, where: bytes | None) -> None:
    entry = TREE.resolve(path)
    assert (entry.path if entry else None) == where


def test_lists_a_folder_without_what_is_deeper_or_beside_it() -> None:
    assert [entry.path for entry in TREE.children(b"usr/lib")] == [b"usr/lib/deep", b"usr/lib/os"]
    names = [b"abs", b"byte\x80", b"lib", b"lib-x", b"lib.y", b"lib0", b"linked", b"nowhere", b"up"]
    assert [entry.path for entry in TREE.children(b"usr")] == [b"usr/" + name for name in sorted(names)]
    assert [entry.path for entry in TREE.children(b"")] == [b"a", b"lib", b"loop", b"loop2", b"usr"]
    assert list(TREE.children(b"gone")) == []
    assert list(TREE.children(b"a")) == []


def test_reads_with_a_limit_and_only_what_is_asked_for() -> None:
    memory = TREE.objects
    assert isinstance(memory, Memory)
    memory.asked.clear()
    assert TREE.read(b"lib/os", 13) == b"content of os"
    assert len(memory.asked) == 1
    with pytest.raises(RefusedError, match=r"usr/lib/os is longer than 12 bytes"):
        TREE.read(b"lib/os", 12)
    assert len(memory.asked) == 1
    assert TREE.read(b"usr", 100) is None
    assert TREE.read(b"gone", 100) is None


def test_an_object_longer_than_the_manifest_says_is_not_swallowed() -> None:
    liar = tree({"x": (b"0123456789abcdef", {"size": 3})})
    with pytest.raises(RefusedError):
        liar.read(b"x", 12)
