"""Snapshots as DataFrames: nothing is rounded, nothing that is absent is invented."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from statelesskit import frames
from statelesskit.config import Site
from statelesskit.manifest import TIME_MAX, TIME_MIN, Entry
from statelesskit.snapshot import load, load_manifest
from statelesskit.snapshot.taking import take
from tests.torture import add_prototype

ODD = 1_700_000_000_123_456_789  # no float holds it
STATUS = "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: {}\n"


@pytest.fixture
def names(site: Site) -> list[str]:
    top = add_prototype(site)
    (top / "var/lib/dpkg").mkdir(parents=True)
    (top / "var/lib/dpkg/status").write_text(STATUS.format(1))
    for name in ("changed", "gone", "linked", "same\udc80"):
        (top / name).write_text(name[:3])
        os.utime(top / name, ns=(ODD, ODD))
    os.link(top / "linked", top / "zlink")
    (top / "symlink").symlink_to("x")
    os.setxattr(top / "changed", "user.x", b"\0\xff")
    one, _ = take(site, "desktop")
    (top / "gone").unlink()
    (top / "new").write_text("new")
    os.utime(top / "changed", ns=(ODD + 1, ODD + 1))
    (top / "var/lib/dpkg/status").write_text(STATUS.format(2))
    two, _ = take(site, "desktop")
    return [one.name, two.name]


def test_entries_say_what_the_manifest_says(site: Site, names: list[str]) -> None:
    frame = frames.entries(site, names[0])
    manifest = load_manifest(site, load(site, names[0]))
    assert list(frame["path"]) == [entry.path.decode("utf-8", "surrogateescape") for entry in manifest.entries()]
    by_path = frame.set_index("path")
    assert by_path.loc["changed", "mtime_ns"] == ODD
    assert by_path.loc["changed", "xattrs"] == {"user.x": b"\0\xff"}
    assert by_path.loc["same\udc80", "size"] == 3
    assert by_path.loc["zlink", "link_to"] == "linked"
    assert pd.isna(by_path.loc["zlink", "mtime_ns"])
    assert pd.isna(by_path.loc["symlink", "size"])
    assert by_path.loc["symlink", "target"] == "x"
    # What a manifest leaves out because it is the usual is not absent.
    assert by_path.loc["changed", "uid"] == os.getuid()


def test_integers_stay_integers() -> None:
    entries = [
        Entry(b"a", "file", sha256="0" * 64, size=2**63 - 1, mtime_ns=TIME_MAX, uid=2**32 - 2),
        None,
        Entry(b"b", "link", link_to=b"a"),
        Entry(b"c", "fifo", mtime_ns=TIME_MIN),
    ]
    for frame in (frames._entry_frame(entries), frames._entry_frame([]), frames._entry_frame([None])):
        assert {str(frame[name].dtype) for name in ("mode", "uid", "gid", "mtime_ns", "size", "major")} == {"Int64"}
    frame = frames._entry_frame(entries)
    assert [frame["mtime_ns"][0], frame["mtime_ns"][3], frame["size"][0]] == [TIME_MAX, TIME_MIN, 2**63 - 1]
    assert frame["mtime_ns"].isna().tolist() == [False, True, True, False]


def test_diff_has_every_field_before_and_after(site: Site, names: list[str]) -> None:
    frame = frames.diff(site, *names).set_index("path")
    assert dict(frame["change"].astype(object))["gone"] == "removed"
    assert frame.loc["changed", "fields"] == ["mtime_ns"]
    assert frame.loc["changed", "mtime_ns_after"] - frame.loc["changed", "mtime_ns_before"] == 1
    assert frame.loc["gone", "mtime_ns_before"] == ODD
    assert pd.isna(frame.loc["gone", "mtime_ns_after"])
    assert pd.isna(frame.loc["new", "size_before"])
    assert str(frame["mtime_ns_before"].dtype) == str(frame["mtime_ns_after"].dtype) == "Int64"
    nothing = frames.diff(site, names[0], names[0])
    assert len(nothing) == 0
    assert list(nothing.columns) == ["path", *frame.columns]


def test_packages_of_all_or_some(site: Site, names: list[str]) -> None:
    frame = frames.packages(site)
    assert list(frame["version"]) == ["1", "2"]
    assert list(frame["snapshot"]) == names
    assert list(frames.packages(site, [names[1]])["version"]) == ["2"]
    assert frames.packages(site, []).columns.tolist() == frame.columns.tolist()


def test_snapshots(site: Site, names: list[str]) -> None:
    frame = frames.snapshots(site)
    assert list(frame["name"]) == names
    assert str(frame["bytes"].dtype) == "int64"
    assert frame["taken_at"].dt.tz is not None


def test_an_empty_site_has_frames_too(site: Site) -> None:
    assert frames.snapshots(site).dtypes["sequence"] == "int64"
    assert len(frames.packages(site)) == len(frames.which_hold(site, path="x")) == 0


def test_which_hold(site: Site, names: list[str]) -> None:
    assert list(frames.which_hold(site, path="gone")["snapshot"]) == names[:1]
    assert list(frames.which_hold(site, package="a=2")["snapshot"]) == names[1:]
    assert list(frames.which_hold(site, path="same\udc80")["path"]) == ["same\udc80"] * 2
    held = frames.which_hold(site, path="symlink")
    assert held["size"].isna().all()
    assert str(held["size"].dtype) == "Int64"


def test_frames_can_be_shown(site: Site, names: list[str]) -> None:
    for frame in (frames.entries(site, names[0]), frames.diff(site, *names), frames.packages(site)):
        assert "<table" in frame.to_html()
        assert repr(frame)
