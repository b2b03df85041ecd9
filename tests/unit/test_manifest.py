"""The manifest: every hostile entry comes back, and every rule of the format refuses what breaks it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from statelesskit.errors import DamagedError, FormatError
from statelesskit.manifest import HEADER, LINE_MAX, PATH_MAX, Change, Entry, Manifest, decode, diff

SHA = "ab" * 32
TOP = Entry(b"", "dir", mode=0o755)
HOSTILE = [
    TOP,
    Entry(b"\x01", "fifo"),
    Entry(b"-rf", "file", sha256=SHA, size=1),
    Entry(b"..a", "file", sha256=SHA, size=2**63 - 1, mtime_ns=-(2**63)),
    Entry(b"...", "dir", mode=0o7777, uid=2**32 - 2, gid=2**32 - 2, mtime_ns=2**63 - 1),
    Entry(b".../" + b"n" * 255, "socket"),
    Entry(b".../\xed\xa0\x80", "file", sha256=SHA, size=0),  # a surrogate as UTF-8 would never have it
    Entry(b"a", "dir"),
    Entry(b"a.b", "symlink", target=b"/etc/\xff\n"),
    Entry(b"a/b", "char", major=4095, minor=2**20 - 1),
    Entry(b'a/quo"te\\', "block", major=0, minor=0),
    Entry(b"a/z", "file", mode=0o6755, sha256=SHA, size=9000, holes=((0, 4096), (8192, 808))),
    Entry(b"a/zz", "link", link_to=b"a/z"),
    Entry("a/ä".encode(), "file", sha256=SHA, size=0, xattrs=((b"trusted.e", b""), (b"user.\xc3\xa4", b"\0\xff" * 9))),
    Entry(b"line\nfeed\r\x1b[31m", "file", sha256=SHA, size=0, mtime_ns=-1),
    Entry(b"line\nfeed\r\x1b[31m.l", "link", link_to=b"a.b"),
    Entry(b"\xff\xfe", "file", sha256=SHA, size=0),
]
HOSTILE = sorted(HOSTILE, key=lambda entry: entry.path)


def text(*entries: Entry) -> bytes:
    return HEADER + b"".join(entry.encode() for entry in entries)


def line(**fields: Any) -> bytes:
    return (json.dumps(fields, sort_keys=True, separators=(",", ":")) + "\n").encode()


def file(**fields: Any) -> bytes:
    return line(**{"path": "f", "type": "file", "sha256": SHA, "size": 10} | fields)


def test_hostile_entries_come_back() -> None:
    whole = text(*HOSTILE)
    assert whole.isascii()
    manifest = Manifest.parse(whole)
    assert list(manifest.entries()) == HOSTILE
    assert Manifest.of(HOSTILE).digest == manifest.digest
    for entry in HOSTILE:
        assert manifest.find(entry.path) == entry
        assert entry.encode().count(b"\n") == 1
    assert manifest.find(b"a/zzz") is None


def test_attributes_are_in_the_order_of_their_bytes_whatever_json_sorts_by() -> None:
    # As text U+DCFF (the byte FF) sorts before U+FFFD (the bytes EF BF BD); as bytes it is the other way round.
    entry = Entry(b"f", "file", sha256=SHA, size=0, xattrs=((b"user.\xef\xbf\xbd", b"1"), (b"user.\xff", b"2")))
    assert list(entry.fields()["xattrs"]) == ["user.\ufffd", "user.\udcff"]
    assert entry.encode().index(b"dcff") < entry.encode().index(b"fffd")
    assert decode(entry.encode()) == entry


def test_defaults_are_left_out() -> None:
    assert Entry(b"d", "dir").encode() == b'{"path":"d","type":"dir"}\n'
    assert Entry(b"c", "char").encode() == b'{"major":0,"minor":0,"path":"c","type":"char"}\n'


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "no entries"),
        ([Entry(b"a", "dir")], "not the tree's top"),
        ([Entry(b"", "symlink", target=b"/")], "not the tree's top"),
        ([TOP, TOP], "twice"),
        ([TOP, Entry(b"a", "fifo"), Entry(b"a", "fifo")], "twice"),
        ([TOP, Entry(b"b", "fifo"), Entry(b"a", "fifo")], "out of order"),
        ([TOP, Entry(b"a", "dir"), Entry(b"a/b", "fifo"), Entry(b"a.b", "fifo")], "out of order"),
        ([TOP, Entry(b"/etc", "dir")], "could leave the tree"),
        ([TOP, Entry(b"/", "dir")], "could leave the tree"),
        ([TOP, Entry(b"a", "dir"), Entry(b"a/", "dir")], "could leave the tree"),
        ([TOP, Entry(b"a", "dir"), Entry(b"a//b", "dir")], "could leave the tree"),
        ([TOP, Entry(b".", "dir")], "could leave the tree"),
        ([TOP, Entry(b"..", "dir")], "could leave the tree"),
        ([TOP, Entry(b"a", "dir"), Entry(b"a/..", "dir")], "could leave the tree"),
        ([TOP, Entry(b"a", "dir"), Entry(b"a/../../x", "fifo")], "could leave the tree"),
        ([TOP, Entry(b"a\0b", "fifo")], "can't exist"),
        ([TOP, Entry(b"n" * 256, "fifo")], "can't exist"),
        ([TOP, Entry(b"/".join([b"n" * 250] * (PATH_MAX // 250)), "fifo")], "bytes long"),
        ([TOP, Entry(b"a/b", "fifo")], "is no folder"),
        ([TOP, Entry(b"a", "symlink", target=b"/etc"), Entry(b"a/b", "fifo")], "is no folder"),
        ([TOP, Entry(b"a", "file", sha256=SHA, size=0), Entry(b"a/b", "fifo")], "is no folder"),
        ([TOP, Entry(b"a", "fifo"), Entry(b"b", "link", link_to=b"a"), Entry(b"b/c", "fifo")], "is no folder"),
        ([TOP, Entry(b"a", "link", link_to=b"")], "no earlier file"),
        ([TOP, Entry(b"a", "dir"), Entry(b"b", "link", link_to=b"a")], "no earlier file"),
        ([TOP, Entry(b"a", "link", link_to=b"b"), Entry(b"b", "fifo")], "no earlier file"),
        ([TOP, Entry(b"a", "link", link_to=b"a")], "no earlier file"),
        ([TOP, Entry(b"a", "link", link_to=b"nowhere")], "no earlier file"),
        ([TOP, Entry(b"a", "link", link_to=b"../x")], "no earlier file"),
        ([TOP, Entry(b"a", "fifo"), Entry(b"b", "link", link_to=b"a"), Entry(b"c", "link", link_to=b"b")], "earlier"),
        ([TOP, Entry(b"s", "symlink", target=b"")], "target"),
        ([TOP, Entry(b"s", "symlink", target=b"a\0b")], "target"),
    ],
)
def test_entries_that_could_do_harm_are_refused(entries: list[Entry], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        Manifest.parse(text(*entries))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\n", id="empty line"),
        pytest.param(b"[]\n", id="a list"),
        pytest.param(b'"path"\n', id="text"),
        pytest.param(b"null\n", id="null"),
        pytest.param(b"{}\n", id="no keys"),
        pytest.param(b"\xff\n", id="not ASCII"),
        pytest.param(line(path="f"), id="no type"),
        pytest.param(line(type="dir"), id="no path"),
        pytest.param(line(path="f", type="door"), id="unknown type"),
        pytest.param(line(path="f", type=["dir"]), id="type is a list"),
        pytest.param(line(path=3, type="dir"), id="path is a number"),
        pytest.param(line(path="\ud800", type="dir"), id="lone surrogate"),
        pytest.param(line(path="f", type="dir", colour="red"), id="unknown key"),
        pytest.param(line(path="f", type="dir", size=1), id="key of another type"),
        pytest.param(line(path="f", type="link", link_to="e", mode=1), id="link with a mode"),
        pytest.param(line(path="f", type="link"), id="link to nothing"),
        pytest.param(line(path="f", type="symlink"), id="symlink to nothing"),
        pytest.param(line(path="f", type="dir", mode=0o10000), id="mode too large"),
        pytest.param(line(path="f", type="dir", mode=-1), id="mode negative"),
        pytest.param(line(path="f", type="dir", mode=True), id="mode is a bool"),
        pytest.param(line(path="f", type="dir", mode="7"), id="mode is text"),
        pytest.param(line(path="f", type="dir", mode=1.0), id="mode is a float"),
        pytest.param(line(path="f", type="dir", mode=None), id="mode is null"),
        pytest.param(line(path="f", type="dir", mode=0), id="default written out"),
        pytest.param(line(path="f", type="dir", xattrs={}), id="no attributes written out"),
        pytest.param(line(path="f", type="dir", uid=2**32 - 1), id="uid that means unchanged"),
        pytest.param(line(path="f", type="dir", mtime_ns=2**63), id="time too large"),
        pytest.param(line(path="f", type="dir", mtime_ns=10**4000), id="huge integer"),
        pytest.param(b'{"mode":' + b"9" * 100_000 + b',"path":"f","type":"dir"}\n', id="huger integer"),
        pytest.param(b'{"mode":NaN,"path":"f","type":"dir"}\n', id="NaN"),
        pytest.param(line(path="f", type="char", major=1, minor=-1), id="device"),
        pytest.param(line(path="f", type="file"), id="no content"),
        pytest.param(file(sha256=SHA.upper()), id="digest in capitals"),
        pytest.param(file(sha256=SHA + "\n"), id="digest with a newline"),
        pytest.param(file(sha256=SHA[:-1]), id="digest too short"),
        pytest.param(file(sha256=None), id="digest is null"),
        pytest.param(file(size=-1), id="size negative"),
        pytest.param(file(size=2**63), id="size too large"),
        pytest.param(file(size=True), id="size is a bool"),
        pytest.param(file(holes=[]), id="no holes written out"),
        pytest.param(file(holes=[[0, 0]]), id="empty hole"),
        pytest.param(file(holes=[[0, 11]]), id="hole beyond the end"),
        pytest.param(file(holes=[[-1, 2]]), id="hole before the beginning"),
        pytest.param(file(holes=[[0, 4], [3, 2]]), id="holes overlap"),
        pytest.param(file(holes=[[0, 4], [4, 2]]), id="two holes that are one"),
        pytest.param(file(holes=[[5, 1], [0, 1]]), id="holes out of order"),
        pytest.param(file(holes=[[False, True]]), id="hole of bools"),
        pytest.param(file(holes=[[0, 1, 2]]), id="hole of three"),
        pytest.param(file(holes=["ab"]), id="hole of text"),
        pytest.param(file(holes=3), id="holes is a number"),
        pytest.param(file(xattrs=[["user.a", ""]]), id="attributes as a list"),
        pytest.param(file(xattrs={"": ""}), id="attribute without a name"),
        pytest.param(file(xattrs={"user.\0": ""}), id="attribute's name with a NUL"),
        pytest.param(file(xattrs={"user." + "n" * 255: ""}), id="attribute's name too long"),
        pytest.param(file(xattrs={"user.a": base64.b64encode(bytes(65537)).decode()}), id="attribute too large"),
        pytest.param(file(xattrs={"user.a": "YQ"}), id="base64 without padding"),
        pytest.param(file(xattrs={"user.a": "YR=="}), id="base64 that is not canonical"),
        pytest.param(file(xattrs={"user.a": "Y Q=="}), id="base64 with a space"),
        pytest.param(file(xattrs={"user.a": 3}), id="attribute is a number"),
        pytest.param(b'{"path":"f","path":"f","type":"dir"}\n', id="key twice"),
        pytest.param(b'{"type":"dir","path":"f"}\n', id="keys not sorted"),
        pytest.param(b'{"path": "f","type":"dir"}\n', id="space"),
        pytest.param(b'{"path":"f","type":"dir"}\r\n', id="carriage return"),
        pytest.param(b'{"path":"f","type":"dir"}\r{"path":"g","type":"dir"}\n', id="two in a line"),
        pytest.param(b'{"path":"\\u0066","type":"dir"}\n', id="needless escape"),
        pytest.param(b'{"path":"\\udCFF","type":"dir"}\n', id="escape in capitals"),
        pytest.param('{"path":"ä","type":"dir"}\n'.encode(), id="UTF-8 as it is"),
        pytest.param('{"path":"f","type":"dir"}\n'.encode("utf-16-be"), id="UTF-16"),
        pytest.param(b"[" * 100_000 + b"\n", id="deep"),
        pytest.param(b'{"path":' * 100_000 + b"\n", id="deep objects"),
        pytest.param(file(xattrs={f"user.{n}": "A" * 60000 for n in range(40)}), id="2 MB"),
        pytest.param(line(path="n" * 2**21, type="dir"), id="2 MB in one name"),
    ],
)
def test_a_line_that_is_not_just_as_it_would_be_written_is_refused(bad: bytes) -> None:
    with pytest.raises(FormatError) as raised:
        Manifest.parse(text(TOP) + bad)
    assert raised.value.message.startswith("manifest line 3: ")
    assert len(raised.value.message) < 1000
    assert raised.value.message.isprintable()


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_an_unterminated_line_is_refused(cut: int) -> None:
    whole = text(TOP, Entry(b"a", "symlink", target=b"b"))
    for end in (len(whole) - cut, len(HEADER) - cut):
        with pytest.raises(FormatError):
            Manifest.parse(whole[:end])


def test_entries_that_are_kept_are_the_same_and_were_checked() -> None:
    manifest = Manifest.parse_header(text(*HOSTILE))
    manifest.keep()
    assert list(manifest.entries()) == list(manifest.entries()) == HOSTILE
    with pytest.raises(FormatError):
        Manifest.parse_header(text(TOP, TOP)).keep()


def test_two_lines_of_the_greatest_path_fit() -> None:
    names = [b"\xff" * 255] * (PATH_MAX // 256)
    path = b"/".join(names)
    assert len(Entry(path, "link", link_to=path[:-1] + b"\xfe").encode()) < LINE_MAX


@pytest.mark.parametrize("cut", [b"", HEADER[:-1], text(TOP)[:-1], text(*HOSTILE)[:-1], text(*HOSTILE)[:-20]])
def test_a_manifest_that_is_cut_off_is_refused(cut: bytes) -> None:
    with pytest.raises(FormatError):
        Manifest.parse(cut)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b'{"flags":[],"format":"statelesskit-manifest","version":2}\n', "version 2"),
        (b'{"flags":["shallow"],"format":"statelesskit-manifest","version":1}\n', "shallow"),
        (b'{"flags":[],"format":"statelesskit-manifest","version":true}\n', "version True"),
        (b'{"flags":[], "format":"statelesskit-manifest","version":1}\n', "version 1"),
        (b'{"flags":[],"format":"tar","version":1}\n', "no manifest"),
        (b"[" * 100_000 + b"\n", "no manifest"),
        (b"\xff\n", "no manifest"),
        (b"{}\n", "no manifest"),
        (b"\n", "no manifest"),
    ],
)
def test_another_header_is_refused(head: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says) as raised:
        Manifest.parse(head + TOP.encode())
    assert isinstance(raised.value, DamagedError)
    assert raised.value.exit_code == 9


def test_diff_names_the_fields() -> None:
    before = Manifest.of(
        [TOP, Entry(b"a", "fifo"), Entry(b"b", "file", sha256=SHA, size=1, xattrs=((b"user.a", b"1"),))]
    )
    after = Manifest.of([TOP, Entry(b"b", "file", mode=0o755, sha256="cd" * 32, size=1), Entry(b"c", "fifo")])
    changes = diff(before, after)
    assert changes == [
        Change(b"a", "removed", (), None, None),
        Change(b"b", "changed", ("mode", "sha256", "xattrs"), None, None),
        Change(b"c", "added", (), None, None),
    ]
    assert changes[1].as_json() == {"path": "b", "change": "changed", "fields": ["mode", "sha256", "xattrs"]}
    assert diff(before, before) == []
