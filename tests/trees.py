"""Trees that exist in memory only, for tests of what reads snapshots."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from statelesskit.contents import Contents
from statelesskit.manifest import HEADER, Entry, Manifest

# bytes: a file; with fields; str: a symlink; an entry stands for itself, whatever its path
Made = bytes | tuple[bytes, dict[str, Any]] | str | Entry


@dataclass
class Memory:
    """Objects in memory, and which of them were read."""

    held: dict[bytes, bytes] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)

    def add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).digest()
        self.held[digest] = content
        return digest.hex()

    def read(self, digest: bytes) -> Iterator[bytes]:
        self.asked.append(digest)
        content = self.held[digest]
        yield content[:10]
        yield content[10:]


def tree(files: Mapping[str, Made]) -> Contents:
    """Make a tree of files; the folders above them come by themselves."""
    memory = Memory()
    entries = {b"": Entry(b"", "dir", mode=0o755)}
    for name, made in files.items():
        path = name.encode("utf-8", "surrogateescape")
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            above = b"/".join(parts[:depth])
            entries.setdefault(above, Entry(above, "dir", mode=0o755))
        entries[path] = _entry(path, made, memory)
    manifest = Manifest.of(entries[path] for path in sorted(entries))
    return Contents(Manifest.parse(HEADER + b"".join(manifest.lines)), memory)


def _entry(path: bytes, made: Made, memory: Memory) -> Entry:
    if isinstance(made, Entry):
        return replace(made, path=path)
    if isinstance(made, str):
        return Entry(path, "symlink", mode=0o777, target=made.encode())
    content, fields = made if isinstance(made, tuple) else (made, {})
    found = Entry(path, "file", mode=0o644, sha256=memory.add(content), size=len(content))
    return replace(found, **fields)


def rpm_header(*rows: tuple[int, int, bytes]) -> bytes:
    """Make a header as rpm's database holds it, of (tag, type, data) rows."""
    index, data = b"", b""
    for tag, kind, value in rows:
        index += struct.pack(">IIII", tag, kind, len(data), 1)
        data += value
    return struct.pack(">II", len(rows), len(data)) + index + data


def rpm_database(path: Path, *headers: object) -> bytes:
    """Make a database with these headers, and return its bytes."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
    database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(header,) for header in headers])
    database.commit()
    database.close()
    return path.read_bytes()
