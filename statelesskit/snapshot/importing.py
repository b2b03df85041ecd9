"""Make a snapshot of what an archive or an image holds, without unpacking it anywhere."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from statelesskit import fs
from statelesskit.archive.gather import Gathering, kept_in
from statelesskit.archive.source import ArchiveSource
from statelesskit.config import Site
from statelesskit.manifest import HEADER, Manifest
from statelesskit.names import check_name
from statelesskit.progress import SILENT, Progress
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.publish import CollectedError, newest, publish
from statelesskit.snapshot.registry import Snapshot
from statelesskit.store import Store, Writer
from statelesskit.take import Taken

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TRIES = 3  # how often an import begins anew when a collection came between


def import_snapshot(
    site: Site, prototype: str, source: ArchiveSource, *, note: str = "", progress: Progress = SILENT
) -> tuple[Snapshot, Taken]:
    """Read an archive or an image into the store, and make it the newest snapshot of a prototype.

    The prototype needs no tree on this site. On any error, and after a crash at any moment, there is no
    snapshot, at most objects in the store that nothing names.

    Raises:
        FormatError, RefusedError: the archive is damaged or hostile.
        DamagedError: it does not hold what it says it holds.
        NoSpaceError: the store's disk is full.
    """
    check_name(prototype, "prototype")
    for _ in range(TRIES - 1):
        with suppress(CollectedError):  # what was known already is gone, so now it is kept anew
            return _import_once(site, prototype, source, note, progress)
    return _import_once(site, prototype, source, note, progress)


def _import_once(
    site: Site, prototype: str, source: ArchiveSource, note: str, progress: Progress
) -> tuple[Snapshot, Taken]:
    store = Store(site.store)
    with fs.work_folder(site.snapshots / prototype) as partial:
        manifest, taken = _read(store, source, progress)
        _write_manifest(partial / MANIFEST, manifest)
        describe = newest(prototype, manifest.digest, taken, note)
        return publish(site, partial, prototype, store, taken.packs, describe), taken


def _read(store: Store, source: ArchiveSource, progress: Progress) -> tuple[Manifest, Taken]:
    with Writer(store, 1) as writer:
        gathering = Gathering(kept_in(writer), progress)
        source.gather(gathering, progress)
        progress.stage("checking the manifest")
        manifest = gathering.manifest()
        progress.stage("writing to disk")
        writer.finish()
    taken = Taken(
        entries=len(manifest.lines),
        files=gathering.files,
        bytes=gathering.bytes,
        new_bytes=sum(writer.new_bytes),
        stored_bytes=writer.stored_bytes,
        findings=gathering.findings,
        packs=writer.relied_on,
    )
    return manifest, taken


def _write_manifest(path: Path, manifest: Manifest) -> None:
    compressor = zstd.ZstdCompressor(level=3)
    fd = fs.create(path, 0o444)
    try:
        for line in (HEADER, *manifest.lines):
            if packed := compressor.compress(line):
                fs.write_all(fd, packed)
        fs.write_all(fd, compressor.flush())
        fs.fsync(fd)
    finally:
        os.close(fd)
