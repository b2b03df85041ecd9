"""Locks between processes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from statelesskit.lock import held


def test_a_lock_can_be_held_by_those_only_who_may_write_there(tmp_path: Path) -> None:
    with held(tmp_path / "x.lock", what="x", doing="trying"):
        assert stat.S_IMODE((tmp_path / "x.lock").stat().st_mode) == 0o600


def test_a_full_disk_keeps_nobody_from_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    done = False
    with held(tmp_path / "x.lock", what="x", doing="trying"):
        done = True
    assert done
