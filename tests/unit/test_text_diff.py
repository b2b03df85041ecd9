"""The text diff of one file: true, bounded, and harmless on a terminal."""

from __future__ import annotations

import pytest

from statelesskit import text_diff as module
from statelesskit.errors import NotFoundError, RefusedError
from statelesskit.manifest import Entry
from statelesskit.text_diff import text_diff
from tests.trees import Made, tree


def lines(before: dict[str, Made], after: dict[str, Made], path: bytes = b"etc/x") -> tuple[str, ...]:
    return text_diff(tree(before), tree(after), path, ("one", "two")).lines


def test_is_a_unified_diff() -> None:
    assert lines({"etc/x": b"a\nb\nc\n"}, {"etc/x": b"a\nB\nc\n"}) == (
        "--- one/etc/x",
        "+++ two/etc/x",
        "@@ -1,3 +1,3 @@",
        " a",
        "-b",
        "+B",
        " c",
    )


def test_of_a_file_that_is_only_in_one() -> None:
    assert lines({}, {"etc/x": b"a\n"}) == ("--- /dev/null", "+++ two/etc/x", "@@ -0,0 +1 @@", "+a")
    assert lines({"etc/x": b"a\n"}, {})[-1] == "-a"
    with pytest.raises(NotFoundError, match="neither one nor two has etc/x"):
        lines({}, {})


def test_of_equal_contents_is_nothing() -> None:
    assert lines({"etc/x": b"a"}, {"etc/x": (b"a", {"mode": 0o600})}) == ()


def test_of_symlinks_shows_where_they_point() -> None:
    assert lines({"etc/x": "old"}, {"etc/x": "new"})[-2:] == ("--> old", "+-> new")
    assert lines({"etc/x": "old"}, {"etc/x": b"text\n"})[-2:] == ("--> old", "+text")
    with pytest.raises(RefusedError, match="no file or symlink: it is of the type dir"):
        lines({"etc/x": Entry(b"", "dir")}, {"etc/x": b""})


def test_binary_content_is_not_shown() -> None:
    found = text_diff(tree({"x": b"a\0b"}), tree({"x": b"text"}), b"x", ("one", "two"))
    assert found.as_json() == {"path": "x", "binary": True, "diff": []}


def test_nothing_reaches_a_terminal_that_it_would_act_on() -> None:
    hostile = b"\x1b[2J\x1b]0;owned\x07 \xff \r\n\xe2\x80\xae\tx\x0b\x0c\xc2\x9b\nwhole \xc3\xa9\n"
    shown = lines({"etc/x": b""}, {"etc/x": hostile})[3:]
    assert shown == (
        "+\\x1b[2J\\x1b]0;owned\\x07 \\xff \\r",
        "+\\u202e\tx\\x0b\\x0c\\x9b",
        "+whole é",
    )
    assert lines({"etc/x": b"a\r\n"}, {"etc/x": b"a\n"})[-2:] == ("-a\\r", "+a")
    assert lines({"a\n\x1bx": b""}, {"a\n\x1bx": b"1"}, b"a\n\x1bx")[0] == "--- one/a\\n\\x1bx"
    assert lines({"etc/x": b""}, {"etc/x": b"1\n" + b"x" * 1000})[-2] == "+" + "x" * 1000  # nothing is cut


def test_there_are_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_MAX", 3)
    with pytest.raises(RefusedError, match="longer than 3 bytes"):
        lines({"etc/x": b"1234"}, {"etc/x": b"1"})
