"""Becoming a snapshot: no name is given twice, and what was collected meanwhile is stored anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from statelesskit import take as take_module
from statelesskit.config import Site
from statelesskit.errors import RefusedError
from statelesskit.repack import remove_packs
from statelesskit.snapshot import list_snapshots, load, taking
from statelesskit.snapshot.deleted import DELETED, Deletion, deletions, faults, note_deletion
from statelesskit.snapshot.publish import CollectedError
from statelesskit.snapshot.receiving import is_here
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify, verify_all
from statelesskit.store import Store, Writer
from tests.torture import add_prototype

pytestmark = pytest.mark.root


@pytest.fixture
def desktop(site: Site) -> Path:
    top = add_prototype(site)
    top.mkdir()
    for number in range(40):
        (top / f"{number}").write_text(f"{number}" * 50)
    return top


def collect_at_the_end(site: Site, monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Remove every pack just before a take is to become a snapshot, so many times."""
    real, done = Writer.finish, []

    def finish(self: Writer) -> None:
        real(self)
        if len(done) < times:
            done.append(1)
            remove_packs(Store(site.store), [site.store / "packs" / name for name in Store(site.store).pack_names()])

    monkeypatch.setattr(take_module.Writer, "finish", finish)
    return done


@pytest.mark.parametrize("remembered", [False, True], ids=["its own packs", "those it remembered"])
def test_what_is_collected_while_a_take_goes_on_is_stored_anew(
    site: Site, desktop: Path, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if remembered:
        take(site, "desktop")
    done = collect_at_the_end(site, monkeypatch, 1)
    found, result = take(site, "desktop")
    assert done
    assert result.new_bytes > 0
    assert list(verify(site, found)) == []


def test_packs_that_are_collected_again_and_again_end_in_an_error(
    site: Site, desktop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect_at_the_end(site, monkeypatch, taking.TRIES)
    with pytest.raises(CollectedError, match="40 objects"):
        take(site, "desktop")
    assert list_snapshots(site) == []
    assert take(site, "desktop")[0].sequence == 1


def test_a_place_in_the_order_is_never_given_twice(site: Site, desktop: Path) -> None:
    first, second = take(site, "desktop")[0], take(site, "desktop")[0]
    note_deletion(site, second, deleted_at="2026-11-24T08:00:00+00:00", deleted_by="root", record="r")
    (site.snapshots / second.name).rename(site.root / "away")
    third, _ = take(site, "desktop")
    assert (third.sequence, third.parent) == (3, first.name)
    assert third.name != second.name
    assert deletions(site) == [
        Deletion(second.name, "desktop", 2, second.digest, "2026-11-24T08:00:00+00:00", "root", "r")
    ]


@pytest.fixture
def listed(site: Site, desktop: Path) -> list[Deletion]:
    """Three snapshots that were deleted, the middle one of another prototype; and the list is as it should be."""
    found, _ = take(site, "desktop")
    for number, name in enumerate(("desktop-20260101T000000Z", "kiosk-20260101T000000Z", "desktop-20260102T000000Z")):
        gone = replace(found, name=name, prototype=name.partition("-")[0], sequence=7 + number)
        note_deletion(site, gone, deleted_at=f"{number}", deleted_by="root", record="r")
    assert wrong(site) == []
    return deletions(site)


def wrong(site: Site) -> list[str]:
    return [finding.finding for _, finding in verify_all(site, list_snapshots(site), everything=True)]


def test_a_damaged_line_is_found_and_what_is_legible_of_it_counts(site: Site, listed: list[Deletion]) -> None:
    path = site.snapshots / DELETED
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"?" + lines[1][1:] + lines[2])
    assert deletions(site) == [listed[0], replace(listed[1], deleted_at="", deleted_by="", record=""), listed[2]]
    assert ["line 2 cannot be read" in finding for finding in wrong(site)] == [True]
    assert ["cannot be read" in finding for finding in map(str, verify_all(site, list_snapshots(site)))] == []
    note_deletion(site, load(site, list_snapshots(site)[0].name), deleted_at="3", deleted_by="x", record="")
    assert path.read_bytes().splitlines(keepends=True)[:3] == [lines[0], b"?" + lines[1][1:], lines[2]]


def test_every_byte_of_the_list_of_the_deleted_is_watched(site: Site, listed: list[Deletion]) -> None:
    """Whichever is altered, it is found; no other line is lost by it, and no place in the order is given again."""
    path = site.snapshots / DELETED
    whole = path.read_bytes()
    middle = range(whole.index(b"\n") - 1, whole.rindex(b"\n", 0, -1) + 3)
    for place in middle:
        for bits in (0x01, 0x20, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            found = deletions(site)
            assert faults(site), place
            assert {listed[0].name, listed[2].name} <= {one.name for one in found}, place
            assert max(one.sequence for one in found if one.prototype == "desktop") >= 9, place
    path.write_bytes(whole[:-1])
    assert faults(site) == []
    assert deletions(site) == listed


def test_a_name_whose_deletion_is_half_legible_is_not_taken_for_another(site: Site, listed: list[Deletion]) -> None:
    path = site.snapshots / DELETED
    path.write_bytes(path.read_bytes().replace(b'"digest":"sha256:', b'"digest":"sha257:').replace(b"{", b"["))
    with pytest.raises(RefusedError, match="its digest is not known any more"):
        is_here(site, listed[0].name, listed[0].digest)
