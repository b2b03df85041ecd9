"""Write what a manifest lists into an empty folder: contents from a store, and all metadata.

No path is handed to the kernel as a whole and no link is followed, so nothing is written outside the folder,
whatever the manifest says. Nothing is flushed to the disk, and nothing is proven: that is the caller's part.
"""

from __future__ import annotations

import os
import queue
import stat
from bisect import bisect_right
from pathlib import Path
from typing import Protocol

from statelesskit import fs
from statelesskit.errors import DamagedError
from statelesskit.folders import Folders
from statelesskit.manifest import Entry, Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.store import Store
from statelesskit.tree import OPEN_FOLDER, in_folder
from statelesskit.workers import Workers

THREADS = 2
CHUNK = 128  # objects one thread takes at a time; neighbours, so that each frame is decompressed once
KINDS = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}


class Linking(Protocol):
    """Where files may be had without writing them."""

    def link(self, line: bytes, entry: Entry, folder: int, name: bytes) -> bool:
        """Give an open folder a file that surely is what its line of the manifest says; false if there is none."""


def names_of_many(manifest: Manifest) -> set[bytes]:
    """Return the paths of files that have other names in the same tree; those are never linked to another tree."""
    return {entry.link_to for entry in manifest.entries() if entry.type == "link"}


def write_tree(
    manifest: Manifest, store: Store, top: Path, progress: Progress = SILENT, linking: Linking | None = None
) -> None:
    """Fill the empty folder ``top``; nothing is flushed to the disk yet."""
    root = os.open(top, OPEN_FOLDER)
    try:
        for name in os.listxattr(root):
            if name.startswith("system.posix_acl_"):  # from the folder above; ours would hand it down
                os.removexattr(root, name)
        _Writing(store, root, progress).write(manifest, linking)
    finally:
        os.close(root)


class _Writing:
    def __init__(self, store: Store, root: int, progress: Progress) -> None:
        self._store, self._root, self._progress = store, root, progress
        self._files: dict[bytes, list[Entry]] = {}
        self._work: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self._writers = Workers(THREADS, self._write_chunks)

    def write(self, manifest: Manifest, linking: Linking | None) -> None:
        folders, sources = Folders(self._root), Folders(self._root)
        links, dirs = [], []
        several = names_of_many(manifest) if linking else set()
        try:
            for number, entry in enumerate(manifest.entries()):
                if entry.type == "file":
                    alone = linking if entry.path not in several else None
                    if not (alone and alone.link(manifest.lines[number], entry, *folders.of(entry.path))):
                        self._files.setdefault(bytes.fromhex(entry.sha256), []).append(entry)
                elif entry.type == "link":
                    links.append(entry)
                elif entry.type == "dir":
                    dirs.append(entry)
                    if entry.path:
                        folder, name = folders.of(entry.path)
                        os.mkdir(name, 0o700, dir_fd=folder)
                else:
                    _make_special(entry, *folders.of(entry.path))
            self._write_files()
            for entry in links:
                source, name = sources.of(entry.link_to)
                folder, new = folders.of(entry.path)
                os.link(name, new, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            # Deepest first, and after all else: making a name in a folder moves its time.
            for entry in reversed(dirs):
                _set_by_name(entry, *folders.of(entry.path))
        finally:
            folders.close()
            sources.close()

    def _write_files(self) -> None:
        """Write all contents, neighbours in the packs together, by several threads."""
        digests = self._store.in_stored_order(set(self._files))
        self._progress.stage("writing files", total=len(digests), unit="files")
        for start in range(0, len(digests), CHUNK):
            self._work.put(digests[start : start + CHUNK])
        with self._writers:
            pass

    def _write_chunks(self, thread: int) -> None:
        folders = Folders(self._root)
        try:
            while not self._writers.failure:
                chunk = self._work.get_nowait()
                for digest in chunk:
                    for entry in self._files[digest]:
                        self._write_file(digest, entry, *folders.of(entry.path))
                self._progress.advance(len(chunk))
        except queue.Empty:
            pass
        finally:
            folders.close()

    def _write_file(self, digest: bytes, entry: Entry, folder: int, name: bytes) -> None:
        # Nobody else reaches it before the tree has its name, so it may have its mode from the beginning.
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, entry.mode & 0o777, dir_fd=folder)
        try:
            written = 0
            for piece in self._store.read(digest):
                if self._writers.failure:
                    raise self._writers.failure
                if entry.holes:
                    _write_around(fd, piece, written, entry.holes)
                else:
                    fs.write_all(fd, piece)
                written += len(piece)
            if written != entry.size:
                raise DamagedError(
                    f"{printable(os.fsdecode(entry.path))}: the object {entry.sha256} is {written} bytes long, "
                    f"the manifest says {entry.size}"
                )
            if entry.holes:
                os.ftruncate(fd, entry.size)
            _set_open(entry, fd)
        finally:
            os.close(fd)


def _write_around(fd: int, piece: bytes, offset: int, holes: tuple[tuple[int, int], ...]) -> None:
    """Write a piece at its place, leaving out what lies in holes.

    Raises:
        DamagedError: something else than zeros lies there.
    """
    position, end = offset, offset + len(piece)
    first = bisect_right(holes, offset, key=lambda hole: hole[0] + hole[1])
    for start, length in holes[first:]:
        if start >= end:
            break
        os.lseek(fd, position, os.SEEK_SET)
        fs.write_all(fd, piece[position - offset : max(start - offset, 0)])
        position = min(start + length, end)
        if piece[max(start - offset, 0) : position - offset].strip(b"\0"):
            raise DamagedError(f"the manifest says a hole is at {start}, but there is data")
    os.lseek(fd, position, os.SEEK_SET)
    fs.write_all(fd, piece[position - offset :])


def _make_special(entry: Entry, folder: int, name: bytes) -> None:
    if entry.type == "symlink":
        os.symlink(entry.target, name, dir_fd=folder)
    else:
        os.mknod(name, KINDS[entry.type] | 0o600, os.makedev(entry.major, entry.minor), dir_fd=folder)
    _set_by_name(entry, folder, name)


def _set_open(entry: Entry, fd: int) -> None:
    """Give an open file its metadata. A change of owner takes set-id bits and capabilities away, so it is first."""
    info = os.fstat(fd)  # most files are born as they should be, and a change that changes nothing costs as much
    if (info.st_uid, info.st_gid) != (entry.uid, entry.gid):
        os.fchown(fd, entry.uid, entry.gid)
    for attribute, value in entry.xattrs:
        os.setxattr(fd, attribute, value)
    if entry.xattrs or stat.S_IMODE(info.st_mode) != entry.mode:
        os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def _set_by_name(entry: Entry, folder: int, name: bytes) -> None:
    """The same for what is not opened: links, devices, folders."""
    os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
    for attribute, value in entry.xattrs:
        os.setxattr(in_folder(folder, name), attribute, value, follow_symlinks=False)
    if entry.type != "symlink":
        os.chmod(name, entry.mode, dir_fd=folder)
    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
