"""Write a snapshot as a tar archive, and prove by reading it that it holds the manifest.

For :mod:`statelesskit.archive` the archive holds everything: read back it gives the same digest. What the
format has no words for other tools read in their own way, which is said: a socket is an empty file to them, and a
path longer than the kernel's PATH_MAX they can't make. (bsdtar 3.6 also puts times before 1970 that are no whole
second up to two seconds off.)
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from statelesskit import fs
from statelesskit.archive.gather import Gathering, hashed
from statelesskit.archive.stream import Stream, decompressed
from statelesskit.archive.write import write_tar
from statelesskit.errors import DamagedError, ExistsError, UsageError
from statelesskit.export.tree import check_target
from statelesskit.manifest import Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.store import Store
from statelesskit.tree import Finding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PATH_MAX = 4095  # bytes; what programs that unpack by whole paths can reach
ZSTD_LEVEL, GZIP_LEVEL = 3, 6
THREADS = 2
ENDINGS = {".tar": "", ".tar.zst": "zstd", ".tzst": "zstd", ".tar.gz": "gzip", ".tgz": "gzip"}


def losses_elsewhere(manifest: Manifest) -> list[Finding]:
    """Return what other tools than this one do not get out of the archive as it was."""
    found = []
    for entry in manifest.entries():
        if entry.type == "socket":
            found.append(Finding(entry.path, "it is a socket; other tools make an empty file of it"))
        if len(entry.path) > PATH_MAX:
            found.append(Finding(entry.path, "its path is longer than other tools can make"))
        for name, _ in entry.xattrs:
            if b"=" in name or b"%" in name:
                text = f"of the attribute {os.fsdecode(name)} only GNU tar reads the name as it is"
                found.append(Finding(entry.path, text))
    return found


def export_tar(manifest: Manifest, store: Store, target: Path, *, progress: Progress = SILENT) -> list[Finding]:
    """Write the archive to ``target``, which must be free; its ending says how it is compressed.

    The same manifest gives the same bytes, as long as the compressor's version is the same.

    Returns:
        What other tools do not read, as :func:`losses_elsewhere`.

    Raises:
        UsageError: the ending is none of ``ENDINGS``.
        ExistsError, NotFoundError, NoSpaceError, DamagedError: as for a tree; nothing is left.
    """
    compression = _compression(target)
    check_target(target)
    if target.exists():
        raise ExistsError(f"{target} is a folder", hint="name the archive's file")
    with new_file(target) as fd:
        with compressed(fd, compression) as write:
            write_tar(manifest, store, write, sparse=True, comment=True, progress=progress)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as file:
            check_archive(manifest, Stream(decompressed(file)), progress)
    return losses_elsewhere(manifest)


def _compression(target: Path) -> str:
    for ending, kind in ENDINGS.items():
        if target.name.endswith(ending) and target.name != ending:
            return kind
    raise UsageError(
        f"the name {printable(target.name)} does not say what kind of archive it is",
        hint="let it end in one of " + ", ".join(ENDINGS),
    )


@contextmanager
def new_file(target: Path) -> Iterator[int]:
    """Yield a new file, open to be filled; when the block ends well it is flushed and named, else it is removed."""
    with fs.disk_full_named(target):
        fs.remove_leftovers(target)
        temporary, fd = fs.new_partial_file(target, 0o644)
        try:
            yield fd
            fs.fsync(fd)
            fs.rename_durably(temporary, target)
        except BaseException:
            fs.remove_tree(temporary)
            raise
        finally:
            os.close(fd)


@contextmanager
def compressed(fd: int, kind: str) -> Iterator[Callable[[bytes], object]]:
    """Yield what takes the archive's bytes and writes them to the file, compressed by ``zstd``, ``gzip`` or not."""
    with open(fd, "wb", 2**20, closefd=False) as file:
        if kind == "zstd":
            options: dict[int, int] = {
                zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
                zstd.CompressionParameter.nb_workers: THREADS,
                zstd.CompressionParameter.checksum_flag: 1,
            }
            with zstd.ZstdFile(file, "wb", options=options) as packed:
                yield packed.write
        elif kind == "gzip":
            # No name and no time in its header, so that equal content gives equal bytes.
            with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
                yield packed.write
        else:
            yield file.write


def check_archive(manifest: Manifest, stream: Stream, progress: Progress) -> None:
    """Read an archive as an import would, and hold what it gives against the manifest.

    Raises:
        DamagedError: it gives another one.
    """
    progress.stage("reading it again", total=len(manifest.lines), unit="files")
    gathering = Gathering(hashed, progress)
    gathering.add(stream, exact=True)
    if (found := gathering.manifest().digest) != manifest.digest:
        raise DamagedError(f"the archive came out with the digest {found}, expected {manifest.digest}")
