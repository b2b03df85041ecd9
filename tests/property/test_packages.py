"""Whatever bytes a package database holds, reading it ends, and gives packages and findings."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit.errors import FormatError
from statelesskit.inventory import Inventory, take_inventory
from statelesskit.manifest import Change, Manifest, diff
from statelesskit.packages import Package, package_changes
from statelesskit.packages.changes import compare_versions
from statelesskit.packages.rpm import read_header
from statelesskit.risk import risks
from tests.trees import rpm_database, rpm_header, tree

STATUS = b"Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nSource: b (2)\n\n"
APK = b"P:a\nV:1\nA:all\no:b\n\n"
PLACES = (
    "var/lib/dpkg/status",
    "var/lib/dpkg/status.d/x",
    "lib/apk/db/installed",
    "var/lib/rpm/rpmdb.sqlite",
    "etc/os-release",
)


@st.composite
def spoilt(draw: st.DrawFn, good: bytes) -> bytes:
    """Good bytes, cut, with others put in and some changed."""
    content = bytearray(good[: draw(st.integers(0, len(good)))] if draw(st.booleans()) else good)
    for place, piece in draw(st.lists(st.tuples(st.integers(0, len(good)), st.binary(max_size=20)), max_size=5)):
        content[place : place + draw(st.integers(0, 20))] = piece
    return bytes(content)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), spoilt(STATUS * 3 + APK * 3) | st.binary(max_size=300))
def test_text_databases(place: str, content: bytes) -> None:
    found = take_inventory(tree({place: content}))
    assert all(package.plausible for package in found.packages)
    assert Inventory.from_json(found.as_json()) == found


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    header = rpm_header((1000, 6, b"a\0"), (1001, 6, b"1\0"), (1002, 6, b"2\0"))
    return rpm_database(tmp_path_factory.mktemp("rpm") / "db", *[header] * 20)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_rpm_databases(database: bytes, data: st.DataObject) -> None:
    content = data.draw(spoilt(database))
    left = set(Path(tempfile.gettempdir()).glob("statelesskit-*"))
    found = take_inventory(tree({"var/lib/rpm/rpmdb.sqlite": content}))
    assert found.packages or found.findings or content == b""
    assert set(Path(tempfile.gettempdir()).glob("statelesskit-*")) <= left


@settings(max_examples=300, deadline=None)
@given(
    spoilt(rpm_header((1000, 6, b"name\0"), (1001, 6, b"1\0"), (1002, 6, b"2\0"), (1003, 4, b"\0\0\0\1")))
    | st.binary(max_size=200)
)
def test_rpm_headers(header: bytes) -> None:
    with suppress(ValueError):
        assert read_header(header).plausible


VERSIONS = st.from_regex(r"(?:[0-9]{1,2}:)?[0-9][0-9a-z.+~]{0,8}(?:-[0-9a-z.+~]{1,4})?", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["dpkg", "rpm", "apk"]), VERSIONS | st.text(max_size=10), VERSIONS | st.text(max_size=10))
def test_comparing_versions_has_two_sides(manager: str, one: str, other: str) -> None:
    assert compare_versions(manager, one, other) == -compare_versions(manager, other, one)
    assert compare_versions(manager, one, one) == 0


PACKAGES = st.frozensets(
    st.builds(
        lambda name, arch, version: Package("dpkg", name, arch, version, name, version),
        st.sampled_from("abc"),
        st.sampled_from(["all", "amd64"]),
        st.sampled_from(["1", "2", "10", "1:0"]),
    ),
    max_size=8,
)


@given(PACKAGES, PACKAGES)
def test_changes_lead_from_one_set_to_the_other(before: frozenset[Package], after: frozenset[Package]) -> None:
    there = {(one.name, one.arch, one.version) for one in before}
    for change in package_changes(before, after):
        if change.before is not None:
            there.remove((change.package, change.arch, change.before))
        if change.after is not None:
            there.add((change.package, change.arch, change.after))
    assert there == {(one.name, one.arch, one.version) for one in after}


FILES = st.dictionaries(
    st.sampled_from(
        [
            "etc/passwd",
            "etc/group",
            "etc/shadow",
            "etc/sudoers",
            "usr/lib/systemd/system/x.socket",
            "etc/systemd/system/sockets.target.wants/x.socket",
            "boot/vmlinuz-1",
            "bin/su",
        ]
    ),
    st.binary(max_size=40)
    | st.tuples(st.binary(max_size=3), st.builds(lambda mode: {"mode": mode}, st.integers(0, 0o7777)))
    | st.sampled_from(["/dev/null", "../x", "su"])
    | spoilt(b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:\n[Socket]\nListenStream=22\n"),
)


@settings(max_examples=200, deadline=None)
@given(FILES, FILES)
def test_risks_are_of_what_differs(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    one, two = tree(before), tree(after)
    changed: list[Change] = diff(one.manifest, two.manifest)
    found = risks(one, two)
    assert bool(found) <= bool(changed)
    assert [risk.as_json() for risk in found] == [risk.as_json() for risk in risks(one, two)]
    assert risks(one, one) == []


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_a_tree_whose_lines_are_garbage_is_refused(lines: list[bytes]) -> None:
    from statelesskit.contents import Contents
    from tests.trees import Memory

    contents = Contents(Manifest([line + b"\n" for line in lines]), Memory())
    with suppress(FormatError):
        assert contents.find(b"x") is None
