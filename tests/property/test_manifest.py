"""Manifests of any tree: they come back as they were, and their differences lead from one to the other."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit.diff import diff_pieces, path_of
from statelesskit.errors import FormatError
from statelesskit.manifest import HEADER, Entry, Manifest, _any, _plain, contents_in, decode, diff

NAMES = (
    st.binary(min_size=1, max_size=6) | st.sampled_from([b"a", b"a.", b"a-b", b"\xff", b"..a", b"n" * 255])
).filter(lambda name: not {b"\0"[0], b"/"[0]} & set(name) and name not in (b".", b".."))
INT32 = st.integers(0, 2**32 - 2)
COMMON = {
    "mode": st.integers(0, 0o7777),
    "uid": INT32,
    "gid": INT32,
    "mtime_ns": st.integers(-(2**63), 2**63 - 1),
    "xattrs": st.dictionaries(
        st.binary(min_size=1, max_size=9).filter(lambda name: b"\0" not in name), st.binary(max_size=20), max_size=3
    ).map(lambda found: tuple(sorted(found.items()))),
}
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def files(draw: st.DrawFn, path: bytes) -> Entry:
    edges = sorted(draw(st.sets(st.integers(0, 10**6), max_size=8)))
    holes = tuple((start, end - start) for start, end in zip(edges[::2], edges[1::2], strict=False))
    common = {name: draw(values) for name, values in COMMON.items()}
    return Entry(path, "file", sha256=draw(DIGESTS), size=10**6 + draw(INT32), holes=holes, **common)


@given(files(b'a \xff"\n') | files("ä\u2028".encode()))
def test_a_plain_files_line_is_written_as_json_would_be(entry: Entry) -> None:
    for plain in (entry, replace(entry, xattrs=(), holes=()), Entry(b"a", "file", sha256=entry.sha256, size=1)):
        text = json.dumps(plain.fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert plain.encode() == text.encode("ascii") + b"\n"


@st.composite
def others(draw: st.DrawFn, path: bytes) -> Entry:
    kind = draw(st.sampled_from(["symlink", "char", "block", "fifo", "socket"]))
    common = {name: draw(values) for name, values in COMMON.items()}
    if kind == "symlink":
        return Entry(path, kind, target=draw(st.binary(min_size=1).filter(lambda text: b"\0" not in text)), **common)
    if kind in ("char", "block"):
        return Entry(path, kind, major=draw(INT32), minor=draw(INT32), **common)
    return Entry(path, kind, **common)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    folders, taken, entries = [b""], {b""}, [Entry(b"", "dir", **{k: draw(v) for k, v in COMMON.items()})]
    for _ in range(draw(st.integers(0, 12))):
        above = draw(st.sampled_from(folders))
        path = (above + b"/" if above else b"") + draw(NAMES)
        if path in taken:
            continue
        taken.add(path)
        kind = draw(st.sampled_from(["dir", "file", "other", "link"]))
        before = [entry.path for entry in entries if entry.type not in ("dir", "link") and entry.path < path]
        if kind == "dir":
            folders.append(path)
            entries.append(Entry(path, "dir", **{k: draw(v) for k, v in COMMON.items()}))
        elif kind == "link" and before:
            entries.append(Entry(path, "link", link_to=draw(st.sampled_from(before))))
        else:
            entries.append(draw(files(path) if kind == "file" else others(path)))
    return Manifest.of(sorted(entries, key=lambda entry: entry.path))


def apply(manifest: Manifest, changes: list) -> Manifest:
    entries = {entry.path: entry for entry in manifest.entries()}
    for change in changes:
        entries.pop(change.path, None)
        if change.after:
            entries[change.path] = change.after
    return Manifest.of(entries[path] for path in sorted(entries))


@given(manifests())
def test_a_manifest_comes_back(manifest: Manifest) -> None:
    text = HEADER + b"".join(manifest.lines)
    again = Manifest.parse(text)
    assert again.lines == manifest.lines
    assert again.digest == manifest.digest
    assert [entry.encode() for entry in again.entries()] == manifest.lines


@given(manifests(), manifests())
def test_differences_lead_from_one_to_the_other(before: Manifest, after: Manifest) -> None:
    there, back = diff(before, after), diff(after, before)
    assert apply(before, there).lines == after.lines
    assert apply(after, back).lines == before.lines
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    assert [(c.path, turned[c.change], c.fields) for c in there] == [(c.path, c.change, c.fields) for c in back]
    assert (there == []) == (before.lines == after.lines)
    assert all(change.fields for change in there if change.change == "changed")


@st.composite
def pieces(draw: st.DrawFn, manifest: Manifest) -> list[bytes]:
    """Cut a manifest between its lines, anywhere."""
    cuts = sorted(draw(st.sets(st.integers(0, len(manifest.lines)), max_size=4)))
    edges = zip([0, *cuts], [*cuts, len(manifest.lines)], strict=True)
    return [b"".join(manifest.lines[start:end]) for start, end in edges]


def check_streamed(before: Manifest, after: Manifest, data: st.DataObject) -> None:
    found = diff_pieces(*(iter(data.draw(pieces(one))) for one in (before, after)))
    expected = diff(before, after)
    assert found == expected
    assert [(c.before, c.after) for c in found] == [(c.before, c.after) for c in expected]


@given(manifests(), manifests(), st.data())
def test_a_streamed_difference_is_the_same(before: Manifest, after: Manifest, data: st.DataObject) -> None:
    check_streamed(before, after, data)


@given(manifests(), st.data())
def test_a_streamed_difference_of_near_manifests_is_the_same(manifest: Manifest, data: st.DataObject) -> None:
    """As an upgrade leaves it: most lines are the same, others are gone, new or changed."""
    entries = {entry.path: entry for entry in manifest.entries()}
    for path in data.draw(st.sets(st.sampled_from(sorted(entries)))):
        entry = entries.pop(path)
        if data.draw(st.booleans()) and entry.type != "link":
            entries[path] = replace(entry, **data.draw(st.fixed_dictionaries(COMMON)))
        elif data.draw(st.booleans()):
            entries[path + b"!"] = replace(entry, path=path + b"!")
    check_streamed(manifest, Manifest.of(entries[path] for path in sorted(entries)), data)


@given(manifests())
def test_paths_and_contents_are_found_without_parsing(manifest: Manifest) -> None:
    entries = list(manifest.entries())
    assert [path_of(line) for line in manifest.lines] == [entry.path for entry in entries]
    files = [(bytes.fromhex(entry.sha256), entry.size) for entry in entries if entry.type == "file"]
    assert list(contents_in(b"".join(manifest.lines))) == files


@settings(max_examples=300)
@given(manifests(), st.data())
def test_a_plain_line_is_read_as_any_other(manifest: Manifest, data: st.DataObject) -> None:
    """The short way to read a line gives what the long one gives, or leaves it to that."""
    line = bytearray(data.draw(st.sampled_from(manifest.lines)))
    if data.draw(st.booleans()):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.sampled_from(b'0123456789-"\\,:{}[]\n abcf'))
    if (short := _plain(bytes(line))) is not None:
        assert short == _any(bytes(line))


@settings(max_examples=300)
@given(manifests(), st.data())
def test_an_altered_manifest_is_refused_or_is_another(manifest: Manifest, data: st.DataObject) -> None:
    text = bytearray(HEADER + b"".join(manifest.lines))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    try:
        again = Manifest.parse(bytes(text))
    except FormatError:
        return
    assert again.digest != manifest.digest
    assert HEADER + b"".join(again.lines) == bytes(text)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_rubbish_is_refused_as_such(line: bytes) -> None:
    with suppress(FormatError):
        assert decode(line).encode() == line
