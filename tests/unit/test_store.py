"""The store: each content once, written by many at once, and never less than what it says."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.errors import DamagedError, NoSpaceError
from statelesskit.store import LARGE, Store, Writer


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def put(store: Store, *contents: bytes) -> int:
    with Writer(store, 1) as writer:
        for content in contents:
            writer.add(0, content)
        writer.finish()
    return sum(writer.new_bytes)


def get(store: Store, digest: bytes) -> bytes:
    return b"".join(store.read(digest))


def where(store: Store, content: bytes) -> Path:
    place = store.place(sha(content))
    assert place
    return place[0].path


def pieces(content: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


def test_a_content_is_kept_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert put(store, b"one", b"two", b"one", b"") == 6
    assert put(store, b"two", b"", b"three") == 5
    assert put(store, b"one", b"three") == 0
    assert len(list(store.packs.iterdir())) == 2
    for content in (b"one", b"two", b"three", b""):
        assert get(store, sha(content)) == content
    assert sha(b"four") not in store


def test_a_large_content_is_kept_once_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content = random.Random(1).randbytes(LARGE + 5)
    with Writer(store, 1) as writer:
        assert writer.add_stream(0, pieces(content)) == (sha(content), len(content))
        size = writer.stored_bytes
        assert writer.add_stream(0, pieces(content)) == (sha(content), len(content))
        assert writer.stored_bytes == size
        writer.add(0, b"after")
        writer.finish()
    assert writer.new_bytes == [len(content) + 5]
    assert get(store, sha(content)) == content
    assert get(store, sha(b"after")) == b"after"


def test_threads_share_the_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    contents = [random.Random(n % 300).randbytes(n % 300 * 50) for n in range(1200)]
    with Writer(store, 4) as writer:
        threads = [
            threading.Thread(target=lambda n=n: [writer.add(n, content) for content in contents]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.finish()
    assert sum(writer.new_bytes) == sum(map(len, set(contents)))
    assert all(get(store, sha(content)) == content for content in set(contents))


def test_two_writers_at_once_disturb_no_one(tmp_path: Path) -> None:
    with Writer(Store(tmp_path), 1) as first:
        first.add(0, b"of the first")
        first.add(0, b"of both")
        with Writer(Store(tmp_path), 2) as second:
            second.add(1, b"of both")
            second.finish()
        first.finish()
    store = Store(tmp_path)
    assert store.missing([sha(b"of the first"), sha(b"of both")]) == []
    assert get(store, sha(b"of both")) == b"of both"


def test_an_error_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, b"before")
    before = list(store.packs.iterdir())
    with pytest.raises(KeyboardInterrupt):
        interrupted(store)
    assert list(store.packs.iterdir()) == before


def interrupted(store: Store) -> None:
    with Writer(store, 2) as writer:
        writer.add(0, b"new")
        writer.add_stream(1, pieces(os.urandom(300_000)))
        raise KeyboardInterrupt


@pytest.mark.parametrize("fails", range(4))
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th write or flush finds no space, so also one that comes after the first of two packs is done."""
    store = Store(tmp_path)
    store.packs.mkdir()
    calls = iter(range(100))

    def failing(real):  # type: ignore[no-untyped-def]
        def call(*args: object) -> None:
            if next(calls) == fails:
                raise OSError(errno.ENOSPC, "full")
            real(*args)

        return call

    def fill() -> None:
        with Writer(store, 2) as writer:
            monkeypatch.setattr(fs, "write_all", failing(fs.write_all))
            monkeypatch.setattr(fs, "fsync", failing(fs.fsync))
            writer.add(0, b"a")
            writer.add(1, b"b")
            writer.finish()

    with pytest.raises(OSError, match="full"):
        fill()
    assert list(store.packs.iterdir()) == []


def test_a_writer_that_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fs.new_partial_file
    made: list[Path] = []

    def second_fails(target: Path, mode: int) -> tuple[Path, int]:
        if made:
            raise OSError(errno.EDQUOT, "quota")
        made.append(target)
        return real(target, mode)

    monkeypatch.setattr(fs, "new_partial_file", second_fails)
    with pytest.raises(NoSpaceError):
        Writer(Store(tmp_path), 2)
    assert list((tmp_path / "packs").iterdir()) == []


def test_a_pack_with_damaged_tables_is_named_and_what_it_held_is_kept_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, b"old")
    put(store, b"other")
    (damaged,) = [path for path in store.packs.iterdir() if path == where(store, b"old")]
    with damaged.open("r+b") as file:
        file.truncate(damaged.stat().st_size - 1)
    store = Store(tmp_path)
    assert sha(b"old") not in store
    assert [str(damaged) in error.message for error in store.damaged.values()] == [True]
    with pytest.raises(DamagedError, match="not in the store"):
        get(store, sha(b"old"))
    assert put(store, b"old", b"other") == 3
    assert get(store, sha(b"old")) == b"old"
    assert Store(tmp_path).damaged == {}  # the new pack has the same name and took the damaged one's place


def test_a_content_that_changed_in_its_pack_is_not_handed_out_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content = random.Random(2).randbytes(900_000)  # incompressible, so a flip changes just one byte
    put(store, content)
    (path,) = store.packs.iterdir()
    path.chmod(0o644)
    whole = bytearray(path.read_bytes())
    whole[450_000] ^= 1
    path.write_bytes(whole)
    store = Store(tmp_path)
    read: list[bytes] = []
    with pytest.raises(DamagedError, match="damaged"):
        read.extend(store.read(sha(content)))
    assert len(b"".join(read)) < len(content)


def test_no_file_stays_open(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(20):
        put(store, bytes([number]))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        store = Store(tmp_path)
        assert [get(store, sha(bytes([number]))) for number in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_objects_come_in_the_order_of_the_packs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, b"b", b"a")
    missing = sha(b"missing")
    assert store.in_stored_order({sha(b"a"), missing, sha(b"b")}) == [sha(b"b"), sha(b"a"), missing]
