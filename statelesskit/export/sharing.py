"""Link what an export has in common with an earlier one, instead of writing it again.

Two exports may have one inode for a file that has the same line in both manifests. It is linked only when it is
proven that it still is what its line says: by its fingerprint (inode and ctime, which every change of content or
metadata moves) if that is as it was when the earlier export was checked, or else by reading it. As link(2) and
unlink(2) move the ctime as well, each export has fingerprints of its own, taken when all its names were made.

Who writes into such a file writes into all exports that share it. So a tree shares by itself only with one that
lies, like it, in the site's ``exports`` folder, which only root can enter.

Files that have other names in their own tree are never shared.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
from pathlib import Path

from statelesskit.export.compare import described
from statelesskit.folders import Folders
from statelesskit.manifest import Entry, Manifest
from statelesskit.tree import OPEN_FOLDER, Found
from statelesskit.write_tree import names_of_many

LINE = 16  # bytes of a line's digest
MARK = struct.Struct(f"<{LINE}sQq")  # of a line, with the inode and the ctime of its file
RACY_S = 0.02  # the kernel's clock for files steps by up to 10 ms; two changes in one step look like one


def marks(manifest: Manifest, infos: dict[bytes, os.stat_result]) -> bytes:
    """Return the fingerprints of a tree's files, which were looked at when nothing was any more done to them."""
    several = names_of_many(manifest)
    return b"".join(
        MARK.pack(_digest(line), *_mark(infos[entry.path]))
        for line, entry in zip(manifest.lines, manifest.entries(), strict=True)
        if entry.path in infos and entry.path not in several
    )


class Sharing:
    """An earlier export, and what was linked from it; used by one thread."""

    def __init__(self, top: Path, seen: bytes) -> None:
        """Open the tree at ``top``; ``seen`` are the fingerprints of its files, as far as there are any."""
        root = os.open(top, OPEN_FOLDER)
        self._folders, self._root = Folders(root), root
        self._seen = {digest: (inode, ctime) for digest, inode, ctime in MARK.iter_unpack(seen)}
        self._linked: dict[bytes, tuple[int, int]] = {}

    @property
    def files(self) -> int:
        """How many files were linked."""
        return len(self._linked)

    def close(self) -> None:
        self._folders.close()
        os.close(self._root)

    def link(self, line: bytes, entry: Entry, folder: int, name: bytes) -> bool:
        """Link a file into an open folder if the earlier export surely has it; say whether it did."""
        try:
            above, there = self._folders.of(entry.path)
            info = os.stat(there, dir_fd=above, follow_symlinks=False)
            known = self._seen.get(_digest(line)) == _mark(info)
            if not known and not self._holds(entry, Found(entry.path, above, there, info)):
                return False
            os.link(there, name, src_dir_fd=above, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False  # it is not there, is on another file system, or has as many names as it can have
        now = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if _mark(now)[0] != info.st_ino:
            os.unlink(name, dir_fd=folder)  # it was replaced in between
            return False
        self._linked[entry.path] = _mark(now)
        return True

    def _holds(self, entry: Entry, found: Found) -> bool:
        """Read a file, and say whether it is what its line says."""
        if not stat.S_ISREG(found.info.st_mode) or found.info.st_size != entry.size:
            return False
        if 0 <= time.time_ns() - found.info.st_ctime_ns < RACY_S * 1e9:
            time.sleep(RACY_S)  # removing what a killed export left has just moved it; one wait serves for all
        if described(found, entry, reread=True) != entry:
            return False
        return _mark(os.stat(found.name, dir_fd=found.folder, follow_symlinks=False)) == _mark(found.info)

    def untouched(self, path: bytes, info: os.stat_result) -> bool:
        """Say whether a file that was linked is untouched since."""
        return self._linked.get(path) == _mark(info)

    def touched(self, infos: dict[bytes, os.stat_result]) -> list[bytes]:
        """Return the paths of linked files to which something was done since."""
        return [path for path, mark in self._linked.items() if path not in infos or _mark(infos[path]) != mark]


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=LINE).digest()


def _mark(info: os.stat_result) -> tuple[int, int]:
    return info.st_ino, info.st_ctime_ns
