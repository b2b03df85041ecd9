"""Becoming a snapshot: no name is given twice, and what was collected meanwhile is stored anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from statelesskit import take as take_module
from statelesskit.config import Site
from statelesskit.repack import remove_packs
from statelesskit.snapshot import list_snapshots, load, taking
from statelesskit.snapshot.deleted import DELETED, Deletion, deletions, note_deletion
from statelesskit.snapshot.publish import CollectedError
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify
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


def test_a_torn_line_of_the_deleted_hides_no_other(site: Site, desktop: Path) -> None:
    found, _ = take(site, "desktop")
    for number in range(2):
        note_deletion(site, found, deleted_at=f"{number}", deleted_by="root", record="")
        with (site.snapshots / DELETED).open("ab") as file:
            file.write(b'{"name":"desk')
    assert [one.deleted_at for one in deletions(site)] == ["0", "1"]
    assert load(site, found.name) == found
