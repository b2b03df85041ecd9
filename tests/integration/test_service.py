"""What the service tells when something goes wrong around an action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.audit.listing import list_records
from statelesskit.audit.records import Record
from statelesskit.directory import Directory, open_directory
from statelesskit.errors import DamagedError, EnvironmentLacksError, NoSpaceError
from statelesskit.register import register
from statelesskit.site import init_site
from tests.fleet import Fleet

pytestmark = [pytest.mark.slapd, pytest.mark.root]


@pytest.mark.parametrize("ended", [False, True])
def test_a_disk_that_fills_after_the_change_hides_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    fleet.push(fleet.one)
    written = Record.event

    def full_after(self: Record, kind: str, /, **facts: Any) -> None:
        if kind == "applied":
            raise NoSpaceError("full", hint="nothing half-made was left")
        written(self, kind, **facts)

    def full(self: Record, *_: object, **__: object) -> None:
        raise NoSpaceError("full", hint="nothing half-made was left")

    monkeypatch.setattr(Record, "event", full_after)
    if not ended:
        monkeypatch.setattr(Record, "end", full)
    push = ACTIONS["push apply"].check({"channel": "desktop/stable", "snapshot": fleet.two})
    with pytest.raises(NoSpaceError, match="push apply was applied") as raised:
        service.perform(fleet.site, push, service.AT_ONCE)
    assert "nothing half-made" not in str(raised.value)
    assert fleet.pointed_at()[0] == fleet.two
    last = list_records(fleet.site.records)[-1]
    assert last.state == ("failed" if ended else "running")
    monkeypatch.undo()
    if not ended:  # others verify all records of this site
        Record.join(fleet.site.records / last.name).end("lost", 1, key=fleet.site.keys / "record.key")


def test_without_the_record_key_nothing_is_changed(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push(fleet.one)
    before = fleet.pointed_at()
    key = fleet.site.keys / "record.key"
    key.rename(tmp_path / "record.key")
    try:
        push = ACTIONS["push apply"].check({"channel": "desktop/stable", "snapshot": fleet.two})
        with pytest.raises(EnvironmentLacksError, match="no record key"):
            service.perform(fleet.site, push, service.AT_ONCE)
        with pytest.raises(DamagedError, match="is gone"):  # a new one would disown all records there are
            init_site(fleet.site.root)
        assert not key.exists()
    finally:
        (tmp_path / "record.key").rename(key)
    assert fleet.pointed_at() == before
    last = list_records(fleet.site.records)[-1]
    assert last.state == "failed"
    Record.join(fleet.site.records / last.name).seal(key)


def test_what_another_has_just_registered_is_no_error(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_directory(fleet.site) as directory:
        register(fleet.site, directory)
        # What we saw before the other came.
        monkeypatch.setattr(Directory, "prototypes", lambda self: [])
        monkeypatch.setattr(Directory, "snapshots", lambda self: [])
        assert register(fleet.site, directory) == []
