"""Write a snapshot as a tar archive: the same manifest always gives the same bytes.

Members stand in the manifest's order, so every folder and every hard link's file comes before what needs it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from statelesskit.archive import acl, pax
from statelesskit.archive.pax import BLOCK, NAME_SIZE, OCTAL_7, OCTAL_11, SECOND
from statelesskit.errors import DamagedError
from statelesskit.manifest import Entry, Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.store import LARGE, Store

WINDOW_FILES, WINDOW_BYTES = 4096, 32 * 1024 * 1024  # small files read at once, in the order the packs hold them
END = bytes(2 * BLOCK)

Write = Callable[[bytes], object]


def write_tar(
    manifest: Manifest, store: Store, write: Write, *, sparse: bool, comment: bool, progress: Progress = SILENT
) -> None:
    """Give a whole archive to ``write``, piece by piece.

    Args:
        sparse: leave holes out, as GNU tar does; otherwise they are there as zeros, and a keyword names them.
        comment: begin with a global header that tells the manifest's digest.

    Raises:
        DamagedError: an object is missing or damaged.
    """
    if comment:
        write(global_header(manifest.digest))
    progress.stage("writing the archive", total=len(manifest.lines), unit="files")
    for window in _windows(manifest.entries()):
        small = {bytes.fromhex(entry.sha256) for entry in window if entry.type == "file" and entry.size <= LARGE}
        held = {digest: b"".join(store.read(digest)) for digest in store.in_stored_order(small)}
        for entry in window:
            if entry.type != "file":
                write(member(entry, sparse=sparse))
                continue
            digest = bytes.fromhex(entry.sha256)
            _write_file(entry, [held[digest]] if digest in held else store.read(digest), write, sparse)
        progress.advance(len(window))
    write(END)


def _windows(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    window: list[Entry] = []
    size = 0
    for entry in entries:
        window.append(entry)
        size += entry.size if entry.size <= LARGE else 0
        if len(window) >= WINDOW_FILES or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _write_file(entry: Entry, pieces: Iterable[bytes], write: Write, sparse: bool) -> None:
    holes = entry.holes if sparse else ()
    write(member(entry, sparse=sparse))
    size = written = 0
    for piece in pieces:
        kept = b"".join(_between(piece, size, holes)) if holes else piece
        write(kept)
        size += len(piece)
        written += len(kept)
    write(bytes(pax.padding(written)))
    if size != entry.size or written != entry.size - sum(length for _, length in holes):
        raise DamagedError(
            f"{printable(entry.path.decode('utf-8', 'surrogateescape'))}: the object {entry.sha256} is {size} bytes "
            f"long, the manifest says {entry.size}"
        )


def _between(piece: bytes, offset: int, holes: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """Yield what of a piece does not lie in holes."""
    place = 0
    for start, length in holes[bisect_right(holes, offset, key=lambda hole: hole[0] + hole[1]) :]:
        if start >= offset + len(piece):
            break
        yield piece[place : max(start - offset, 0)]
        place = min(start + length - offset, len(piece))
    yield piece[place:]


def member(entry: Entry, *, sparse: bool) -> bytes:
    """Return all that stands before an entry's content; of a sparse file the map too."""
    name = entry.path + b"/" if entry.type == "dir" else entry.path
    name = name if entry.path else b"./"
    target = entry.link_to or entry.target
    size, data_map = entry.size if entry.type == "file" else 0, b""
    extended: list[tuple[bytes, bytes]] = []
    if entry.holes and sparse:
        data_map = _sparse_map(entry)
        extended += _sparse_records(entry)
        size += len(data_map) - sum(length for _, length in entry.holes)
        folder, slash, last = name.rpartition(b"/")
        shown = folder + slash + b"GNUSparseFile.0/" + last  # so that one who can't read it does not hit the real one
    else:
        shown = name
        if entry.holes:
            extended.append((pax.HOLES, b",".join(b"%d+%d" % hole for hole in entry.holes)))
    if len(shown) > NAME_SIZE:
        extended.append((b"path", shown))
    if len(target) > NAME_SIZE:
        extended.append((b"linkpath", target))
    if size > OCTAL_11:
        extended.append((b"size", b"%d" % size))
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid), (pax.MAJOR, entry.major), (pax.MINOR, entry.minor)):
        if number > OCTAL_7:
            extended.append((key, b"%d" % number))
    if entry.mtime_ns % SECOND or not 0 <= entry.mtime_ns // SECOND <= OCTAL_11:
        extended.append((b"mtime", pax.time_text(entry.mtime_ns)))
    if entry.type == "socket":
        extended.append((pax.FILETYPE, b"socket"))
    if any(key in (b"path", b"linkpath", b"GNU.sparse.name") and not _is_text(value) for key, value in extended):
        extended.insert(0, (b"hdrcharset", b"BINARY"))
    extended += _xattr_records(entry)
    block = _block(
        shown,
        pax.TYPES.get(entry.type, b"0"),
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=size,
        mtime=entry.mtime_ns // SECOND,
        target=target,
        major=entry.major,
        minor=entry.minor,
    )
    return (_extended(b"x", extended) if extended else b"") + block + data_map


def global_header(digest: str) -> bytes:
    """Return the header that tells which manifest the archive holds; POSIX lets everybody ignore a comment."""
    return _extended(b"g", [(b"comment", b"statelesskit " + digest.encode("ascii"))])


def _sparse_records(entry: Entry) -> list[tuple[bytes, bytes]]:
    return [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", entry.path),
        (b"GNU.sparse.realsize", b"%d" % entry.size),
    ]


def _sparse_map(entry: Entry) -> bytes:
    """Return where the data is, as decimal lines: how many ranges, then offset and length of each."""
    ends = [0, *chain.from_iterable((start, start + length) for start, length in entry.holes), entry.size]
    ranges = [(start, end - start) for start, end in zip(ends[::2], ends[1::2], strict=True) if end > start]
    if sum(entry.holes[-1]) == entry.size:
        ranges.append((entry.size, 0))  # as GNU tar ends it: how far the last hole reaches
    text = b"%d\n" % len(ranges) + b"".join(b"%d\n%d\n" % one for one in ranges)
    return text + bytes(pax.padding(len(text)))


def _xattr_records(entry: Entry) -> Iterator[tuple[bytes, bytes]]:
    for name, value in entry.xattrs:
        yield pax.xattr_keyword(name), value
        if name.startswith(pax.ACL_XATTR) and (text := acl.to_text(value)):
            yield pax.ACL + name.removeprefix(pax.ACL_XATTR), text


def _extended(kind: bytes, found: list[tuple[bytes, bytes]]) -> bytes:
    data = b"".join(pax.record(key, value) for key, value in found)
    return _block(b"././@PaxHeader", kind, mode=0o644, size=len(data)) + data + bytes(pax.padding(len(data)))


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    size: int,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    target: bytes = b"",
    major: int = 0,
    minor: int = 0,
) -> bytes:
    """Return a ustar block; a number that it can't hold is 0 there, and stands in the extended header."""
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name[:NAME_SIZE].ljust(NAME_SIZE, b"\0"),
        mode,
        uid if uid <= OCTAL_7 else 0,
        gid if gid <= OCTAL_7 else 0,
        size if size <= OCTAL_11 else 0,
        mtime if 0 <= mtime <= OCTAL_11 else 0,
    )
    tail = b"%s%sustar\00000%s%07o\0%07o\0%s" % (
        kind,
        target[:NAME_SIZE].ljust(NAME_SIZE, b"\0"),
        bytes(64),  # the owner's and the group's name: those are this machine's, the numbers are the tree's
        major if major <= OCTAL_7 else 0,
        minor if minor <= OCTAL_7 else 0,
        bytes(167),
    )
    total = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % total + tail


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
