"""The checkpoint in a real directory, where it outlives a log that is cut."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fleet import Fleet

pytestmark = [pytest.mark.slapd, pytest.mark.root]


def test_a_log_put_back_is_found_by_the_directory(fleet: Fleet, tmp_path: Path) -> None:
    records = fleet.site.records
    assert fleet.run("audit", "publish").returncode == 0
    shutil.copytree(records, tmp_path / "past", ignore=shutil.ignore_patterns(".*"))
    for _ in range(2):  # a checkpoint covers the runs that ended before it was published
        (published,) = fleet.json("audit", "publish")
    assert published["records"] > 1
    assert fleet.run("audit", "verify", "--from-directory").returncode == 0
    assert fleet.run("directory", "check").stdout.count("checkpoint") == 0
    shutil.move(records, tmp_path / "present")
    shutil.copytree(tmp_path / "past", records)
    try:
        assert fleet.run("audit", "verify").returncode == 0
        found = fleet.run("audit", "verify", "--from-directory", "--json")
        assert found.returncode == 1
        assert "was cut: it holds" in found.stdout
        refused = fleet.run("audit", "publish")
        assert "the log was cut or replaced" in refused.stderr
    finally:
        shutil.rmtree(records)
        shutil.move(tmp_path / "present", records)
    assert fleet.run("audit", "verify", "--from-directory").returncode == 0
