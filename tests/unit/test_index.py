"""The index says what the packs say, whatever became of it and of them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from statelesskit import index as index_module
from statelesskit import store as store_module
from statelesskit.errors import DamagedError, NoSpaceError
from statelesskit.index import Index
from statelesskit.pack import Pack
from statelesskit.store import Store, Writer


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def put(store: Store, *contents: bytes) -> None:
    with Writer(store, 1) as writer:
        for content in contents:
            writer.add(0, content)
        writer.finish()


def get(store: Store, content: bytes) -> bytes:
    return b"".join(store.read(sha(content)))


def packs_of(store: Store) -> dict[tuple[str, int], Pack]:
    return {(path.name, path.stat().st_size): Pack(path) for path in sorted(store.packs.glob("*.pack"))}


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small stores use an index too."""
    monkeypatch.setattr(store_module, "FEW_OBJECTS", 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    for number in range(5):
        put(made, *(f"{number} {other}".encode() for other in range(4)))
    made.index_file.unlink()
    Store(tmp_path).missing([sha(b"0 0")])
    assert made.index_file.exists()
    return made


CONTENTS = [f"{number} {other}".encode() for number in range(5) for other in range(4)]


def whole(store: Store) -> bool:
    fresh = Store(store.packs.parent)
    return all(get(fresh, content) == content for content in CONTENTS)


def test_it_finds_what_is_there_and_nothing_else(store: Store) -> None:
    found = Index.load(store.index_file)
    packs = packs_of(store)
    for content in CONTENTS:
        ((pack, number),) = found.places(sha(content))
        assert packs[found.packs[pack]].digest(number) == sha(content)
    for other in (b"", b"5 0", b"none"):
        assert list(found.places(sha(other))) == []
    for digest in (bytes(32), b"\xff" * 32):
        assert list(found.places(digest)) == []


def test_an_object_in_two_packs_has_two_places(tmp_path: Path) -> None:
    with Writer(Store(tmp_path), 1) as first, Writer(Store(tmp_path), 1) as second:
        for writer in (first, second):
            writer.add(0, b"both")
            writer.add(0, str(id(writer)).encode())
        second.finish()
        first.finish()
    found = Index.of(packs_of(Store(tmp_path)))
    assert sorted(found.places(sha(b"both"))) == [(0, 0), (1, 0)]
    # Whichever goes, the other is found.
    for path in list(Store(tmp_path).packs.glob("*.pack")):
        held = path.read_bytes()
        path.unlink()
        assert get(Store(tmp_path), b"both") == b"both"
        path.write_bytes(held)


def test_merged_it_is_as_if_made_at_once(store: Store) -> None:
    packs = packs_of(store)
    files = list(packs)
    made = Index.of(packs)
    assert (
        Index.of({file: packs[file] for file in files[2:]}, Index.of({file: packs[file] for file in files[:2]})) == made
    )
    for gone in ([0], [1, 4], [0, 1, 2, 3, 4]):
        kept = {file: packs[file] for number, file in enumerate(files) if number not in gone}
        assert Index.of({}, made, gone) == Index.of(kept)
        first = next(iter(files))
        if 0 in gone:
            assert Index.of({first: packs[first]}, made, gone) == Index.of({**kept, first: packs[first]})


def test_every_flipped_byte_and_every_cut_is_found_and_heals(store: Store) -> None:
    right = store.index_file.read_bytes()
    for place in range(len(right)):
        store.index_file.write_bytes(right[:place] + bytes([right[place] ^ 0x11]) + right[place + 1 :])
        with pytest.raises(DamagedError):
            Index.load(store.index_file)
    for size in range(len(right)):
        store.index_file.write_bytes(right[:size])
        with pytest.raises(DamagedError):
            Index.load(store.index_file)
    assert whole(store)
    assert Index.load(store.index_file).rows == len(CONTENTS)
    assert sorted(Index.load(store.index_file).packs) == sorted(packs_of(store))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"garbage")], ids=["missing", "garbage"])
def test_without_it_all_is_found_and_it_is_made_anew(store: Store, spoil) -> None:  # type: ignore[no-untyped-def]
    spoil(store.index_file)
    assert whole(store)
    assert Index.load(store.index_file).rows == len(CONTENTS)


def test_who_cannot_write_it_goes_on_without(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.index_file.unlink()

    def full(self: Index, path: Path) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(Index, "write", full)
    assert whole(store)
    assert not store.index_file.exists()


def test_a_failed_write_leaves_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.index_file.read_bytes()

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(index_module.fs, "write_all", full)
    with pytest.raises(NoSpaceError):
        Index.of({}).write(store.index_file)
    assert store.index_file.read_bytes() == before
    assert {path.name for path in store.index_file.parent.iterdir()} == {"packs", "index"}


def test_a_pack_that_is_gone_is_not_believed(store: Store) -> None:
    place = store.place(sha(b"0 0"))
    assert place
    place[0].path.unlink()
    fresh = Store(store.packs.parent)
    assert len(fresh.missing(map(sha, CONTENTS))) == 4
    assert sha(b"0 0") not in fresh
    put(fresh, b"0 0")
    assert get(fresh, b"0 0") == b"0 0"


def test_a_pack_cut_off_is_missing_until_it_is_written_again(store: Store) -> None:
    place = store.place(sha(b"0 0"))
    assert place
    path = place[0].path
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    fresh = Store(store.packs.parent)
    assert sha(b"0 0") not in fresh
    assert [str(path) in error.message for error in fresh.damaged.values()] == [True]


@pytest.mark.parametrize("lie", ["rows of another pack", "a pack left out", "no rows"])
def test_a_lying_index_is_found_and_mended(store: Store, lie: str) -> None:
    packs = packs_of(store)
    files = list(packs)
    if lie == "rows of another pack":
        Index.of({first: packs[second] for first, second in zip(files, reversed(files), strict=True)}).write(
            store.index_file
        )
    elif lie == "a pack left out":
        false = Index.of({file: packs[file] for file in files[1:]})
        false.packs = [*false.packs, files[0]]
        false.write(store.index_file)
    else:
        false = Index.of({})
        false.packs = files
        false.write(store.index_file)
    fresh = Store(store.packs.parent)
    assert "is wrong" in fresh.mend_index()
    assert whole(store)
    assert Store(store.packs.parent).mend_index() == ""


def test_a_right_index_is_left_alone(store: Store) -> None:
    put(store, b"new")
    before = store.index_file.stat().st_ino
    assert store.mend_index() == ""
    assert store.index_file.stat().st_ino == before
    store.index_file.write_bytes(b"garbage")
    assert str(store.index_file) in store.mend_index()
    assert Store(store.packs.parent).mend_index() == ""


def test_it_is_written_anew_when_much_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FEW_OBJECTS", 10_000)
    monkeypatch.setattr(store_module, "FEW_PACKS", 5)
    store = Store(tmp_path)
    for number in range(6):
        put(store, str(number).encode())
        store.missing([sha(b"0")])
    assert len(Index.load(store.index_file).packs) == 6
    for number in range(6, 9):
        put(store, str(number).encode())
    assert Store(tmp_path).missing([sha(str(number).encode()) for number in range(9)]) == []
    assert len(Index.load(store.index_file).packs) == 6


def test_writing_looks_nothing_up_before_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "_look", lambda self: pytest.fail("it looked"))
    with Writer(Store(tmp_path), 2) as writer:
        writer.finish()


def test_a_large_one_is_right(tmp_path: Path) -> None:
    noise = random.Random(7)
    contents = [noise.randbytes(20) for _ in range(6000)]
    store = Store(tmp_path)
    put(store, *contents[:5000])
    put(store, *contents[5000:])
    digests = {sha(content): content for content in contents}
    assert store.missing(digests) == []
    assert Index.load(store.index_file).rows >= 5000
    assert len(store.missing([sha(noise.randbytes(20)) for _ in range(1000)])) == 1000
    assert sorted(store.in_stored_order(set(digests))) == sorted(digests)
    some = set(list(digests)[:50])
    assert sorted(store.in_stored_order(some)) == sorted(some)
