"""Inventories, the bills of materials made from them, and the search over all snapshots."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from statelesskit import find as find_module
from statelesskit import fs
from statelesskit import inventory as module
from statelesskit.config import Site
from statelesskit.errors import DamagedError, NoSpaceError, UsageError
from statelesskit.find import which_hold
from statelesskit.inventory import INVENTORY, Inventory, inventory, take_inventory
from statelesskit.packages import Package
from statelesskit.release import Kernel
from statelesskit.sbom import cyclonedx, package_url
from statelesskit.snapshot import Snapshot, load, manifest_file
from statelesskit.snapshot.manifest_file import MANIFEST
from statelesskit.snapshot.taking import take
from statelesskit.tree import Finding
from tests.torture import add_prototype
from tests.trees import tree

OS_RELEASE = b"""# a comment
ID=debian
VERSION_ID="12"
PRETTY_NAME="Debian 'twelve' \\"x\\""
BROKEN="no end
empty=
"""
STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl
Version: 3.0.{0}-1

Package: base
Status: install ok installed
Architecture: all
Version: 1
"""


@pytest.fixture
def names(site: Site) -> list[str]:
    """Three snapshots, of which the second is equal to the first."""
    top = add_prototype(site)
    for folder in ("etc", "var/lib/dpkg", "boot", "usr/lib/modules/6.1-x"):
        (top / folder).mkdir(parents=True)
    (top / "etc/os-release").symlink_to("../usr/lib/os-release")
    (top / "usr/lib/os-release").write_bytes(OS_RELEASE)
    (top / "boot/vmlinuz-6.1-x").write_bytes(b"k")
    (top / "etc/a\n\udc80").write_bytes(b"strange name")
    status = top / "var/lib/dpkg/status"
    status.write_text(STATUS.format(1))
    os.utime(top / "var/lib/dpkg/status", (1, 1))
    found = [take(site, "desktop")[0].name for _ in range(2)]
    status.write_text(STATUS.format(2))
    return [*found, take(site, "desktop")[0].name]


class TestInventory:
    def test_says_what_is_there(self, site: Site, names: list[str]) -> None:
        found = inventory(site, load(site, names[0]))
        assert found.os_release == {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian 'twelve' \"x\""}
        assert found.kernels == (Kernel("6.1-x", b"boot/vmlinuz-6.1-x"),)
        assert [(one.name, one.version, one.source) for one in found.packages] == [
            ("base", "1", "base"),
            ("libssl3", "3.0.1-1", "openssl"),
        ]
        assert found.findings == ()
        assert Inventory.from_json(json.loads(json.dumps(found.as_json()))) == found

    def test_is_read_once(self, site: Site, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        one = load(site, names[0])
        found = inventory(site, one)
        monkeypatch.delattr(module, "take_inventory")
        assert inventory(site, one) == found

    @pytest.mark.parametrize("damage", ["cut", "flip", "swap", "garbage", "deep", "list", "older", "folder"])
    def test_heals_itself(self, site: Site, names: list[str], damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
        one, other = load(site, names[0]), load(site, names[2])
        kept, found = site.snapshots / one.name / INVENTORY, inventory(site, one)
        inventory(site, other)
        whole = kept.read_bytes()
        match damage:
            case "cut":
                kept.write_bytes(whole[:-20])
            case "flip":
                kept.write_bytes(whole.replace(b"3.0.1-1", b"3.0.2-1"))
            case "swap":
                shutil.copy(site.snapshots / other.name / INVENTORY, kept)
            case "garbage":
                kept.write_bytes(b"\0\xff")
            case "deep":
                kept.write_bytes(b"[" * 100_000)
            case "list":
                kept.write_bytes(b"[]")
            case "older":
                monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
            case "folder":
                kept.unlink()
                kept.mkdir()
        assert inventory(site, one) == found
        if damage == "folder":
            return
        healed = kept.read_bytes()
        assert (healed == whole) is (damage != "older")
        monkeypatch.delattr(module, "take_inventory")
        assert inventory(site, one) == found

    def test_answers_where_it_cannot_be_kept(
        self, site: Site, names: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, data: bytes) -> None:
            raise NoSpaceError("full")

        monkeypatch.setattr(fs, "write_file", full)
        assert len(inventory(site, load(site, names[0])).packages) == 2

    def test_a_damaged_object_is_no_empty_inventory(self, site: Site, names: list[str]) -> None:
        for pack in (site.store / "packs").iterdir():
            pack.unlink()
        with pytest.raises(DamagedError):
            inventory(site, load(site, names[0]))
        assert not (site.snapshots / names[0] / INVENTORY).exists()

    def test_of_an_empty_tree(self) -> None:
        assert take_inventory(tree({})) == Inventory({}, (), (), ())

    def test_a_hostile_release_is_a_finding(self) -> None:
        found = take_inventory(tree({"etc/os-release": b"x" * 2_000_000}))
        assert [finding.path for finding in found.findings] == [b"etc/os-release"]


SNAPSHOT = Snapshot(
    name="desktop-20261123T073000Z",
    prototype="desktop",
    sequence=1,
    taken_at=datetime(2026, 11, 23, 7, 30, tzinfo=UTC),
    taken_by="t",
    parent="",
    digest="sha256:" + "0" * 64,
    entries=1,
    files=0,
    bytes=0,
)
HELD = Inventory(
    os_release={"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian 12"},
    kernels=(Kernel("6.1\udc80", b"boot/vmlinuz-6.1\x80"),),
    packages=(
        Package("dpkg", "libstdc++6", "amd64", "1:12.2~rc-1", "gcc-12", "12.2-1"),
        Package("rpm", "dbus", "x86_64", "1:1.12-8", "dbus", "1.12-8"),
        Package("apk", "musl", "x86_64", "1.2-r0", "musl", "1.2-r0"),
        Package("dpkg", "\x1b[31m/?#@", "", "\0 ü", "x", "y"),
    ),
    findings=(Finding(b"var/lib/rpm/Packages", "not readable"),),
)


class TestBillOfMaterials:
    def test_is_valid_and_says_all(self) -> None:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        text = cyclonedx(SNAPSHOT, HELD)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        bom: dict[str, Any] = json.loads(text)
        assert bom["metadata"]["timestamp"] == "2026-11-23T07:30:00+00:00"
        assert bom["metadata"]["component"]["version"] == SNAPSHOT.digest
        assert bom["metadata"]["properties"] == [{"name": "statelesskit:finding", "value": "not readable"}]
        by_name = {component["name"]: component for component in bom["components"]}
        assert by_name.keys() == {"libstdc++6", "dbus", "musl", "\x1b[31m/?#@", "kernel"}
        assert by_name["dbus"]["purl"] == "pkg:rpm/debian/dbus@1.12-8?arch=x86_64&distro=debian-12&epoch=1"
        assert {"name": "statelesskit:source", "value": "gcc-12"} in by_name["libstdc++6"]["properties"]

    def test_is_the_same_every_time(self) -> None:
        text = cyclonedx(SNAPSHOT, HELD)
        assert cyclonedx(SNAPSHOT, replace(HELD, packages=HELD.packages[::-1])) == text
        assert cyclonedx(replace(SNAPSHOT, digest="sha256:" + "1" * 64), HELD) != text

    def test_of_nothing_is_valid(self) -> None:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        text = cyclonedx(SNAPSHOT, Inventory({"ID": "Not A Word"}, (), (), ()))
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None

    def test_urls_of_systems_that_do_not_say_what_they_are(self) -> None:
        musl = HELD.packages[2]
        assert package_url(musl, {"ID": "../x"}).to_string() == "pkg:apk/alpine/musl@1.2-r0?arch=x86_64"


class TestFind:
    def test_a_path(self, site: Site, names: list[str]) -> None:
        held = list(which_hold(site, path=b"var/lib/dpkg/status"))
        assert [one.snapshot.name for one in held] == names
        digests = [one.as_json()["sha256"] for one in held]
        assert digests[0] == digests[1] != digests[2]
        assert [one.as_json()["path"] for one in which_hold(site, path=b"/etc/a\n\x80")] == ["etc/a\n\udc80"] * 3
        assert list(which_hold(site, path=b"var/lib/dpkg/statu")) == []
        assert list(which_hold(site, path=b"dpkg/status")) == []
        assert [one.as_json()["type"] for one in which_hold(site, path=b"etc")] == ["dir"] * 3

    def test_a_content(self, site: Site, names: list[str]) -> None:
        (digest,) = {str(one.as_json()["sha256"]) for one in which_hold(site, path=b"var/lib/dpkg/status")} - {
            str(one.as_json()["sha256"]) for one in list(which_hold(site, path=b"var/lib/dpkg/status"))[:1]
        }
        for asked in (digest, digest.upper(), f"sha256:{digest}"):
            assert [one.snapshot.name for one in which_hold(site, sha256=asked)] == names[2:]
        assert list(which_hold(site, sha256=digest[:-1])) == []

    @pytest.mark.parametrize(
        ("asked", "count"),
        [("libssl3", 3), ("openssl", 3), ("libssl3=3.0.1-1", 2), ("openssl=3.0.2-1", 1), ("libssl", 0), ("base=2", 0)],
    )
    def test_a_package(self, site: Site, names: list[str], asked: str, count: int) -> None:
        held = list(which_hold(site, package=asked))
        assert len(held) == count
        assert all(one.as_json()["name"] == "libssl3" for one in held)

    def test_equal_snapshots_are_searched_once(
        self, site: Site, names: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        searched: list[str] = []
        real = find_module._lines_with
        monkeypatch.setattr(
            find_module, "_lines_with", lambda site, one, mark: (searched.append(one.name), real(site, one, mark))[1]
        )
        assert len(list(which_hold(site, path=b"etc"))) == 3
        assert searched == [names[0], names[2]]

    @pytest.mark.parametrize("piece", [1, 7, 64, 1000])
    def test_lines_over_the_edges_of_pieces(
        self, site: Site, names: list[str], piece: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manifest_file, "PIECE", piece)
        assert len(list(which_hold(site, path=b"var/lib/dpkg/status"))) == 3
        assert len(list(which_hold(site, path=b"boot/vmlinuz-6.1-x"))) == 3

    @pytest.mark.parametrize("damage", ["cut", "flip", "gone", "other"])
    def test_a_damaged_manifest_is_not_passed_over(self, site: Site, names: list[str], damage: str) -> None:
        path = site.snapshots / names[2] / MANIFEST
        content = bytearray(path.read_bytes())
        path.unlink()
        if damage == "cut":
            path.write_bytes(content[:-5])
        elif damage == "flip":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        elif damage == "other":
            shutil.copy(site.snapshots / names[0] / MANIFEST, path)
        with pytest.raises(DamagedError, match="manifest"):
            list(which_hold(site, path=b"etc"))

    def test_one_question_at_a_time(self, site: Site) -> None:
        for asked in ({}, {"path": b"x", "package": "y"}):
            with pytest.raises(UsageError):
                list(which_hold(site, **asked))  # type: ignore[arg-type]
        assert list(which_hold(site, path=b"x")) == []
