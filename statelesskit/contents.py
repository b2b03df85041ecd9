"""The files of one tree by path, as a program inside it would open them; only what is asked for is read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from statelesskit.errors import RefusedError
from statelesskit.manifest import Entry, Manifest, decode
from statelesskit.names import printable

LINKS_MAX = 40  # symlinks followed for one path, as many as Linux follows


class Objects(Protocol):
    """Where contents are read from: the store, or something that stands in for it."""

    def read(self, digest: bytes) -> Iterator[bytes]: ...


class Contents:
    """A manifest, whose order is relied on, with the objects it names."""

    def __init__(self, manifest: Manifest, objects: Objects) -> None:
        self.manifest = manifest
        self.objects = objects

    def find(self, path: bytes) -> Entry | None:
        """Return what has this path; a hard link comes with the metadata of its file."""
        place = self._place(path)
        if place == len(self.manifest.lines):
            return None
        entry = decode(self.manifest.lines[place])
        return self.whole(entry) if entry.path == path else None

    def whole(self, entry: Entry) -> Entry:
        """Return an entry with the metadata it has; only a hard link's stands elsewhere."""
        if entry.type != "link":
            return entry
        first = self.find(entry.link_to)
        return replace(first, path=entry.path) if first and first.type != "link" else entry

    def resolve(self, path: bytes) -> Entry | None:
        """Follow symlinks, absolute ones from the tree's top; None if that leads nowhere or in circles."""
        here: list[bytes] = []
        left, followed = path.split(b"/")[::-1], 0
        while left:
            name = left.pop()
            if name == b"..":
                del here[-1:]
            elif name not in (b"", b"."):
                entry = self.find(b"/".join([*here, name]))
                if entry is None or (followed := followed + (entry.type == "symlink")) > LINKS_MAX:
                    return None
                if entry.type != "symlink":
                    here.append(name)
                    continue
                if entry.target.startswith(b"/"):
                    here.clear()
                left += reversed(entry.target.split(b"/"))
        return self.find(b"/".join(here))

    def children(self, folder: bytes) -> Iterator[Entry]:
        """Yield what stands directly in a folder, in order; nothing if there is no such folder."""
        prefix = folder + b"/" if folder else b""
        place = self._place(prefix or b"\0")
        while place < len(self.manifest.lines):
            entry = decode(self.manifest.lines[place])
            if not entry.path.startswith(prefix):
                return
            name, deeper, _ = entry.path[len(prefix) :].partition(b"/")
            if deeper:
                place = self._place(prefix + name + b"0", place)  # "0" comes after "/": past all that is in it
                continue
            yield self.whole(entry)
            place += 1

    def read(self, path: bytes, most: int) -> bytes | None:
        """Return the content of a file, symlinks followed; None if there is no such file.

        Raises:
            RefusedError: it is longer than ``most`` bytes.
            DamagedError: its object is missing or damaged.
        """
        entry = self.resolve(path)
        if entry is None or entry.type != "file":
            return None
        return b"".join(self.pieces(entry, most))

    def pieces(self, entry: Entry, most: int) -> Iterator[bytes]:
        """Yield a file's content in pieces. Raises as :meth:`read`."""
        size = entry.size
        if size <= most:
            size = 0
            for piece in self.objects.read(bytes.fromhex(entry.sha256)):
                size += len(piece)
                if size > most:  # the manifest lied about it
                    break
                yield piece
        if size > most:
            shown = printable(entry.path.decode("utf-8", "surrogateescape"))
            raise RefusedError(f"{shown} is longer than {most} bytes, too long to be looked into")

    def _place(self, path: bytes, least: int = 0) -> int:
        return bisect_left(self.manifest.lines, path, lo=least, key=lambda line: decode(line).path)
