"""Packages read from the databases of dpkg, apk and rpm in a tree's own objects."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import pytest

from statelesskit.manifest import Entry
from statelesskit.packages import Package, package_changes, read_installed
from statelesskit.packages import dpkg as dpkg_reader
from statelesskit.packages import rpm as rpm_reader
from statelesskit.packages.changes import compare_versions
from statelesskit.packages.rpm import read_header
from tests.trees import Made, rpm_database, rpm_header, tree

STATUS = """Package: base-files
Status: install ok installed
Architecture: amd64
Version: 12.4
Description: with a line\u2028Status: install ok installed\u2028Version: 0 in it
 Version: 9 is no field here
Conffiles:
 /etc/issue 0123

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: half
Status: install ok half-installed
Architecture: amd64
Version: 1

Package: libc6
status: hold ok installed
Architecture: i386
Source: glibc (2.36-9)
Version: 2.36-9+b1

Package: libssl3
Status: install ok triggers-awaited
Architecture: amd64
Source: openssl
Version: 3.0.1-1
"""
APK = """C:Q1abc=
P:musl
V:1.2.5-r0
A:x86_64
o:musl
F:lib
R:ld-musl-x86_64.so.1

P:libssl3
V:3.3.0-r2
A:x86_64
o:openssl

P:.build-deps
V:20240101.000000
A:noarch

"""
BASH = rpm_header(
    (63, 7, bytes(16)),
    (1000, 6, b"bash\0"),
    (1001, 6, b"5.1.8\0"),
    (1002, 6, b"6.el9\0"),
    (1004, 9, b"The shell\0"),
    (1022, 6, b"x86_64\0"),
    (1044, 6, b"bash-5.1.8-6.el9.src.rpm\0"),
)
DBUS = rpm_header((1000, 6, b"dbus\0"), (1001, 6, b"1.12\0"), (1002, 6, b"8\0"), (1003, 4, struct.pack(">I", 1)))
KEY = rpm_header((1000, 6, b"gpg-pubkey\0"), (1001, 6, b"fd431d51\0"), (1002, 6, b"4ae0493b\0"))


def listed(files: dict[str, Made]) -> tuple[list[str], list[str]]:
    found = read_installed(tree(files))
    shown = [f"{one.name}:{one.arch} {one.version} {one.source} {one.source_version}" for one in found.packages]
    return shown, [finding.finding for finding in found.findings]


class TestDpkg:
    def test_reads_what_is_installed(self) -> None:
        packages, findings = listed({"var/lib/dpkg/status": STATUS.encode()})
        assert packages == [
            "base-files:amd64 12.4 base-files 12.4",
            "half:amd64 1 half 1",
            "libc6:i386 2.36-9+b1 glibc 2.36-9",
            "libssl3:amd64 3.0.1-1 openssl 3.0.1-1",
        ]
        assert findings == ["dpkg did not finish with half (half-installed)"]

    def test_reads_images_with_a_file_for_each_package(self) -> None:
        control = b"Package: tzdata\nArchitecture: all\nVersion: 2024a-1\n"
        packages, findings = listed(
            {"var/lib/dpkg/status.d/tzdata": control, "var/lib/dpkg/status.d/tzdata.md5sums": b"0123  usr/x\n"}
        )
        assert packages == ["tzdata:all 2024a-1 tzdata 2024a-1"]
        assert findings == []

    def test_follows_links_to_the_status(self) -> None:
        linked = {"a": STATUS.encode(), "var/lib/dpkg/status": Entry(b"", "link", link_to=b"a")}
        assert len(listed(linked)[0]) == 4
        assert len(listed({"a": STATUS.encode(), "var/lib/dpkg/status": "../../../a"})[0]) == 4

    @pytest.mark.parametrize(
        ("content", "finding"),
        [
            (b"\0\xff\xfe" * 1000, "1 paragraphs describe no package"),
            (b"Package: x\nStatus: install ok installed\n", "1 paragraphs describe no package"),
            (b"Package: x\nVersion: 1\n", "1 paragraphs describe no package"),
            (b"Package: x\nStatus: install ok installed\nVersion: " + b"1" * 2000, "1 paragraphs describe no package"),
            (b"x\n\ny\n\n\n\nz", "3 paragraphs describe no package"),
        ],
    )
    def test_garbage_is_a_finding(self, content: bytes, finding: str) -> None:
        assert listed({"var/lib/dpkg/status": content}) == ([], [finding])

    def test_a_cut_off_status_gives_what_was_before(self) -> None:
        packages, findings = listed({"var/lib/dpkg/status": STATUS.encode()[:-60]})
        assert len(packages) == 3
        assert len(findings) == 2

    def test_too_large_is_a_finding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dpkg_reader, "DATABASE_MAX", 10)
        packages, (finding,) = listed({"var/lib/dpkg/status": STATUS.encode(), "lib/apk/db/installed": APK.encode()})
        assert finding.startswith("dpkg: var/lib/dpkg/status is longer than 10 bytes")
        assert len(packages) == 3

    def test_nothing_there_is_no_finding(self) -> None:
        assert listed({}) == ([], [])
        assert listed({"var/lib/dpkg/status/x": b""}) == ([], [])


@pytest.mark.parametrize("place", ["lib/apk/db/installed", "usr/lib/apk/db/installed"])
def test_apk(place: str) -> None:
    packages, findings = listed({place: APK.encode()})
    assert packages == [
        ".build-deps:noarch 20240101.000000 .build-deps 20240101.000000",
        "libssl3:x86_64 3.3.0-r2 openssl 3.3.0-r2",
        "musl:x86_64 1.2.5-r0 musl 1.2.5-r0",
    ]
    assert findings == []
    merged: dict[str, Made] = {place: APK.encode(), **({"lib": "usr/lib"} if place.startswith("usr") else {})}
    assert listed(merged) == (packages, findings)
    assert listed({place: b"P:x\n\n\xff\0"}) == ([], ["2 paragraphs describe no package"])


class TestRpm:
    def test_reads_headers(self, tmp_path: Path) -> None:
        database = rpm_database(tmp_path / "db", BASH, DBUS, KEY)
        expected = ["bash:x86_64 5.1.8-6.el9 bash 5.1.8-6.el9", "dbus: 1:1.12-8 dbus 1:1.12-8"]
        for files in (
            {"var/lib/rpm/rpmdb.sqlite": database},
            {"usr/lib/sysimage/rpm/rpmdb.sqlite": database, "var/lib/rpm": "../../usr/lib/sysimage/rpm"},
        ):
            assert listed(files) == (expected, [])

    def test_reads_what_is_still_in_the_log(self, tmp_path: Path) -> None:
        rpm_database(tmp_path / "db", BASH)
        database = sqlite3.connect(tmp_path / "db")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("INSERT INTO Packages (blob) VALUES (?)", (DBUS,))
        database.commit()
        names = {"rpmdb.sqlite": "db", "rpmdb.sqlite-wal": "db-wal", "rpmdb.sqlite-shm": "db-shm"}
        files: dict[str, Made] = {f"var/lib/rpm/{name}": (tmp_path / real).read_bytes() for name, real in names.items()}
        database.close()
        assert len(listed(files)[0]) == 2

    @pytest.mark.parametrize(("name", "kind"), [("Packages", "Berkeley DB"), ("Packages.db", "ndb")])
    def test_the_older_forms_are_named(self, name: str, kind: str) -> None:
        packages, (finding,) = listed({f"var/lib/rpm/{name}": b"\0\0\0"})
        assert packages == []
        assert (
            finding == f"this rpm database has the {kind} format, which is not readable here; its packages are missing"
        )

    @pytest.mark.parametrize("content", [b"", b"garbage", b"SQLite format 3\0" + b"\xff" * 5000])
    def test_garbage_is_a_finding(self, content: bytes) -> None:
        packages, (finding,) = listed({"var/lib/rpm/rpmdb.sqlite": content})
        assert packages == []
        assert finding.startswith("this rpm database cannot be read to its end: ")

    def test_a_cut_off_database_is_a_finding(self, tmp_path: Path) -> None:
        database = rpm_database(tmp_path / "db", *[BASH + bytes(3000)] * 50)
        for size in (100, 5000, len(database) // 2, len(database) - 10_000):
            assert listed({"var/lib/rpm/rpmdb.sqlite": database[:size]})[1]

    @pytest.mark.parametrize(
        "schema",
        [
            "CREATE VIEW Packages AS WITH RECURSIVE n(b) AS (SELECT 1 UNION ALL SELECT b+1 FROM n) SELECT b FROM n",
            "CREATE VIRTUAL TABLE Packages USING fts5(blob)",
            "CREATE TABLE Other (blob)",
        ],
    )
    def test_nothing_in_it_is_executed(self, tmp_path: Path, schema: str) -> None:
        database = sqlite3.connect(tmp_path / "db")
        database.execute(schema)
        database.commit()
        database.close()
        packages, (finding,) = listed({"var/lib/rpm/rpmdb.sqlite": (tmp_path / "db").read_bytes()})
        assert packages == []
        assert finding.endswith("there is no table Packages in it")

    def test_it_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rpm_reader, "STEPS_MAX", 1)
        database = rpm_database(tmp_path / "db", *[BASH] * 2000)
        assert listed({"var/lib/rpm/rpmdb.sqlite": database})[1] == [
            "this rpm database cannot be read to its end: interrupted"
        ]

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"\0" * 8,
            b"\xff" * 100,
            BASH[:-30],
            rpm_header((1000, 6, b"bash\0")),
            rpm_header((1000, 6, b"\0"), (1001, 6, b"1\0"), (1002, 6, b"1\0")),
            rpm_header((1001, 6, b"1\0"), (1002, 6, b"1\0"), (1000, 6, b"no end")),
        ],
    )
    def test_a_header_of_nonsense(self, tmp_path: Path, header: bytes) -> None:
        with pytest.raises(ValueError):
            read_header(header)
        database = rpm_database(tmp_path / "db", header, "text", 7, BASH)
        packages, findings = listed({"var/lib/rpm/rpmdb.sqlite": database})
        assert packages == ["bash:x86_64 5.1.8-6.el9 bash 5.1.8-6.el9"]
        assert findings == ["3 rows describe no package"]


def package(name: str, version: str, manager: str = "dpkg", arch: str = "amd64") -> Package:
    return Package(manager, name, arch, version, name, version)


def test_changes_say_the_direction() -> None:
    before = [package("a", "1.0"), package("b", "1:1"), package("c", "1"), package("e", "2~rc1"), package("same", "1")]
    after = [package("a", "1.0+x"), package("b", "9"), package("d", "1"), package("e", "2"), package("same", "1")]
    assert [(one.package, one.change, one.before, one.after) for one in package_changes(before, after)] == [
        ("a", "upgraded", "1.0", "1.0+x"),
        ("b", "downgraded", "1:1", "9"),
        ("c", "removed", "1", None),
        ("d", "added", None, "1"),
        ("e", "upgraded", "2~rc1", "2"),
    ]


def test_what_is_there_in_several_versions_is_added_and_removed() -> None:
    before = [package("kernel", "5-1", "rpm"), package("kernel", "5-2", "rpm")]
    after = [package("kernel", "5-2", "rpm"), package("kernel", "5-10", "rpm")]
    rows = [(one.change, one.before, one.after) for one in package_changes(before, after)]
    assert rows == [("removed", "5-1", None), ("added", None, "5-10")]
    assert [one.change for one in package_changes([package("x", "1")], [package("x", "1", arch="i386")])] == [
        "removed",
        "added",
    ]


@pytest.mark.parametrize(
    ("manager", "less", "more"),
    [
        ("dpkg", "1.0~rc1-1", "1.0-1"),
        ("dpkg", "1.9", "1.10"),
        ("dpkg", "9:1", "10:0"),
        ("rpm", "5.1-9.el9", "5.1-10.el9"),
        ("rpm", "1.0~rc1-1", "1.0-1"),
        ("rpm", "2-1", "1:1-1"),
        ("apk", "1.2.3_rc1-r0", "1.2.3-r0"),
        ("apk", "1.9-r9", "1.10-r0"),
    ],
)
def test_versions_are_ordered_as_their_manager_orders_them(manager: str, less: str, more: str) -> None:
    assert (compare_versions(manager, less, more), compare_versions(manager, more, less)) == (-1, 1)


def test_what_is_no_version_is_only_different() -> None:
    (change,) = package_changes([package("x", "\x1b[31m")], [package("x", "no version at all!")])
    assert change.change == "changed"
