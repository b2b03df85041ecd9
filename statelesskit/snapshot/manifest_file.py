"""The manifest at rest, ``snapshots/NAME/manifest.jsonl.zst``, checked whenever it is read.

It is one zstd frame that needs a window of at most 8 MiB. Its entries were checked one by one when it came
into the site; later the digest in ``snapshot.json`` says that it is still the same, and that is enough.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from statelesskit.ahead import ahead
from statelesskit.config import Site
from statelesskit.diff import diff_pieces
from statelesskit.errors import DamagedError
from statelesskit.manifest import HEADER, LINE_MAX, Change, Manifest, check_header, contents_in
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.registry import Snapshot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MANIFEST_MAX = 4 * 1024**3  # bytes, decompressed; more than ten million files need
ENTRIES_MAX = 20_000_000  # short lines take more memory than their length
WINDOW_LOG = 23  # a reader never needs more than 8 MiB for what came before, as RFC 8878 recommends
PIECE = 1024 * 1024  # bytes of a manifest in memory at once


def load_manifest(site: Site, snapshot: Snapshot) -> Manifest:
    """Read a snapshot's manifest; its entries are checked when they are iterated. Raises as :func:`pieces`."""
    lines: list[bytes] = []
    for piece in pieces(site, snapshot):
        lines += piece.splitlines(keepends=True)
    return Manifest(lines)


def manifest_text(site: Site, snapshot: Snapshot) -> bytes:
    """Read a snapshot's manifest as it stands. Raises as :func:`pieces`."""
    return b"".join((HEADER, *pieces(site, snapshot)))


def check_manifest(site: Site, snapshot: Snapshot) -> None:
    """Read a snapshot's manifest only to see that it is whole. Raises as :func:`pieces`."""
    for _ in pieces(site, snapshot):
        pass


def pieces(site: Site, snapshot: Snapshot) -> Iterator[bytes]:
    """Yield the entries' lines, many at a time, with little memory.

    Nothing of it may be believed before the last piece has come and the iterator has ended without an error:
    only then is it known to be the manifest that the snapshot is named for.

    Raises:
        DamagedError: it is missing, cut off, too long, or its digest is another.
        FormatError: it is of a format this tool does not know.
    """
    return pieces_in(site.snapshots / snapshot.name, snapshot.digest)


def pieces_in(folder: Path, expected: str) -> Iterator[bytes]:
    """Yield the same of the manifest in a folder that is no snapshot yet, or not of this site."""
    path = folder / MANIFEST
    total = hashlib.sha256()
    header, rest, entries = b"", b"", -1  # the header is none
    try:
        for text in _decompressed(path):
            total.update(text)
            end = text.rfind(b"\n") + 1
            whole, rest = (rest + text[:end], text[end:]) if end else (b"", rest + text)
            entries += whole.count(b"\n")
            if len(rest) > LINE_MAX or entries > ENTRIES_MAX:
                raise ValueError("a line has no end, or there are too many")
            if whole and not header:
                header, newline, whole = whole.partition(b"\n")
                header += newline
            if whole:
                yield whole
    except (OSError, EOFError, ValueError, zstd.ZstdError) as error:
        raise DamagedError(f"the manifest {path} cannot be read: {error}") from error
    digest = "sha256:" + total.hexdigest()
    if digest != expected or rest:
        raise DamagedError(f"the manifest {path} is damaged: its digest is {digest}, expected {expected}")
    check_header(header)


def objects_in(folder: Path, expected: str) -> set[bytes]:
    """Return the digests of the objects that the manifest in a folder needs. Raises as :func:`pieces`."""
    return {digest for piece in pieces_in(folder, expected) for digest, _ in contents_in(piece)}


def objects_of(site: Site, snapshot: Snapshot) -> set[bytes]:
    """Return the digests of the objects a snapshot needs. Raises as :func:`pieces`."""
    return objects_in(site.snapshots / snapshot.name, snapshot.digest)


def changes_between(site: Site, before: Snapshot, after: Snapshot) -> list[Change]:
    """Return what differs between two snapshots, in path order, with little memory. Raises as :func:`pieces`."""
    if before.digest == after.digest:
        return []
    with closing(ahead(pieces(site, before))) as old, closing(ahead(pieces(site, after))) as new:
        return diff_pieces(old, new)


def new_bytes(site: Site, before: Snapshot | None, after: Snapshot) -> int:
    """Return the size of the contents that ``after`` holds and ``before`` does not. Raises as :func:`pieces`."""
    if before is None:
        return sum({digest: size for piece in pieces(site, after) for digest, size in contents_in(piece)}.values())
    files = (change.after for change in changes_between(site, before, after))
    new = {bytes.fromhex(file.sha256): file.size for file in files if file and file.type == "file"}
    for piece in pieces(site, before) if new else ():
        for digest, _ in contents_in(piece):
            new.pop(digest, None)
    return sum(new.values())


def _decompressed(path: Path) -> Iterator[bytes]:
    """Yield the text of a file that holds exactly one frame."""
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
    size = 0
    with path.open("rb", buffering=0) as file:
        while not decompressor.eof:
            packed = file.read(PIECE) if decompressor.needs_input else b""
            if decompressor.needs_input and not packed:
                raise EOFError("it is cut off")
            text = decompressor.decompress(packed, max_length=PIECE)
            size += len(text)
            if size > MANIFEST_MAX:
                raise ValueError(f"it is longer than {MANIFEST_MAX} bytes")
            yield text
        if decompressor.unused_data or file.read(1):
            raise ValueError("something follows it")
