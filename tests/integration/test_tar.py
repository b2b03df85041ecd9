"""Tar archives: read by others' programs, others' read here; bad ones leave nothing."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from statelesskit.archive.source import parse_source
from statelesskit.archive.stream import Stream
from statelesskit.archive.write import global_header
from statelesskit.config import Site
from statelesskit.errors import DamagedError, FormatError, RefusedError
from statelesskit.export.tar import export_tar
from statelesskit.snapshot import list_snapshots, load_manifest
from statelesskit.snapshot.importing import import_snapshot
from statelesskit.snapshot.taking import take
from statelesskit.store import Store
from tests import torture
from tests.archives import DIR, LINK, SYMLINK, Made, archive, differences, nothing_left, ordinary, pax, small, taken
from tests.torture import add_prototype, scratch
from tests.witness import look

pytestmark = pytest.mark.root
GNU_TAR = [
    "tar", "--extract", "--numeric-owner", "--same-owner", "--same-permissions", "--acls", "--selinux", "--xattrs",
    "--xattrs-include=*", "--delay-directory-restore", "--file",
]  # fmt: skip
# Of people whom this machine doesn't know, so that tar can tell only their numbers.
NUMBERED = torture.acl(
    *((1, 6, torture.NOBODY), (2, 4, 77777), (4, 4, torture.NOBODY), (8, 7, 12345), (16, 7, torture.NOBODY)),
    (32, 0, torture.NOBODY),
)
BSD_TAR = ["bsdtar", "--numeric-owner", "--acls", "--xattrs", "-xpf"]


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


# --- read by others ---------------------------------------------------------------------------


def test_gnu_tar_unpacks_everything_but_what_was_said(site: Site, place: Path) -> None:
    _, manifest, top = taken(site, ordinary)
    lost = export_tar(manifest, Store(site.store), place / "out.tar.zst")
    assert {finding.path for finding in lost} == {b"types/socket", b"attributes/file"}
    (place / "gnu").mkdir()
    done = subprocess.run(
        [*GNU_TAR, place / "out.tar.zst", "--zstd"], cwd=place / "gnu", check=True, capture_output=True
    )
    expected = (b"SCHILY.filetype", b"hdrcharset", b"implausibly old", b"in the future")
    assert [line for line in done.stderr.splitlines() if not any(text in line for text in expected)] == []
    assert differences(look(top), look(place / "gnu")) == {b"types/socket": {"mode", "content", "data", "size"}}


def test_bsdtar_unpacks_it_too(site: Site, place: Path) -> None:
    _, manifest, top = taken(site, ordinary)
    export_tar(manifest, Store(site.store), place / "out.tar")
    (place / "bsd").mkdir()
    subprocess.run([*BSD_TAR, place / "out.tar"], cwd=place / "bsd", check=False, capture_output=True)
    found = differences(look(top), look(place / "bsd"))
    assert found.pop(b"types/socket")
    assert found.pop(b"attributes/file") == {"xattrs"}  # the name that must be quoted
    # libarchive takes -1.5 for -1 + 0.5, and the top's time is its own business
    assert {path for path in found if not path.startswith(b"times/")} <= {b""}
    assert all(keys == {"mtime"} and look(top)[path]["mtime"] < 0 for path, keys in found.items() if path)


def test_python_reads_it(site: Site, tmp_path: Path) -> None:
    _, manifest, top = taken(site, ordinary)
    export_tar(manifest, Store(site.store), tmp_path / "out.tar")
    expected = look(top)
    with tarfile.open(tmp_path / "out.tar", encoding="utf-8", errors="surrogateescape") as archive:
        names = [os.fsencode(member.name).removeprefix(b"./") for member in archive]
        assert sorted(name if name != b"." else b"" for name in names) == sorted(expected)
        for member in archive:
            if member.isreg() and (path := os.fsencode(member.name)) != b"types/socket":
                content = archive.extractfile(member)
                assert content
                assert hashlib.file_digest(content, "blake2b").hexdigest() == expected[path]["content"], path


# --- others' archives -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar", "v7"])
@pytest.mark.parametrize("compress", ["--gzip", "--zstd", "--no-auto-compress"])
def test_what_gnu_tar_wrote_is_read(site: Site, place: Path, form: str, compress: str) -> None:
    top = place / "top"
    small(top)
    (top / ("long" * 20)).mkdir()
    (top / ("long" * 20) / "name").write_text("y")
    (top / "link").symlink_to("x" * 90)
    if form == "posix":
        for name in ("access", "default"):
            os.setxattr(top / "etc", f"system.posix_acl_{name}", NUMBERED)
        os.setxattr(top / "etc/hostname", "user.bytes", bytes(range(256)))
        os.utime(top / "link", ns=(1, -5_000_000_001), follow_symlinks=False)
    if form in ("gnu", "posix"):
        os.chown(top / "etc", 2**31 + 5, 2**32 - 2)
        (top / "far").symlink_to("far" * 100)
    for path in [top, *top.rglob("*")]:
        if form != "posix":
            os.utime(path, ns=(1, 10**18), follow_symlinks=False)
    words = ["--sparse"] if form in ("gnu", "posix") else []
    words += ["--acls", "--xattrs", "--xattrs-include=user.*"] if form == "posix" else []
    argv = ["tar", "--create", f"--format={form}", compress, *words, "--file", place / "out", "-C", top, "."]
    subprocess.run(argv, check=True, capture_output=True)
    snapshot, taken_ = import_snapshot(site, "desktop", parse_source(f"tar:{place}/out"))
    assert taken_.findings == []
    found = {entry.path: entry for entry in load_manifest(site, snapshot).entries()}
    add_prototype(site)
    shutil.move(top, site.prototypes / "desktop/tree")
    expected, _ = take(site, "desktop")
    for entry in load_manifest(site, expected).entries():
        if not words and entry.holes:  # not asked for
            entry = replace(entry, holes=())
        assert found.pop(entry.path) == entry
    assert found == {}


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_every_way_of_holes_is_read(site: Site, place: Path, version: str) -> None:
    (place / "top").mkdir()
    torture._sparse(place / "top/file", 9 * 2**20, (0, b"a" * 5000), *((n * 2**20, b"!" * 5000) for n in range(3, 8)))
    torture._sparse(place / "top/hole", 2**20)
    argv = ["tar", "--create", "--format=posix", "--sparse", f"--sparse-version={version}", "--file", place / "out.tar"]
    subprocess.run([*argv, "-C", place / "top", "."], check=True, capture_output=True)
    snapshot, _ = import_snapshot(site, "desktop", parse_source(f"tar:{place}/out.tar"))
    found = {entry.path: entry for entry in load_manifest(site, snapshot).entries()}
    for name in (b"file", b"hole"):
        content = Path(os.fsdecode(os.fsencode(place) + b"/top/" + name)).read_bytes()
        assert found[name].sha256 == hashlib.sha256(content).hexdigest()
        assert found[name].size == len(content)
        assert found[name].holes[-1][0] > 0 or name == b"hole"


def test_folders_that_are_missing_are_made_with_a_finding(site: Site, tmp_path: Path) -> None:
    path = archive(tmp_path, ("a/b/c", b"x", {}))
    snapshot, result = import_snapshot(site, "desktop", parse_source(str(path)))
    assert [finding.path for finding in result.findings] == [b"a/b", b"a", b""]
    assert [entry.path for entry in load_manifest(site, snapshot).entries()] == [b"", b"a", b"a/b", b"a/b/c"]


def test_of_two_members_of_one_name_the_last_counts(site: Site, tmp_path: Path) -> None:
    path = archive(
        tmp_path,
        ("./", None, {"type": tarfile.DIRTYPE}),
        ("a", b"old", {}),
        ("b", None, {"type": tarfile.LNKTYPE, "linkname": "a"}),
        ("./a", b"new", {}),
    )
    snapshot, _ = import_snapshot(site, "desktop", parse_source(str(path)))
    a, b = list(load_manifest(site, snapshot).entries())[1:]
    assert (a.sha256, b.sha256) == tuple(hashlib.sha256(text).hexdigest() for text in (b"new", b"old"))


# --- hostile archives -------------------------------------------------------------------------

HOSTILE: dict[str, list[Made]] = {
    "dot dot": [("../evil", b"x", {})],
    "dot dot inside": [("a/../../evil", b"x", {})],
    "absolute": [("/etc/passwd", b"x", {})],
    "no name": [("", b"x", {})],
    "a NUL in a name": [("a", b"x", pax(path="a\0b"))],
    "a name of 256 bytes": [("n" * 256, b"x", {})],
    "a path of 64 KiB": [("a/" * 33_000 + "b", b"x", {})],
    "below a symlink": [("a", None, {**SYMLINK, "linkname": ".."}), ("a/evil", b"x", {})],
    "below what becomes a symlink": [("a/evil", b"x", {}), ("a", None, {**SYMLINK, "linkname": ".."})],
    "below a file": [("a", b"x", {}), ("a/evil", b"x", {})],
    "the top is a file": [(".", b"x", {})],
    "a hard link to nowhere": [("a", None, {**LINK, "linkname": "b"})],
    "a hard link to what comes later": [("a", None, {**LINK, "linkname": "b"}), ("b", b"x", {})],
    "a hard link to a folder": [("b", None, DIR), ("a", None, {**LINK, "linkname": "b"})],
    "a hard link to itself": [("a", b"x", {}), ("a", None, {**LINK, "linkname": "a"})],
    "a hard link out": [("a", None, {**LINK, "linkname": "/etc/passwd"})],
    "a hard link up": [("a", None, {**LINK, "linkname": "../etc/passwd"})],
    "a symlink to nothing": [("a", None, {**SYMLINK, "linkname": ""})],
    "an owner too large": [("a", b"x", pax(uid=str(2**32 - 1)))],
    "a negative owner": [("a", b"x", pax(gid="-1"))],
    "a device too large": [("a", None, {"type": tarfile.CHRTYPE, **pax(SCHILY__devmajor=str(2**40))})],
    "a time that is none": [("a", b"x", pax(mtime="1e9"))],
    "a size that is none": [("a", b"x", pax(size="0x10"))],
    "a size beyond the end": [("a", b"x", pax(size=str(2**50)))],
    "an attribute without a name": [("a", b"x", {"pax_headers": {"SCHILY.xattr.": "x"}})],
    "an attribute of 300 bytes' name": [("a", b"x", {"pax_headers": {"SCHILY.xattr." + "n" * 300: "x"}})],
    "an attribute that is too large": [("a", b"x", {"pax_headers": {"SCHILY.xattr.user.x": "v" * 70_000}})],
    "an extended header of 3 MB": [("a", b"x", {"pax_headers": {"comment": "v" * 3_000_000}})],
    "holes that hold data": [("a", b"x" * 9, pax(STATELESSKIT__holes="0+5"))],
    "holes beyond the end": [("a", b"x" * 9, pax(STATELESSKIT__holes="5+5"))],
    "holes out of order": [("a", bytes(9), pax(STATELESSKIT__holes="5+1,0+1"))],
    "a map of the wrong size": [("a", b"x", pax(GNU__sparse__map="0,9", GNU__sparse__size="9"))],
    "a map out of order": [("a", b"xy", pax(GNU__sparse__map="5,1,0,1", GNU__sparse__size="9"))],
    "a map beyond the end": [("a", b"xy", pax(GNU__sparse__map="8,2", GNU__sparse__size="9"))],
    "a map of words": [("a", b"xy", pax(GNU__sparse__map="a,b", GNU__sparse__size="9"))],
    "a map of 1.0 without an end": [("a", b"9" * 512, pax(GNU__sparse__major="1", GNU__sparse__realsize="9"))],
    "a map of 1.0 cut off": [("a", b"1\n0\n", pax(GNU__sparse__major="1", GNU__sparse__realsize="9"))],
    "a map of 1.0 of millions": [("a", b"9999999\n".ljust(512), pax(GNU__sparse__major="1"))],
    "a file of exabytes": [("a", b"", pax(GNU__sparse__map="", GNU__sparse__size=str(2**62)))],
    "a type nobody knows": [("a", b"x", {"type": b"Q"})],
    "a part of an archive": [("a", b"x", {"type": b"M"})],
    "nothing at all": [],
    "a false digest": [("a", b"x", {})],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = archive(tmp_path / "in", *HOSTILE[name])
    if name == "a false digest":
        path.write_bytes(global_header("sha256:" + "0" * 64) + path.read_bytes())
    with pytest.raises((FormatError, RefusedError, DamagedError)):
        import_snapshot(site, "desktop", parse_source(f"tar:{path}"))
    assert nothing_left(site)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("in", "site")] == []


def ends(folder: Path) -> dict[str, bytes]:
    whole = archive(folder, ("a", b"x" * 9000, {}), ("b", b"y", {})).read_bytes()
    packed = gzip.compress(whole)
    return {
        "empty": b"",
        "in a header": whole[:100],
        "in a content": whole[:5000],
        "between members": whole[: 512 + 9216],
        "without its end": whole.rstrip(b"\0").ljust(512 + 9216 + 1024, b"\0"),
        "in compressed data": packed[:-20],
        "before a checksum": packed[:-8],
        "with another behind it": whole + whole,
        "with rubbish behind it": whole + b"rubbish",
        "with rubbish behind compressed data": packed + b"rubbish",
        "a header altered": whole[:4] + b"!" + whole[5:],
        "a checksum altered": packed[:-6] + b"!!" + packed[-4:],
        "a bz2 file": b"BZh91AY" + whole,
        "zstd that wants a window of gigabytes": b"\x28\xb5\x2f\xfd\x00\xff" + bytes(100),
        "an extended header for nothing": global_header("sha256:x").replace(b"g", b"x", 1) + bytes(1024),
        "a thousand extended headers": long_name * 1000 + whole,
    }


long_name = tarfile.TarInfo("n" * 200).tobuf(tarfile.GNU_FORMAT)[:1024]


@pytest.mark.parametrize("name", [
    "empty", "in a header", "in a content", "between members", "without its end", "in compressed data",
    "before a checksum", "with another behind it", "with rubbish behind it", "with rubbish behind compressed data",
    "a header altered", "a checksum altered", "a bz2 file", "zstd that wants a window of gigabytes",
    "an extended header for nothing", "a thousand extended headers",
])  # fmt: skip
def test_an_archive_that_ends_badly_is_refused(site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/bad"
    path.write_bytes(ends(tmp_path / "in")[name])
    with pytest.raises(FormatError):
        import_snapshot(site, "desktop", parse_source(f"tar:{path}"))
    assert nothing_left(site)


# --- limits -----------------------------------------------------------------------------------


def test_an_archive_that_swells_is_refused_while_it_is_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four kilobytes that hold four megabytes, where one is the most that is read; or that claim so in a hole."""
    (tmp_path / "in").mkdir()
    monkeypatch.setattr(Stream.__init__, "__defaults__", (2**20, None))
    monkeypatch.setattr("statelesskit.archive.sparse.BYTES_MAX", 2**20)
    packed = tmp_path / "in/bomb.tar.gz"
    packed.write_bytes(gzip.compress(archive(tmp_path / "in", ("a", bytes(4 * 2**20), {})).read_bytes()))
    assert packed.stat().st_size < 2**13
    hole = archive(tmp_path / "in", ("a", b"", pax(GNU__sparse__map="", GNU__sparse__size=str(2**20 + 1))))
    for path in (packed, hole):
        with pytest.raises(RefusedError, match="is refused"):
            import_snapshot(site, "desktop", parse_source(f"tar:{path}"))
        assert nothing_left(site)


@pytest.mark.parametrize(
    ("limit", "most", "says"),
    [("WEIGHT_MAX", 10_000, "more members than fit into memory"), ("MADE_MAX", 100, "too many folders are missing")],
)
def test_an_archive_of_too_much_is_refused(
    site: Site, tmp_path: Path, limit: str, most: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"statelesskit.archive.gather.{limit}", most)
    path = archive(tmp_path, *((f"folder{number}/{number}", b"", {}) for number in range(30)))
    with pytest.raises((RefusedError, FormatError), match=says):
        import_snapshot(site, "desktop", parse_source(f"tar:{path}"))
    assert list_snapshots(site) == []


def test_findings_come_to_an_end(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statelesskit.archive.gather.FINDINGS_MAX", 5)
    path = archive(tmp_path, *((f"folder{number}/{number}", b"", {}) for number in range(30)))
    _, result = import_snapshot(site, "desktop", parse_source(f"tar:{path}"))
    assert len(result.findings) == 6
    assert "more than 5 findings" in result.findings[-1].finding
