"""Whatever tree there is: as an archive it is read back as the same manifest, holes left out or not."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statelesskit.archive import acl, pax
from statelesskit.archive.gather import Gathering, hashed
from statelesskit.archive.stream import Stream
from statelesskit.archive.write import write_tar
from statelesskit.errors import StatelessError
from statelesskit.manifest import Entry, Manifest
from tests.property.test_manifest import manifests


class Objects:
    """A store in memory."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    def add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).digest()
        self.held[digest] = content
        return digest.hex()

    def read(self, digest: bytes) -> Iterator[bytes]:
        content = self.held[digest]
        for start in range(0, len(content), 70_001):
            yield content[start : start + 70_001]

    def in_stored_order(self, digests: set[bytes]) -> list[bytes]:
        return sorted(digests)


@st.composite
def trees(draw: st.DrawFn) -> tuple[Manifest, Objects]:
    """A manifest with contents that fit it."""
    objects, entries = Objects(), []
    for entry in draw(manifests()).entries():
        if entry.type == "file":
            content = bytearray(draw(st.binary(max_size=64)) * draw(st.sampled_from([0, 1, 9, 4000])))
            edges = sorted(draw(st.sets(st.integers(0, len(content)), max_size=6)))
            holes = tuple((start, end - start) for start, end in zip(edges[::2], edges[1::2], strict=False))
            for start, length in holes:
                content[start : start + length] = bytes(length)
            entry = replace(entry, sha256=objects.add(bytes(content)), size=len(content), holes=holes)
        entries.append(entry)
    return Manifest.of(entries), objects


def archive(manifest: Manifest, objects: Objects, **how: bool) -> bytes:
    out = io.BytesIO()
    write_tar(manifest, objects, out.write, **({"sparse": True, "comment": True} | how))  # type: ignore[arg-type]
    return out.getvalue()


def read(data: bytes, **how: bool) -> Gathering:
    gathering = Gathering(hashed)
    gathering.add(Stream(io.BytesIO(data)), **how)
    return gathering


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees(), st.booleans())
def test_an_archive_holds_the_manifest(tree: tuple[Manifest, Objects], sparse: bool) -> None:
    manifest, objects = tree
    data = archive(manifest, objects, sparse=sparse)
    assert len(data) % pax.BLOCK == 0
    gathering = read(data)
    assert gathering.manifest().lines == manifest.lines
    assert gathering.findings == []
    assert archive(manifest, objects, sparse=sparse) == data
    plain = archive(manifest, objects, sparse=sparse, comment=False)
    assert read(plain, exact=True).manifest().lines == manifest.lines


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(trees(), st.data())
def test_an_altered_or_cut_archive_is_noticed(tree: tuple[Manifest, Objects], data: st.DataObject) -> None:
    manifest, objects = tree
    text = bytearray(archive(manifest, objects))
    place = data.draw(st.integers(1536, len(text) - 1))  # after the header that tells the digest
    if data.draw(st.booleans()):
        del text[place:]
    else:
        text[place] ^= data.draw(st.integers(1, 255))
    with suppress(StatelessError):
        assert read(bytes(text)).manifest().lines == manifest.lines


@given(st.binary(max_size=3000), st.binary(max_size=600))
def test_rubbish_is_refused_as_such(rubbish: bytes, more: bytes) -> None:
    whole = archive(Manifest.of([Entry(b"", "dir")]), Objects(), comment=False)
    for text in (rubbish, whole[:512] + more, more + whole):
        with suppress(StatelessError):
            read(text).manifest()


@given(st.integers(-(2**63), 2**63 - 1))
def test_times_are_exact(ns: int) -> None:
    assert pax.time_ns(pax.time_text(ns)) == ns


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name), st.binary(max_size=200))
def test_records_come_back(name: bytes, value: bytes) -> None:
    key = pax.xattr_keyword(name)
    assert pax.xattr_name(key) == name
    assert pax.records(pax.record(key, value) * 2) == [(key, value)] * 2


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(0, 7), st.integers(0, 2**32 - 2))))
def test_access_lists_come_back(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted((tag, bits, owner if tag in acl.NAMED else acl.NOBODY) for tag, bits, owner in rows)
    rows.sort(key=lambda row: (row[0], row[2]))
    value = acl.VERSION.pack(2) + b"".join(acl.ENTRY.pack(*row) for row in rows)
    text = acl.to_text(value)
    assert (acl.from_text(text) if text else value) == value
