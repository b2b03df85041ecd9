"""Questions about snapshots on the command line, against what the systems' own tools say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from statelesskit.config import Site
from statelesskit.contents import Contents
from statelesskit.manifest import HEADER, Manifest
from statelesskit.packages import read_installed
from statelesskit.packages.changes import compare_versions
from statelesskit.snapshot.taking import take
from statelesskit.store import Store
from statelesskit.take import take_tree
from tests.torture import add_prototype, statelesskit

pytestmark = pytest.mark.root
SPEC = """Name: tiny{number}
Version: 1.{number}
Release: 3
{epoch}
Summary: nothing
License: none
BuildArch: noarch
%description
nothing
%files
"""


def ask(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(statelesskit(site, *words), capture_output=True, text=True, check=False, timeout=120)


def rows(site: Site, *words: str) -> list[dict[str, Any]]:
    done = ask(site, *words, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def contents_of(top: Path, store: Store) -> Contents:
    lines: list[bytes] = []
    take_tree(top, store, lines.append)
    return Contents(Manifest.parse(HEADER + b"".join(lines)), store)


def status(**versions: str) -> str:
    return "".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n\n"
        for name, version in versions.items()
    )


@pytest.fixture
def pair(site: Site) -> tuple[str, str, Path]:
    """Two snapshots with something of everything between them, and the tree, which has changed since."""
    top = add_prototype(site)
    for folder in ("etc", "usr/bin", "var/lib/dpkg"):
        (top / folder).mkdir(parents=True)
    (top / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="A root"\n')
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (top / "etc/motd").write_text("hello\n")
    (top / "usr/bin/su").write_text("su")
    (top / "var/lib/dpkg/status").write_text(status(a="1.0", b="2.0", c="1"))
    one = take(site, "desktop")[0].name
    (top / "usr/bin/su").chmod(0o4755)
    (top / "etc/motd").write_text("hello\x1b[2J\n")
    (top / "var/lib/dpkg/status").write_text(status(a="1.1", b="2.0~rc1", d="1"))
    two = take(site, "desktop")[0].name
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\neve:x:0:0::/:/bin/sh\n")
    (top / "etc/new\n\udc80").write_text("new")
    (top / "var/lib/dpkg/status").write_text(status(a="1.2", d="1"))
    return one, two, top


class TestDiff:
    def test_by_file(self, site: Site, pair: tuple[str, str, Path]) -> None:
        found = rows(site, "snapshot", "diff", *pair[:2])
        assert {"path": "usr/bin/su", "change": "changed", "fields": ["mode"]} in found
        assert all(row.keys() == {"path", "change", "fields"} for row in found)
        assert rows(site, "snapshot", "diff", pair[0], pair[0]) == []
        assert "they do not differ" in ask(site, "snapshot", "diff", pair[0], pair[0]).stdout

    def test_by_package(self, site: Site, pair: tuple[str, str, Path]) -> None:
        found = rows(site, "snapshot", "diff", *pair[:2], "--packages")
        assert [(row["package"], row["change"]) for row in found] == [
            ("a", "upgraded"),
            ("b", "downgraded"),
            ("c", "removed"),
            ("d", "added"),
        ]
        assert "upgraded" in ask(site, "snapshot", "diff", *pair[:2], "--packages").stdout

    def test_by_risk(self, site: Site, pair: tuple[str, str, Path]) -> None:
        found = rows(site, "snapshot", "diff", *pair[:2], "--risk")
        assert [(row["severity"], row["path"]) for row in found] == [("high", "usr/bin/su"), ("low", "etc/motd")]
        assert "nothing to look at" in ask(site, "snapshot", "diff", pair[0], pair[0], "--risk").stdout

    def test_text(self, site: Site, pair: tuple[str, str, Path]) -> None:
        done = ask(site, "snapshot", "diff", *pair[:2], "--text", "/etc/motd")
        assert done.stdout.splitlines()[-2:] == ["-hello", "+hello\\x1b[2J"]
        (found,) = rows(site, "snapshot", "diff", *pair[:2], "--text", "etc/motd")
        assert found["diff"][-1] == "+hello\\x1b[2J"
        assert ask(site, "snapshot", "diff", *pair[:2], "--text", "etc/gone").returncode == 2
        assert ask(site, "snapshot", "diff", *pair[:2], "--text", "etc").returncode == 3

    def test_of_a_prototype(self, site: Site, pair: tuple[str, str, Path]) -> None:
        expected = {"etc": ["mtime_ns"], "etc/new\n\udc80": [], "etc/passwd": ["mtime_ns", "sha256", "size"]}
        for words in (["snapshot", "diff", pair[1], "--prototype", "desktop"], ["prototype", "changes", "desktop"]):
            found = {row["path"]: row["fields"] for row in rows(site, *words)}
            assert found == {**expected, "var/lib/dpkg/status": ["mtime_ns", "sha256", "size"]}
            risk = rows(site, *words, "--risk")[0]
            assert (risk["severity"], risk["reason"]) == ("high", "eve is another root: its uid is 0")
            assert [row["change"] for row in rows(site, *words, "--packages")] == ["upgraded", "removed"]
            assert "+eve:x:0:0::/:/bin/sh" in ask(site, *words, "--text", "etc/passwd").stdout
        assert len(rows(site, "prototype", "changes", "desktop", "--since", pair[0], "--reread")) == 6
        assert sum(1 for _ in site.snapshots.iterdir()) == 2

    def test_bad_questions(self, site: Site, pair: tuple[str, str, Path]) -> None:
        for words in (
            ["snapshot", "diff", pair[0]],
            ["snapshot", "diff", pair[0], pair[1], "--prototype", "desktop"],
            ["snapshot", "diff", pair[0], pair[1], "--packages", "--risk"],
            ["snapshot", "diff", pair[0], "desktop-20200101T000000Z"],
            ["snapshot", "diff", pair[0], "--prototype", "gone"],
            ["prototype", "changes", "gone"],
            ["snapshot", "find"],
            ["snapshot", "find", "--path", "x", "--package", "y"],
            ["snapshot", "inventory", "../x"],
        ):
            done = ask(site, *words)
            assert done.returncode == 2, (words, done.stderr)
            assert "Traceback" not in done.stderr

    def test_a_prototype_without_snapshots(self, site: Site) -> None:
        add_prototype(site).mkdir()
        done = ask(site, "prototype", "changes", "desktop")
        assert done.returncode == 2
        assert "snapshot take desktop" in done.stderr


def test_inventory_and_bill_of_materials(site: Site, pair: tuple[str, str, Path], tmp_path: Path) -> None:
    (found,) = rows(site, "snapshot", "inventory", pair[0])
    assert found["os_release"]["PRETTY_NAME"] == "A root"
    assert [package["version"] for package in found["packages"]] == ["1.0", "2.0", "1"]
    shown = ask(site, "snapshot", "inventory", pair[0]).stdout
    assert "A root" in shown
    printed = ask(site, "snapshot", "sbom", pair[0])
    assert json.loads(printed.stdout)["components"][0]["purl"] == "pkg:deb/debian/a@1.0?arch=all&distro=debian-12"
    assert ask(site, "snapshot", "sbom", pair[0], "--output", str(tmp_path / "bom.json")).returncode == 0
    assert (tmp_path / "bom.json").read_text() == printed.stdout
    assert ask(site, "snapshot", "verify").returncode == 0


def test_find(site: Site, pair: tuple[str, str, Path]) -> None:
    assert [row["snapshot"] for row in rows(site, "snapshot", "find", "--path", "/usr/bin/su")] == list(pair[:2])
    assert [row["snapshot"] for row in rows(site, "snapshot", "find", "--package", "c=1")] == [pair[0]]
    digest = rows(site, "snapshot", "find", "--path", "etc/motd")[1]["sha256"]
    assert [row["snapshot"] for row in rows(site, "snapshot", "find", "--sha256", digest)] == [pair[1]]
    assert "no snapshot holds it" in ask(site, "snapshot", "find", "--path", "etc/gone").stdout


@pytest.mark.parametrize("noun", ["snapshot", "prototype"])
def test_help_loads_no_library(noun: str) -> None:
    script = (
        "import sys\nfrom statelesskit.cli import cli\ntry:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    for verb in [[], ["diff"] if noun == "snapshot" else ["changes"]]:
        argv = [sys.executable, "-c", script, noun, *verb, "--help"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        loaded = set(done.stdout.rpartition("LOADED")[2].split())
        assert not loaded & {"cyclonedx", "numpy", "packageurl", "pandas", "rich", "sqlite3", "univers"}


def test_dpkg_says_the_same(tmp_path: Path) -> None:
    """This host's own database, as dpkg-query reads it."""
    top = tmp_path / "tree"
    (top / "var/lib/dpkg/updates").mkdir(parents=True)
    shutil.copy("/var/lib/dpkg/status", top / "var/lib/dpkg/status")
    form = "${db:Status-Status} ${Package} ${Architecture} ${Version} ${source:Package} ${source:Version}\n"
    said = subprocess.run(
        ["dpkg-query", "--admindir", top / "var/lib/dpkg", "-W", "-f", form],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = {line.partition(" ")[2] for line in said if line.startswith("installed ")}
    found = read_installed(contents_of(top, Store(tmp_path / "store")))
    assert found.findings == ()
    assert {
        f"{one.name} {one.arch} {one.version} {one.source} {one.source_version}" for one in found.packages
    } == expected
    assert len(expected) > 50


PAIRS = [
    ("1.0", "1.0-0"), ("1.0~~", "1.0~"), ("1.0+b1", "1.0"), ("1:0", "2"), ("0:1", "1"), ("1.2.3-1", "1.2.3-1ubuntu1"),
    ("1.0a", "1.0+"), ("09", "9"), ("1-1-1", "1-1-2"), ("2.36-9+deb12u9", "2.36-9+deb12u10"), ("1.0~rc1", "1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_dpkg_orders_the_same(one: str, other: str) -> None:
    said = {
        relation: subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0
        for relation in ("lt", "eq", "gt")
    }
    assert {"lt": -1, "eq": 0, "gt": 1}[next(name for name, true in said.items() if true)] == compare_versions(
        "dpkg", one, other
    )


@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="needs Debian's rpm")
class TestRpm:
    def test_rpm_says_the_same(self, tmp_path: Path) -> None:
        """Packages that rpmbuild built and rpm installed."""
        clean = os.environ | {"LC_ALL": "C"}
        quiet: dict[str, Any] = {"check": True, "capture_output": True, "text": True, "env": clean}
        for number, epoch in ((1, ""), (2, "Epoch: 7")):
            spec = tmp_path / f"{number}.spec"
            spec.write_text(SPEC.format(number=number, epoch=epoch))
            folders = ["--define", f"_topdir {tmp_path}/build", "--define", f"_rpmdir {tmp_path}/rpms"]
            subprocess.run(["rpmbuild", "-bb", *folders, spec], **quiet)
        top = tmp_path / "tree"
        top.mkdir()
        rpm = ["rpm", "--root", top, "--dbpath", "/var/lib/rpm"]
        subprocess.run([*rpm, "--initdb"], **quiet)
        built = sorted(map(str, (tmp_path / "rpms").rglob("*.rpm")))
        subprocess.run([*rpm, "--install", "--nodeps", "--force-debian", *built], **quiet)
        form = "%{NAME} %{ARCH} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE} %{SOURCERPM}\\n"
        said = subprocess.run([*rpm, "-qa", "--qf", form], **quiet).stdout.splitlines()
        found = read_installed(contents_of(top, Store(tmp_path / "store")))
        assert found.findings == ()
        assert sorted(said) == [
            f"{one.name} {one.arch} {one.version} {one.source}-{one.source_version}.src.rpm" for one in found.packages
        ]
        assert [one.version for one in found.packages] == ["1.1-3", "7:1.2-3"]

    def test_rpm_orders_the_same(self) -> None:
        pairs = [(one.replace("-", "."), other.replace("-", ".")) for one, other in PAIRS]
        pairs += [("1.0^git1", "1.0"), ("1.0^", "1.0.1"), ("1..2", "1.2"), ("a", "1"), ("5.el9", "5.el10")]
        pairs = [pair for pair in pairs if ":" not in "".join(pair)]
        asked = "".join(f"print(rpm.vercmp('{one}', '{other}'), ' ')" for one, other in pairs)
        said = subprocess.run(["rpm", "--eval", f"%{{lua:{asked}}}"], capture_output=True, text=True, check=True)
        assert [compare_versions("rpm", *pair) for pair in pairs] == list(map(int, said.stdout.split()))
