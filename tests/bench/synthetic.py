"""Two large snapshots that no tree stands behind, and their comparison in a process of its own."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from statelesskit.config import load_site
from statelesskit.manifest import HEADER, Entry
from statelesskit.snapshot import Snapshot, changes_between, description, load
from statelesskit.snapshot.registry import FORMAT

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def two_snapshots(site: Path, entries: int) -> tuple[str, str]:
    """Make two snapshots of so many entries, of which three in a hundred differ; return their names."""
    names = []
    for number in range(2):
        name = f"p-2026010{number + 1}T000000Z"
        folder = site / "snapshots" / name
        folder.mkdir()
        total, compressor = hashlib.sha256(), zstd.ZstdCompressor(level=3)
        with (folder / description.MANIFEST).open("wb") as file:
            for text in _lines(entries, number):
                total.update(text)
                file.write(compressor.compress(text))
            file.write(compressor.flush())
        snapshot = Snapshot(
            name=name,
            prototype="p",
            sequence=number + 1,
            taken_at=datetime.now(UTC),
            taken_by="bench",
            parent="",
            digest="sha256:" + total.hexdigest(),
            entries=entries,
            files=entries,
            bytes=0,
        )
        description.write(folder, {"format": FORMAT} | snapshot.as_json())
        names.append(name)
    return names[0], names[1]


def _lines(entries: int, version: int):  # type: ignore[no-untyped-def]
    yield HEADER
    yield Entry(b"", "dir", mode=0o755, mtime_ns=1).encode()
    left, folder = entries - 1, 0
    while left > 0:
        path = b"usr%05d" % folder
        yield Entry(path, "dir", mode=0o755, mtime_ns=1_700_000_000_123_456_789).encode()
        left -= 1
        for number in range(min(left, 199)):
            place = folder * 199 + number
            seed = b"%d %d" % (place, version if place % 33 == 0 else 0)
            yield Entry(
                path + b"/share-file-%03d.so" % number,
                "file",
                mode=0o644,
                mtime_ns=1_700_000_000_000_000_000 + place,
                sha256=hashlib.sha256(seed).hexdigest(),
                size=place % 100_000,
            ).encode()
            left -= 1
        folder += 1


def main() -> None:
    """Print wall and processor time of one comparison, and the process's peak in MB."""
    site = load_site(Path(sys.argv[1]))
    before, after = (load(site, name) for name in sys.argv[2:])
    began, cpu = time.monotonic(), time.process_time()
    changes = changes_between(site, before, after)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    assert len(changes) > 0.02 * before.entries
    print(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
