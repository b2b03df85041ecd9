"""rpm's database in its SQLite form, ``rpmdb.sqlite``; the older forms are named as findings, never passed over.

The table ``Packages`` holds one header for each package, as rpm's manual (format_header) describes it: two
32-bit counts, index rows of (tag, type, offset, count), and the data they point into; all big-endian.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from statelesskit.contents import Contents
from statelesskit.manifest import Entry
from statelesskit.names import printable
from statelesskit.packages.model import DATABASE_MAX, Package
from statelesskit.tree import Finding

FOLDERS = (b"var/lib/rpm", b"usr/lib/sysimage/rpm", b"usr/share/rpm")
SQLITE = b"rpmdb.sqlite"
OLDER = {b"Packages": "Berkeley DB", b"Packages.db": "ndb"}
NAME, VERSION, RELEASE, EPOCH, ARCH, SOURCE = 1000, 1001, 1002, 1003, 1022, 1044  # rpm's tags
INT32, STRING, I18N_STRING = 4, 6, 9  # and its types
TAGS_MAX, HEADER_MAX = 0xFFFF, 0x0FFFFFFF  # as rpm itself allows
STEPS_MAX = 200_000  # thousands of SQLite's steps; a large database needs a hundredth
KEY = "gpg-pubkey"  # rpm keeps the keys it trusts as packages; they are none
_COUNTS, _ROW = struct.Struct(">II"), struct.Struct(">IIII")
_SOURCE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+-[^-]+)\.(?:no)?src\.rpm")


def read(contents: Contents, findings: list[Finding]) -> Iterator[Package]:
    """Yield the packages of an rpm tree."""
    folders = {entry.path for path in FOLDERS if (entry := contents.resolve(path)) and entry.type == "dir"}
    for folder in sorted(folders):
        there = {entry.path.rpartition(b"/")[2]: entry for entry in contents.children(folder) if entry.type == "file"}
        if SQLITE in there:
            yield from _read_sqlite(contents, folder, there, findings)
            continue
        for name in sorted(OLDER.keys() & there.keys()):
            text = f"this rpm database has the {OLDER[name]} format, which is not readable here"
            findings.append(Finding(there[name].path, f"{text}; its packages are missing"))


def _read_sqlite(
    contents: Contents, folder: bytes, there: dict[bytes, Entry], findings: list[Finding]
) -> Iterator[Package]:
    path = folder + b"/" + SQLITE
    strange = 0
    with TemporaryDirectory(prefix="statelesskit-") as temporary:
        # What rpm wrote last may still be in the write-ahead log.
        for name in (SQLITE, SQLITE + b"-wal"):
            if name in there:
                with Path(temporary, name.decode()).open("wb") as copy:
                    copy.writelines(contents.pieces(there[name], DATABASE_MAX))
        try:
            for blob in _blobs(Path(temporary, SQLITE.decode())):
                try:
                    package = read_header(blob)
                except ValueError:
                    strange += 1
                    continue
                if package.name != KEY:
                    yield package
        except sqlite3.Error as error:
            findings.append(Finding(path, f"this rpm database cannot be read to its end: {printable(error)}"))
    if strange:
        findings.append(Finding(path, f"{strange} rows describe no package"))


def _blobs(path: Path) -> Iterator[bytes]:
    """Yield the headers from a database that may have been made to harm whoever reads it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        steps = iter(range(STEPS_MAX))
        database.set_progress_handler(lambda: next(steps, None) is None, 1000)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, HEADER_MAX)
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA cell_size_check=ON")
        # A view or a virtual table has no root page, and could compute for ever.
        kind = "SELECT count(*) FROM sqlite_master WHERE name='Packages' AND type='table' AND rootpage>0"
        if database.execute(kind).fetchone()[0] != 1:
            raise sqlite3.DatabaseError("there is no table Packages in it")
        for (blob,) in database.execute("SELECT blob FROM Packages"):
            yield blob if isinstance(blob, bytes) else b""


def read_header(blob: bytes) -> Package:
    """Return the package a header describes.

    Raises:
        ValueError: it describes none.
    """
    try:
        rows, size = _COUNTS.unpack_from(blob)
        data = _COUNTS.size + rows * _ROW.size
        if not 0 < rows <= TAGS_MAX or data + size > len(blob):
            raise ValueError("the counts are impossible")
        values = {}
        for tag, kind, offset, count in _ROW.iter_unpack(blob[_COUNTS.size : data]):
            if tag not in (NAME, VERSION, RELEASE, EPOCH, ARCH, SOURCE) or not count or offset >= size:
                continue
            if kind in (STRING, I18N_STRING):
                values[tag] = blob[data + offset : blob.index(b"\0", data + offset)].decode("utf-8", "replace")
            elif kind == INT32:
                values[tag] = str(int.from_bytes(blob[data + offset : data + offset + 4], "big"))
    except struct.error as error:
        raise ValueError(str(error)) from error
    name, version = values.get(NAME, ""), f"{values.get(VERSION, '')}-{values.get(RELEASE, '')}"
    if tag_epoch := values.get(EPOCH):
        version = f"{tag_epoch}:{version}"
    built = _SOURCE.fullmatch(values.get(SOURCE, ""))
    package = Package(
        "rpm",
        name,
        values.get(ARCH, ""),
        version,
        source=built["name"] if built else name,
        source_version=built["version"] if built else version,
    )
    if not package.plausible or not values.get(VERSION):
        raise ValueError("it has no name or version")
    return package
