"""Packs written anew hold what is needed, whole, and nothing is removed on the way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit import store as store_module
from statelesskit.errors import DamagedError, NoSpaceError
from statelesskit.pack import Pack
from statelesskit.repack import remove_packs, rewrite
from statelesskit.store import LARGE, Store, Writer

NOISE = random.Random(1)
SMALL = [NOISE.randbytes(NOISE.randrange(3000)) for _ in range(500)] + [b""]
BIG = [NOISE.randbytes(LARGE + 10), bytes(LARGE + 5)]


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def put(store: Store, *contents: bytes) -> None:
    with Writer(store, 1) as writer:
        for content in contents:
            if len(content) < LARGE:
                writer.add(0, content)
            else:
                writer.add_stream(0, iter([content[:1000], content[1000:]]))
        writer.finish()


def get(store: Store, content: bytes) -> bytes:
    return b"".join(store.read(sha(content)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    put(made, *SMALL[:200], BIG[0])
    put(made, *SMALL[200:400])
    put(made, *SMALL[400:], BIG[1])
    return made


def packs(store: Store) -> list[Path]:
    return sorted(store.packs.glob("*.pack"))


def test_only_what_is_needed_is_carried_over(store: Store) -> None:
    before = packs(store)
    needed = {sha(content) for content in [*SMALL[::2], BIG[0], b"is not here"]}
    done = rewrite(store, before, needed, level=5)
    assert (done.damaged, done.unreadable) == ([], [])
    assert done.objects == len(needed) - 1
    assert done.content_bytes == sum(map(len, [*SMALL[::2], BIG[0]]))
    assert done.stored_bytes == sum(path.stat().st_size for path in done.packs)
    assert set(packs(store)) == {*before, *done.packs}
    remove_packs(store, before)
    assert packs(store) == sorted(done.packs)
    assert all(get(store, content) == content for content in [*SMALL[::2], BIG[0]])
    assert store.missing([sha(content) for content in SMALL[1::2]]) != []
    for path in done.packs:
        assert Pack(path).faults() == (None, [])


def test_nothing_needed_makes_no_pack(store: Store) -> None:
    before = packs(store)
    assert rewrite(store, before, set()).packs == []
    assert packs(store) == before


def test_readers_go_on_while_packs_are_swapped(store: Store) -> None:
    """Some hold a view of the old packs, one is in the middle of a large object."""
    before, contents = packs(store), [*SMALL, *BIG]
    reading = store.read(sha(BIG[0]))
    first = next(reading)
    other = Store(store.packs.parent)
    assert get(other, SMALL[0]) == SMALL[0]
    third = Store(store.packs.parent)
    rewrite(third, before, {sha(content) for content in contents}, level=2)
    remove_packs(third, before)
    assert first + b"".join(reading) == BIG[0]
    assert all(get(other, content) == content for content in contents)
    assert Store(store.packs.parent).missing(map(sha, contents)) == []


def spoil(path: Path, place: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def test_what_is_damaged_is_named_and_the_rest_is_carried_over(store: Store) -> None:
    place = store.place(sha(SMALL[200]))
    assert place
    spoil(place[0].path, 40_000)
    done = rewrite(Store(store.packs.parent), packs(store), {sha(content) for content in [*SMALL, *BIG]}, level=2)
    assert done.damaged
    lost = set(done.damaged)
    fresh = Store(store.packs.parent)
    remove_packs(fresh, [path for path in packs(fresh) if path not in done.packs])
    for content in {*SMALL, *BIG}:
        if sha(content) in lost:
            assert sha(content) not in fresh
        else:
            assert get(fresh, content) == content


def test_a_whole_copy_elsewhere_is_carried_over(tmp_path: Path) -> None:
    content = NOISE.randbytes(5000)
    large = NOISE.randbytes(LARGE + 1)
    with Writer(Store(tmp_path), 1) as first, Writer(Store(tmp_path), 1) as second:
        for writer, other in ((first, b"a"), (second, b"b")):
            writer.add(0, content)
            writer.add_stream(0, iter([large]))
            writer.add(0, other)
        first.finish()
        damaged = packs(Store(tmp_path))[0]
        second.finish()
    spoil(damaged, 2500)
    spoil(damaged, damaged.stat().st_size // 2)
    done = rewrite(Store(tmp_path), [damaged], {sha(content), sha(large)}, level=2)
    assert done.damaged == []
    assert done.objects == 2
    assert get(Store(tmp_path), content) == content
    assert get(Store(tmp_path), large) == large


def test_a_pack_nobody_can_read_is_named(store: Store) -> None:
    path = packs(store)[0]
    spoil(path, -5)
    done = rewrite(Store(store.packs.parent), packs(store), {sha(content) for content in SMALL}, level=2)
    assert [str(path) in error.message for error in done.unreadable] == [True]


def test_a_full_disk_leaves_the_store_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = packs(store)
    calls: Iterator[int] = iter(range(1000))
    real = fs.write_all

    def full(fd: int, data: bytes) -> None:
        if next(calls) == 3:
            raise OSError(28, "full")
        real(fd, data)

    monkeypatch.setattr(fs, "write_all", full)
    with pytest.raises(NoSpaceError):
        rewrite(store, before, {sha(content) for content in SMALL}, level=2, frame_size=1000)
    assert sorted(store.packs.iterdir()) == before


def test_a_damaged_copy_gives_way_to_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of a large object, as long as what was handed out is right."""
    monkeypatch.setattr(store_module, "FEW_OBJECTS", 0)
    small, large = NOISE.randbytes(100), NOISE.randbytes(LARGE + 1)
    with Writer(Store(tmp_path), 1) as first, Writer(Store(tmp_path), 1) as second:
        for writer, other in ((first, b"a"), (second, b"b")):
            writer.add(0, small)
            writer.add_stream(0, iter([large[: 1 << 20], large[1 << 20 :]]))
            writer.add(0, other)
        first.finish()
        second.finish()
    whole = {path: path.read_bytes() for path in packs(Store(tmp_path))}
    for path, data in whole.items():
        path.chmod(0o644)
        for place in (50, len(data) - 300_000):
            spoil(path, place)
        store = Store(tmp_path)
        assert get(store, small) == small
        assert get(store, large) == large
        path.write_bytes(data)
    for path in whole:
        spoil(path, 50)
    with pytest.raises(DamagedError, match="is damaged"):
        get(Store(tmp_path), small)
