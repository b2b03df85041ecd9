"""The manifest at rest: read piece by piece it is the same, and nothing wrong is ever believed."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from statelesskit.ahead import ahead
from statelesskit.config import Site
from statelesskit.errors import DamagedError, FormatError
from statelesskit.manifest import HEADER, LINE_MAX, Entry, Manifest, diff
from statelesskit.snapshot import (
    Snapshot,
    changes_between,
    check_manifest,
    load_manifest,
    manifest_file,
    manifest_text,
    pieces,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TOP = Entry(b"", "dir", mode=0o755)
ENTRIES = [TOP, *(Entry(b"%06d" % n, "file", sha256="ab" * 32, size=n) for n in range(30_000))]
TEXT = HEADER + b"".join(entry.encode() for entry in ENTRIES)


def at_rest(site: Site, packed: bytes, text: bytes, name: str = "desktop-20261123T073000Z") -> Snapshot:
    """Leave a manifest in the site, whatever it is, for a snapshot that is named for ``text``."""
    folder = site.snapshots / name
    folder.mkdir(exist_ok=True)
    (folder / manifest_file.MANIFEST).write_bytes(packed)
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    return Snapshot(folder.name, "desktop", 1, datetime.now(UTC), "me", "", digest, 1, 1, 1)


def test_the_pieces_are_whole_lines_and_all_of_them(site: Site) -> None:
    found = at_rest(site, zstd.compress(TEXT), TEXT)
    read = list(pieces(site, found))
    assert len(read) > 3
    assert all(piece.endswith(b"\n") for piece in read)
    assert HEADER + b"".join(read) == TEXT == manifest_text(site, found)
    assert load_manifest(site, found).lines == Manifest.parse(TEXT).lines
    check_manifest(site, found)


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_wherever_the_pieces_are_cut(site: Site, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text = HEADER + b"".join(entry.encode() for entry in ENTRIES[:50])
    monkeypatch.setattr(manifest_file, "PIECE", size)
    assert manifest_text(site, at_rest(site, zstd.compress(text), text)) == text


def window(text: bytes, log: int) -> bytes:
    options = {zstd.CompressionParameter.window_log: log, zstd.CompressionParameter.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(text) + compressor.flush()


@pytest.mark.parametrize(
    ("packed", "text", "says"),
    [
        pytest.param(zstd.compress(TEXT)[:-9], TEXT, "cut off", id="cut off"),
        pytest.param(b"", TEXT, "cut off", id="empty"),
        pytest.param(TEXT, TEXT, "cannot be read", id="not compressed"),
        pytest.param(zstd.compress(TEXT) + b"\0", TEXT, "follows", id="something follows"),
        pytest.param(zstd.compress(TEXT) * 2, TEXT, "follows", id="a second frame"),
        pytest.param(zstd.compress(TEXT), TEXT + b"\n", "its digest", id="another digest"),
        pytest.param(zstd.compress(TEXT[:-1]), TEXT[:-1], "damaged", id="last line cut off"),
        pytest.param(zstd.compress(HEADER[:-1]), HEADER[:-1], "damaged", id="only half a header"),
        pytest.param(zstd.compress(b"x" * (LINE_MAX + 9)), b"", "no end", id="endless line"),
        pytest.param(window(TEXT, 27), TEXT, "cannot be read", id="window of 128 MiB"),
    ],
)
def test_what_is_damaged_is_never_believed(site: Site, packed: bytes, text: bytes, says: str) -> None:
    found = at_rest(site, packed, text)
    for read in (check_manifest, load_manifest, manifest_text):
        with pytest.raises(DamagedError, match=says):
            read(site, found)


@pytest.mark.parametrize("text", [b"", b"hello\n", HEADER.replace(b":1}", b":2}"), HEADER.replace(b"[]", b'["x"]')])
def test_another_format_is_said(site: Site, text: bytes) -> None:
    with pytest.raises(FormatError):
        check_manifest(site, at_rest(site, zstd.compress(text), text))


def test_a_bomb_is_stopped_early(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of empty lines is some kilobytes; of it no more is unpacked than a manifest may hold."""
    monkeypatch.setattr(manifest_file, "MANIFEST_MAX", 10 * 2**20)
    compressor = zstd.ZstdCompressor()
    packed = b"".join([compressor.compress(b"\n" * 2**20) for _ in range(1000)]) + compressor.flush()
    assert len(packed) < 2**20
    read: list[int] = []
    with pytest.raises(DamagedError, match="longer than"):
        read.extend(map(len, pieces(site, at_rest(site, packed, b""))))
    assert max(read) <= 2 * manifest_file.PIECE
    assert sum(read) <= 11 * 2**20


def test_more_entries_than_any_tree_has_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    found = at_rest(site, zstd.compress(TEXT), TEXT)
    monkeypatch.setattr(manifest_file, "ENTRIES_MAX", len(ENTRIES))
    check_manifest(site, found)
    monkeypatch.setattr(manifest_file, "ENTRIES_MAX", len(ENTRIES) - 1)
    with pytest.raises(DamagedError, match="too many"):
        check_manifest(site, found)


def test_a_missing_file_is_damage(site: Site) -> None:
    found = at_rest(site, b"", b"")
    (site.snapshots / found.name / manifest_file.MANIFEST).unlink()
    with pytest.raises(DamagedError, match="cannot be read"):
        check_manifest(site, found)


def test_two_are_compared_and_neither_is_believed_when_damaged(site: Site) -> None:
    file = Entry(b"000007", "file", sha256="cd" * 32, size=5)
    moved = Entry(b"x", "file", sha256="ab" * 32, size=0)
    other = [entry for entry in ENTRIES if entry.path not in (b"000007", b"000008")]
    text = HEADER + b"".join(entry.encode() for entry in sorted([*other, file, moved], key=lambda entry: entry.path))
    one = at_rest(site, zstd.compress(TEXT), TEXT)
    two = at_rest(site, zstd.compress(text), text, "desktop-20261123T073001Z")
    found = changes_between(site, one, two)
    assert [(change.path, change.change) for change in found] == [
        (b"000007", "changed"),
        (b"000008", "removed"),
        (b"x", "added"),
    ]
    assert found == diff(Manifest.parse(TEXT), Manifest.parse(text))
    assert changes_between(site, one, one) == []
    assert manifest_file.new_bytes(site, one, two) == 5  # what only moved is there already
    assert manifest_file.new_bytes(site, two, one) == 0
    assert manifest_file.new_bytes(site, None, two) == 5 + ENTRIES[1].size
    running = threading.active_count()
    for damaged in (one, two):
        path = site.snapshots / damaged.name / manifest_file.MANIFEST
        whole = path.read_bytes()
        bad = zstd.decompress(whole)[:-2] + b"]\n"
        for packed in (whole[:-9], zstd.compress(bad), b""):
            path.write_bytes(packed)
            for pair in ((one, two), (two, one)):
                with pytest.raises(DamagedError, match=damaged.name):
                    changes_between(site, *pair)
        path.write_bytes(whole)
    assert threading.active_count() == running


def test_working_ahead_gives_the_same_and_stops() -> None:
    def steps() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number
        raise ValueError("over")

    made: list[int] = []
    got: list[int] = []
    with pytest.raises(ValueError, match="over"):
        got.extend(ahead(steps()))
    assert got == list(range(1000))
    made.clear()
    running = threading.active_count()
    for _ in (few := ahead(steps())):
        break
    few.close()
    assert threading.active_count() == running
    assert len(made) < 10
