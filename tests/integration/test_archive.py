"""Archives and images: written, read by others' programs, and imported again; bad ones leave nothing."""

# Paths of trees are bytes, which pathlib does not know.

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from statelesskit import fs
from statelesskit.archive.write import global_header
from statelesskit.config import Site
from statelesskit.errors import (
    DamagedError,
    ExistsError,
    FormatError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    StatelessError,
    UsageError,
)
from statelesskit.export.oci import export_oci
from statelesskit.export.tar import export_tar
from statelesskit.manifest import Manifest
from statelesskit.snapshot import Snapshot, list_snapshots, load_manifest
from statelesskit.snapshot.importing import import_snapshot, parse_source
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify
from statelesskit.store import Store
from tests import torture
from tests.torture import add_prototype, scratch, statelesskit
from tests.witness import Facts, look

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


def taken(site: Site, build: Any) -> tuple[Snapshot, Manifest, Path]:
    top = add_prototype(site)
    build(top)
    snapshot, result = take(site, "desktop")
    assert result.findings == []
    return snapshot, load_manifest(site, snapshot), top


def ordinary(top: Path) -> None:
    """All of the torture tree that a program of 4 KiB paths can hold."""
    top.mkdir()
    for part in ("types", "modes_and_owners", "contents", "names", "attributes", "hard_links", "times"):
        getattr(torture, f"_{part}")(top)
    os.setxattr(top / "attributes/file", "user.50%=half%25", b"a name that must be quoted")


def small(top: Path) -> None:
    (top / "bin").mkdir(parents=True)
    (top / "bin/dash").write_bytes(Path("/bin/dash").read_bytes())
    (top / "bin/sh").symlink_to("/bin/dash")
    (top / "etc").mkdir()
    (top / "etc/hostname").write_text("x")
    os.truncate(top / "etc/hostname", 100_000)
    os.link(top / "etc/hostname", top / "etc/name")


def differences(expected: Facts, found: Facts) -> dict[bytes, set[str]]:
    """Return for each path the facts that differ; a path that is missing differs in all."""
    differ = {path: {"extra"} for path in found.keys() - expected.keys()}
    for path, facts in expected.items():
        others = found.get(path, {})
        if keys := {key for key in facts.keys() | others.keys() if facts.get(key) != others.get(key)}:
            differ[path] = keys
    return differ


def nothing_left(site: Site) -> bool:
    """No snapshot, nothing unfinished, and no pack."""
    return [path for folder in (site.snapshots, site.store) for path in folder.rglob("*") if path.is_file()] == []


# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["tar", "tar.zst", "tar.gz", "oci", "oci in a tar"])
def test_all_that_can_be_comes_back_with_the_same_digest(
    site: Site, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, manifest, top = taken(site, torture.build)
    fs.remove_tree(top)  # pytest could not: it is too deep
    out = tmp_path / f"out.{how}"
    if how.startswith("oci"):
        export_oci(snapshot, manifest, Store(site.store), out)
        if how != "oci":
            subprocess.run(["tar", "--create", "--file", f"{out}.tar", "-C", out, "."], check=True)
            out = Path(f"{out}.tar")
        source = f"oci:{out}:{snapshot.name}"
    else:
        export_tar(manifest, Store(site.store), out)
        source = f"tar:{out}"
    shutil.rmtree(site.store)
    site.store.mkdir()
    for text in (source, str(out)):
        again, result = import_snapshot(site, "desktop", parse_source(text))
        assert again.digest == snapshot.digest
        assert result.findings == []
        assert (again.entries, again.files, again.bytes) == (snapshot.entries, snapshot.files, snapshot.bytes)
    assert (again.sequence, again.parent) == (3, list_snapshots(site)[1].name)
    assert list(verify(site, again)) == []


@pytest.mark.parametrize("ending", ["tar", "tar.zst", "tar.gz"])
def test_the_same_snapshot_gives_the_same_bytes(site: Site, tmp_path: Path, ending: str) -> None:
    snapshot, manifest, _ = taken(site, small)
    for name in ("a", "b"):
        export_tar(manifest, Store(site.store), tmp_path / f"{name}.{ending}")
        export_oci(snapshot, manifest, Store(site.store), tmp_path / f"{name} oci")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    one, other = ({p.relative_to(t): p.read_bytes() for p in t.rglob("*") if p.is_file()}
                  for t in (tmp_path / "a oci", tmp_path / "b oci"))  # fmt: skip
    assert one == other


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


def test_skopeo_and_umoci_read_the_image(site: Site, place: Path) -> None:
    snapshot, manifest, top = taken(site, ordinary)
    lost = export_oci(snapshot, manifest, Store(site.store), place / "layout")
    assert {finding.finding for finding in lost} == {
        "other tools fill its holes",
        "it is a socket; other tools make an empty file of it",
        "it has an empty attribute, which tools written in Go leave out",
        "of the attribute user.50%=half%25 only GNU tar reads the name as it is",
    }
    copied = f"oci:{place}/copied:{snapshot.name}"
    subprocess.run(["skopeo", "copy", f"oci:{place}/layout:{snapshot.name}", copied], check=True, capture_output=True)
    shown = json.loads(subprocess.run(["skopeo", "inspect", copied], check=True, capture_output=True).stdout)
    assert shown["Labels"]["statelesskit.digest"] == snapshot.digest
    assert shown["Architecture"] == "unknown"
    image = f"{place}/layout:{snapshot.name}"
    subprocess.run(["umoci", "unpack", "--image", image, place / "bundle"], check=True, capture_output=True)
    found = differences(look(top), look(place / "bundle/rootfs"))
    assert found.pop(b"types/socket")
    assert {path for path, keys in found.items() if keys != {"data"}} == {b"attributes/file", b"attributes/folder"}
    again, _ = import_snapshot(site, "desktop", parse_source(copied))
    assert again.digest == snapshot.digest


def test_an_image_tells_what_it_is_built_for(site: Site, place: Path) -> None:
    snapshot, manifest, _ = taken(site, small)
    export_oci(snapshot, manifest, Store(site.store), place / "layout")
    image = json.loads((place / "layout/index.json").read_bytes())["manifests"][0]
    blobs = place / "layout/blobs/sha256"
    config = json.loads((blobs / image["digest"][7:]).read_bytes())["config"]
    config = json.loads((blobs / config["digest"][7:]).read_bytes())
    machine = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout
    others = {"armhf": "arm", "i386": "386", "ppc64el": "ppc64le"}
    assert config["architecture"] == others.get(machine.strip(), machine.strip())


def test_names_that_would_take_files_away_are_refused(site: Site, tmp_path: Path) -> None:
    def build(top: Path) -> None:
        (top / "etc").mkdir(parents=True)
        (top / "etc/.wh.passwd").touch()

    snapshot, manifest, _ = taken(site, build)
    with pytest.raises(RefusedError, match=r"etc/\.wh\.passwd"):
        export_oci(snapshot, manifest, Store(site.store), tmp_path / "layout")
    export_tar(manifest, Store(site.store), tmp_path / "out.tar")
    assert import_snapshot(site, "desktop", parse_source(f"{tmp_path}/out.tar"))[0].digest == snapshot.digest
    assert not (tmp_path / "layout").exists()


# --- the command line -------------------------------------------------------------------------


def test_the_command_line_exports_and_imports(site: Site, tmp_path: Path) -> None:
    snapshot, _, _ = taken(site, small)

    def run(*words: str | Path) -> dict[str, Any]:
        done = subprocess.run([*statelesskit(site, *words), "--json"], capture_output=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    made = run("export", "tar", snapshot.name, tmp_path / "out.tar.gz")
    assert (made["digest"], made["findings"]) == (snapshot.digest, [])
    assert made["bytes"] == (tmp_path / "out.tar.gz").stat().st_size
    made = run("export", "oci", snapshot.name, tmp_path / "layout")
    assert [one["path"] for one in made["findings"]] == ["etc/hostname"]
    for source in (f"tar:{tmp_path}/out.tar.gz", f"oci:{tmp_path}/layout", f"{tmp_path}/layout:{snapshot.name}"):
        plan = run("snapshot", "import", "elsewhere", source, "--plan")
        result = run("snapshot", "import", "elsewhere", source, "--plan-digest", plan["plan_digest"])
        assert result["digest"] == snapshot.digest
        assert result["new_bytes"] == 0
    # A prototype that has no tree here has snapshots all the same.
    shown = subprocess.run(statelesskit(site, "snapshot", "list", "elsewhere"), capture_output=True, check=True)
    assert shown.stdout.count(b"elsewhere-") == 3
    assert list_snapshots(site, "elsewhere")[0].parent == ""
    again = subprocess.run(statelesskit(site, "export", "tar", snapshot.name, tmp_path / "out.tar.gz"), check=False)
    assert again.returncode == 2


@pytest.mark.parametrize(
    ("target", "error"),
    [("out.zip", UsageError), (".tar", UsageError), ("gone/out.tar", NotFoundError), ("folder.tar", ExistsError)],
)
def test_targets_that_can_not_be(site: Site, tmp_path: Path, target: str, error: type[StatelessError]) -> None:
    _, manifest, _ = taken(site, small)
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(error):
        export_tar(manifest, Store(site.store), tmp_path / target)


@pytest.mark.parametrize(
    "source", ["", "tar:", "oci:", "tar:/", "/nowhere", "tar:/nowhere", "oci:/nowhere:x", "/dev/null"]
)
def test_sources_that_can_not_be(source: str) -> None:
    with pytest.raises(UsageError):
        parse_source(source)


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

Made = tuple[str, bytes | None, dict[str, Any]]


def archive(folder: Path, *members: Made, form: int = tarfile.PAX_FORMAT) -> Path:
    path = folder / "made.tar"
    with tarfile.open(path, "w", format=form) as out:
        for name, content, fields in members:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            if content is not None:
                info.size = len(content)
            out.addfile(info, io.BytesIO(content or b""))
    return path


def pax(**records: str) -> dict[str, Any]:
    return {"pax_headers": {name.replace("__", "."): value for name, value in records.items()}}


LINK, SYMLINK, DIR = {"type": tarfile.LNKTYPE}, {"type": tarfile.SYMTYPE}, {"type": tarfile.DIRTYPE}
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


# --- images -----------------------------------------------------------------------------------


class Layout:
    """An image made by hand."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "blobs/sha256").mkdir(parents=True)
        self.layers: list[dict[str, Any]] = []
        self.diff_ids: list[str] = []

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.top / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, *members: Made) -> dict[str, Any]:
        data = archive(self.top, *members).read_bytes()
        (self.top / "made.tar").unlink()
        self.diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        self.layers.append(self.blob(gzip.compress(data), "application/vnd.docker.image.rootfs.diff.tar.gzip"))
        return self.layers[-1]

    def finish(self, name: str = "x") -> Path:
        rootfs = {"type": "layers", "diff_ids": self.diff_ids}
        config = self.blob(json.dumps({"rootfs": rootfs}).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = {"schemaVersion": 2, "config": config, "layers": self.layers}
        image = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        image["annotations"] = {"org.opencontainers.image.ref.name": name}
        (self.top / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [image]}))
        (self.top / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        return self.top


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def test_layers_lie_over_one_another(site: Site, place: Path, layout: Layout) -> None:
    layout.layer(
        ("./", None, {**DIR, "mode": 0o755}),
        *(
            (f"{name}/", None, {**DIR, "mode": 0o755})
            for name in ("gone", "opaque", "kept", "kept-too", "becomes a file")
        ),
        *((f"{name}/old", b"old", {}) for name in ("gone", "opaque", "kept", "kept-too", "becomes a file")),
        ("file", b"first", {}),
        ("whiteout", b"", {}),
    )
    layout.layer(
        (".wh.gone", b"", {}),
        (".wh.whiteout", b"", {}),
        ("opaque/", None, {**DIR, "mode": 0o700}),
        ("opaque/.wh..wh..opq", b"", {}),
        ("opaque/new", b"new", {}),
        ("becomes a file", b"x", {}),
        ("hard", None, {**LINK, "linkname": "kept/old"}),
        ("file", b"second", {}),
    )
    layout.layer(("kept/", None, {**DIR, "mode": 0o711}), ("gone/", None, {**DIR, "mode": 0o755}))
    snapshot, result = import_snapshot(site, "desktop", parse_source(str(layout.finish())))
    assert result.findings == []
    found = {entry.path: entry for entry in load_manifest(site, snapshot).entries()}
    expected = b",becomes a file,file,gone,hard,kept,kept-too,kept-too/old,kept/old,opaque,opaque/new"
    assert sorted(found) == sorted(expected.split(b","))
    assert found[b"file"].sha256 == hashlib.sha256(b"second").hexdigest()
    assert found[b"kept"].mode == 0o711
    assert found[b"kept/old"].link_to == b"hard"
    # A program that others trust sees the same tree.
    image = f"{layout.top}:x"
    subprocess.run(["umoci", "unpack", "--image", image, place / "bundle"], check=False, capture_output=True)
    if (place / "bundle/rootfs/file").exists():
        assert sorted(look(place / "bundle/rootfs")) == sorted(found)


def altered(layout: Layout, how: str) -> None:
    if how == "a layer altered":
        path = layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]
        data = bytearray(path.read_bytes())
        data[4] ^= 1  # the time in gzip's header: the archive is the same
        path.write_bytes(data)
    elif how == "a layer longer than said":
        path = layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]
        path.write_bytes(path.read_bytes() + b"x")
    elif how == "a layer missing":
        (layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]).unlink()
    elif how == "a layer that is a pipe":
        path = layout.top / "blobs/sha256" / layout.layers[0]["digest"][7:]
        path.unlink()
        os.mkfifo(path)
    elif how == "another image's configuration":
        layout.diff_ids[0] = "sha256:" + "0" * 64
    elif how == "a diff_id too few":
        layout.diff_ids.clear()
    elif how == "a digest that leads out":
        layout.layers[0]["digest"] = "sha256:../../../etc/passwd"
    elif how == "a layer that is encrypted":
        layout.layers[0]["mediaType"] += "+encrypted"
    elif how == "a size that is none":
        layout.layers[0]["size"] = "12"
    elif how == "a size of exabytes":
        layout.layers[0]["size"] = 2**62
    elif how == "a whiteout of nothing":
        layout.layer((".wh.", b"", {}))
    elif how == "a file below another layer's symlink":
        layout.layer(("a", None, {**SYMLINK, "linkname": "/etc"}))
        layout.layer(("a/evil", b"x", {}))
    elif how == "a hard link to what is not there":
        layout.layer(("b", None, {**LINK, "linkname": "c"}))


@pytest.mark.parametrize(
    "how",
    [
        "a layer altered", "a layer longer than said", "a layer missing", "a layer that is a pipe",
        "another image's configuration", "a diff_id too few", "a digest that leads out", "a layer that is encrypted",
        "a size that is none", "a size of exabytes", "a whiteout of nothing", "a file below another layer's symlink",
        "a hard link to what is not there", "a layout of version 2", "an index that is no JSON", "an index of brackets",
    ],
)  # fmt: skip
def test_a_bad_image_is_refused_and_leaves_nothing(site: Site, layout: Layout, how: str) -> None:
    layout.layer(("./", None, {**DIR, "mode": 0o755}), ("file", b"x", {}))
    altered(layout, how)
    layout.finish()
    if how == "a layout of version 2":
        (layout.top / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    elif how == "an index that is no JSON":
        (layout.top / "index.json").write_text("<html>")
    elif how == "an index of brackets":
        (layout.top / "index.json").write_text("[" * 100_000)
    with pytest.raises(DamagedError):
        import_snapshot(site, "desktop", parse_source(f"oci:{layout.top}"))
    assert nothing_left(site)


def test_an_image_must_be_named_when_there_are_several(site: Site, layout: Layout) -> None:
    layout.layer(("./", None, {**DIR, "mode": 0o755}))
    layout.finish("one")
    index = json.loads((layout.top / "index.json").read_text())
    other = {**index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "two"}}
    (layout.top / "index.json").write_text(json.dumps({**index, "manifests": [index["manifests"][0], other]}))
    for source in ("", ":three"):
        with pytest.raises(UsageError, match=r"images[\s\S]*one, two"):
            import_snapshot(site, "desktop", parse_source(f"oci:{layout.top}{source}"))
    assert import_snapshot(site, "desktop", parse_source(f"oci:{layout.top}:two"))[0].entries == 1


# --- killed, and full -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tar", "oci", "import"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_is_stopped_in_the_middle_leaves_nothing_half_made(
    site: Site, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    def build(top: Path) -> None:
        top.mkdir()
        for name in range(40):
            (top / f"noise{name}").write_bytes(os.urandom(2 * 2**20))

    snapshot, manifest, _ = taken(site, build)
    out = tmp_path / "in" / ("out" if kind == "oci" else "out.tar")
    out.parent.mkdir()
    watched, words = out.parent, ["export", kind, snapshot.name, str(out)]
    if kind == "import":
        export_tar(manifest, Store(site.store), out)
        fs.remove_tree(site.store)
        site.store.mkdir()
        watched, words = site.store, ["snapshot", "import", "other", str(out)]
    before = {path.name for path in out.parent.iterdir()}
    argv = statelesskit(site, *words)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if sum(path.stat().st_size for path in watched.rglob("*") if path.is_file()) > 8 * 2**20:
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 143)
    assert b"Traceback" not in err
    assert [one.name for one in list_snapshots(site)] == [snapshot.name]
    if number == signal.SIGINT:
        assert {path.name for path in out.parent.iterdir()} == before
        assert [path.name for path in site.store.rglob("*.pack*")] == [] or kind != "import"
    # What was killed is cleaned up by the next one.
    subprocess.run(argv, check=True, capture_output=True)
    assert {path.name for path in out.parent.iterdir()} == {out.name}
    assert [path.name for path in (*site.store.rglob("*"), *site.snapshots.iterdir()) if fs.PARTIAL in path.name] == []


@pytest.mark.parametrize("kind", ["tar", "oci", "import"])
def test_a_full_disk_is_said_and_nothing_is_left(site: Site, place: Path, kind: str) -> None:
    def build(top: Path) -> None:
        top.mkdir()
        (top / "noise").write_bytes(os.urandom(6 * 2**20))

    snapshot, manifest, _ = taken(site, build)
    export_tar(manifest, Store(site.store), place / "whole.tar")
    full = place / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", full], check=True)
    if kind == "import":
        fs.remove_tree(site.store)
        site.store.symlink_to(full)
    fill = {
        "tar": lambda: export_tar(manifest, Store(site.store), full / "out.tar"),
        "oci": lambda: export_oci(snapshot, manifest, Store(site.store), full / "out"),
        "import": lambda: import_snapshot(site, "desktop", parse_source(f"{place}/whole.tar")),
    }
    with pytest.raises(NoSpaceError):
        fill[kind]()
    assert [path for path in full.rglob("*") if path.is_file()] == []
    assert len(list_snapshots(site)) == 1
