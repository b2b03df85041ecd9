"""Packs: what goes in comes out, whatever dies or rots on the way is seen."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from statelesskit import fs, pack
from statelesskit.errors import DamagedError
from statelesskit.pack import FRAME_MAX, FRAME_SIZE, UNFINISHED, Pack, PackWriter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def write(folder: Path, *contents: bytes, stream: bool = False) -> Path:
    writer = PackWriter(folder)
    for content in contents:
        if stream:
            writer.add_stream(iter([content]))
        else:
            writer.add(sha(content), content)
    writer.seal()
    path = writer.publish()
    assert path
    return path


def read(found: Pack) -> list[bytes]:
    return [b"".join(found.read(number)) for number in range(len(found))]


SIZES = (
    0,
    1,
    FRAME_SIZE - 1,
    FRAME_SIZE,
    FRAME_SIZE + 1,
    0,
    FRAME_MAX - 1,
    FRAME_MAX,
    FRAME_MAX + 1,
    2 * FRAME_MAX + 3,
)


@pytest.mark.parametrize("stream", [False, True])
def test_contents_of_every_size_come_back(tmp_path: Path, stream: bool) -> None:
    contents = [random.Random(size).randbytes(size) for size in SIZES]
    found = Pack(write(tmp_path, *contents, stream=stream))
    assert list(found.digests()) == [sha(content) for content in contents]
    assert [found.size(number) for number in range(len(found))] == list(SIZES)
    assert read(found) == contents
    found.verify()
    assert [path.suffix for path in tmp_path.iterdir()] == [".pack"]


def test_a_pack_of_nothing_is_none_and_one_of_emptiness_is_one(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path)
    writer.seal()
    assert writer.publish() is None
    assert list(tmp_path.iterdir()) == []
    path = write(tmp_path, b"")
    assert read(Pack(path)) == [b""]
    assert subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout == b""


def test_any_zstd_program_reads_a_pack(tmp_path: Path) -> None:
    contents = [b"one", b"two" * 100_000, os.urandom(300_000)]
    path = write(tmp_path, *contents)
    done = subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True)
    assert done.stdout == b"".join(contents)


def test_equal_packs_have_equal_names(tmp_path: Path) -> None:
    first = write(tmp_path, b"a", b"b")
    assert write(tmp_path, b"a", b"b") == first
    assert len({write(tmp_path, b"b", b"a"), write(tmp_path, b"a"), first}) == 3


def test_a_stream_can_be_taken_back(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path)
    writer.add(sha(b"small"), b"small")
    writer.add_stream(iter([os.urandom(FRAME_SIZE)] * 5))
    writer.undo()
    kept = [b"x" * FRAME_SIZE, b"yy"]
    assert writer.add_stream(iter(kept)) == (sha(b"".join(kept)), FRAME_SIZE + 2)
    writer.seal()
    path = writer.publish()
    assert path
    found = Pack(path)
    found.verify()
    assert read(found) == [b"small", b"".join(kept)]
    assert subprocess.run(["zstd", "-tq", path], check=False).returncode == 0


def test_a_stream_that_fails_is_taken_back(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield os.urandom(FRAME_SIZE)
        yield b"tail"
        raise OSError("the disk under the source is broken")

    writer = PackWriter(tmp_path)
    writer.add(sha(b"before"), b"before")
    with pytest.raises(OSError, match="broken"):
        writer.add_stream(broken())
    writer.add(sha(b"after"), b"after")
    writer.seal()
    path = writer.publish()
    assert path
    Pack(path).verify()
    assert read(Pack(path)) == [b"before", b"after"]


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, b"hello" * 20, bytes(1000), b"", os.urandom(50))
    whole = path.read_bytes()
    path.chmod(0o644)
    by_content = 0
    for place in range(len(whole)):
        for bit in (0x01, 0x10, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                found = Pack(path)
            except DamagedError:
                continue
            try:
                by_content += any(map(lambda a, b: sha(a) != b, read(found), found.digests()))
            except DamagedError:
                by_content += 1
            with pytest.raises(DamagedError, match="checksum"):
                found.verify()
    # Some bits of a zstd frame change nothing in what it holds: only the whole file's checksum sees them.
    assert by_content


def test_every_cut_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, b"hello" * 20)
    whole = path.read_bytes()
    path.chmod(0o644)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError):
            Pack(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedError):
        Pack(path)
    path.write_bytes(b"\0" + whole)
    with pytest.raises(DamagedError):
        Pack(path)


def test_another_name_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, b"hello")
    with pytest.raises(DamagedError, match="checksum"):
        Pack(path.rename(path.with_name("0" * 64 + ".pack")))


def test_a_pack_that_goes_away_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path, b"hello")
    found = Pack(path)
    path.unlink()
    for reading in (lambda: read(found), found.verify, lambda: Pack(path)):
        with pytest.raises(DamagedError, match=path.name):
            reading()


def crafted(folder: Path, frame: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Return a pack whose one data frame is not of our making; its tables are right."""
    writer = PackWriter(folder)
    with monkeypatch.context() as patched:

        class Compressor:
            FLUSH_FRAME = 2

            def compress(self, content: bytes, mode: int) -> bytes:
                return frame

        patched.setattr(writer, "_compressor", Compressor())
        content = b"x" * size
        writer.add(sha(content), content)
        writer.seal()
    path = writer.publish()
    assert path
    return Pack(path)


def bomb(window_log: int) -> bytes:
    options = {zstd.CompressionParameter.window_log: window_log, zstd.CompressionParameter.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)
    return b"".join([*(compressor.compress(bytes(2**20)) for _ in range(512)), compressor.flush()])


@pytest.mark.parametrize("window_log", [20, 27])
def test_a_frame_that_swells_is_refused_in_little_memory(
    tmp_path: Path, window_log: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = crafted(tmp_path, bomb(window_log), 100, monkeypatch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedError, match="frame 0"):
        read(found)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"no zstd at all",
        zstd.compress(b"x" * 99),
        zstd.compress(b"x" * 101),
        zstd.compress(b"x" * 100) + b"\0",
        zstd.compress(b"x" * 100) * 2,
        zstd.compress(b"x" * 50) * 2,
        zstd.compress(b"x" * 100)[:-1],
    ],
)
def test_a_frame_that_is_not_what_its_table_says_is_refused(
    tmp_path: Path, frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DamagedError, match="frame 0"):
        read(crafted(tmp_path, frame, 100, monkeypatch))


def test_tables_that_promise_a_larger_frame_than_any_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pack, "FRAME_MAX", 2 * FRAME_MAX)
        path = write(tmp_path, bytes(FRAME_MAX + 1))
    with pytest.raises(DamagedError, match="larger than any"):
        Pack(path)


def test_leftovers_of_the_dead_go_and_the_living_stay(tmp_path: Path) -> None:
    living = PackWriter(tmp_path)
    living.add(sha(b"x"), b"x")
    dead = tmp_path / f".{UNFINISHED}{fs.PARTIAL}{'0' * 8}"
    dead.write_bytes(b"half")
    other = tmp_path / f".{UNFINISHED}.mine"
    other.write_bytes(b"somebody's")
    fs.remove_leftovers(tmp_path / UNFINISHED)
    assert not dead.exists()
    assert other.exists()
    living.seal()
    assert living.publish()


def test_an_abandoned_pack_leaves_nothing(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path)
    writer.add(sha(b"x"), b"x")
    writer.seal()
    writer.abandon()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
