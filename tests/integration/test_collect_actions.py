"""Deleting and collecting as an admin does it: with a directory that says what is needed, plans, locks and records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.actions.consequences import CLIENTS
from statelesskit.audit.listing import list_records
from statelesskit.config import Site
from statelesskit.directory import open_directory
from statelesskit.directory.session import connect
from statelesskit.errors import ConflictError, DirectoryUnavailableError, LockedError, NotFoundError, RefusedError
from statelesskit.lock import held
from statelesskit.site import init_site, start_site, stop_site
from statelesskit.snapshot import list_snapshots, load
from statelesskit.snapshot.deleted import deletions
from tests.conftest import free_port
from tests.fleet import Fleet, perform, small_root

pytestmark = [pytest.mark.slapd, pytest.mark.root]


@pytest.fixture
def names(tmp_path: Path) -> Iterator[tuple[Fleet, list[str]]]:
    """A running site with six snapshots that differ; the channel went from the first to the second."""
    tree = small_root(tmp_path / "tree")
    site, _ = init_site(tmp_path / "site", name="test", port=free_port())
    start_site(site)
    try:
        perform(site, "prototype create", name="desktop", source=f"at:{tree}")
        found = []
        for number in range(6):
            (tree / "etc/large").write_bytes(bytes([number]) * 100_000)
            found.append(str(perform(site, "snapshot take", prototype="desktop")["snapshot"]))
        perform(site, "channel create", channel="desktop/stable", snapshot=found[0])
        perform(site, "push apply", channel="desktop/stable", snapshot=found[1])
        yield Fleet(site, found[0], found[1]), found
    finally:
        stop_site(site)


def there(site: Site) -> list[str]:
    return [one.name for one in list_snapshots(site)]


def entered(site: Site) -> set[str]:
    with open_directory(site) as directory:
        return {one.name for one in directory.snapshots()}


def report(site: Site, client: str, running: str, seen_at: datetime) -> None:
    """Write what the report door will write for a client."""
    connection = connect(site)
    base = f"cn={client},ou=clients,{site.base_dn}"
    connection.add(
        f"cn=status,{base}",
        ["skClientStatus"],
        {
            "skRunningSnapshotDN": f"cn={running},cn=desktop,ou=prototypes,{site.base_dn}",
            "skLastSeen": f"{seen_at:%Y%m%d%H%M%SZ}",
        },
    )
    connection.unbind()


def test_one_that_is_needed_is_not_deleted_and_it_is_said_who_needs_it(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    perform(fleet.site, "client add", name="pc1", mode="caching", channel="desktop/stable")
    report(fleet.site, "pc1", found[2], datetime.now(UTC))
    for name, who in ((found[0], "can roll back"), (found[1], "points at it"), (found[2], "client pc1 runs it")):
        done = fleet.run("snapshot", "delete", name)
        assert done.returncode == 3
        assert who in done.stderr
    assert there(fleet.site) == found
    tree = fleet.site.root.parent / "exported"
    assert fleet.run("export", "tree", found[3], str(tree)).returncode == 0
    done = fleet.run("snapshot", "delete", found[3])
    assert (done.returncode, str(tree) in done.stderr) == (3, True)


def test_a_tree_that_is_gone_keeps_nothing_and_is_forgotten_with_its_snapshot(names: tuple[Fleet, list[str]]) -> None:
    """While the snapshot is there the note stays: the tree's disk may only be away."""
    fleet, found = names
    tree, away = fleet.site.root.parent / "exported", fleet.site.root.parent / "away"
    assert fleet.run("export", "tree", found[3], str(tree)).returncode == 0
    notes = fleet.site.exports / "registered"
    assert len(list(notes.iterdir())) == 2
    tree.rename(away)
    plan = fleet.run("snapshot", "collect", "--keep", "last=1", "--plan").stdout
    assert f"{tree} is not there, so it does not keep {found[3]}" in plan
    assert fleet.run("snapshot", "delete", found[4]).returncode == 0
    assert len(list(notes.iterdir())) == 2
    away.rename(tree)
    assert fleet.run("snapshot", "delete", found[3]).returncode == 3
    tree.rename(away)
    assert fleet.run("snapshot", "collect", "--keep", "last=1").returncode == 0
    assert found[3] not in there(fleet.site)
    assert list(notes.iterdir()) == []


def test_a_deleted_one_is_gone_everywhere_and_leaves_a_record(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    (told,) = fleet.json("snapshot", "delete", found[4])
    assert told["snapshot"] == found[4]
    assert found[4] not in there(fleet.site)
    assert found[4] not in entered(fleet.site)
    (line,) = deletions(fleet.site)
    assert (line.name, line.sequence, line.record) == (found[4], 5, told["record"])
    assert list_records(fleet.site.records)[-1].name == told["record"]
    assert fleet.run("snapshot", "delete", found[4]).returncode == 2
    assert fleet.run("audit", "verify").returncode == 0
    assert fleet.run("snapshot", "verify").returncode == 0


def test_one_that_only_the_directory_knows_any_more_can_be_deleted(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    (fleet.site.snapshots / found[4]).rename(fleet.site.root / "away")
    perform(fleet.site, "snapshot delete", snapshot=found[4])
    assert found[4] not in entered(fleet.site)
    with pytest.raises(NotFoundError):
        perform(fleet.site, "snapshot delete", snapshot=found[4])


def test_one_that_somebody_uses_is_not_deleted(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    site = fleet.site
    lock = site.lock_file(f"snapshot/{found[4]}")
    with held(lock, what="it", doing="exporting it", shared=True), held(lock, what="it", doing="too", shared=True):
        with pytest.raises(LockedError, match="snapshot"):
            perform(site, "snapshot delete", snapshot=found[4])
        result = perform(site, "snapshot collect", keep="last=1")
        assert list(result["skipped"]) == [found[4]]  # type: ignore[call-overload]
    assert there(site) == [found[0], found[1], found[4], found[5]]


@pytest.mark.parametrize("verb", ["snapshot delete", "snapshot collect"])
def test_none_goes_while_many_clients_are_entered(names: tuple[Fleet, list[str]], verb: str) -> None:
    fleet, found = names
    words = {"snapshot": found[4]} if verb == "snapshot delete" else {"keep": "last=1"}
    with held(fleet.site.lock_file(CLIENTS), what="it", doing="client import"), pytest.raises(LockedError):
        perform(fleet.site, verb, **words)
    with held(fleet.site.lock_file(CLIENTS), what="it", doing="deleting", shared=True):
        perform(fleet.site, verb, **words)
    assert there(fleet.site) != found


def test_collecting_keeps_what_rules_and_fleet_need_and_frees_the_rest(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    site = fleet.site
    perform(site, "client add", name="pc1", mode="caching", channel="desktop/stable")
    perform(site, "client add", name="pc2", mode="caching", channel="desktop/stable")
    report(site, "pc1", found[2], datetime.now(UTC))
    report(site, "pc2", found[3], datetime.now(UTC) - timedelta(days=91))
    plan = fleet.run("snapshot", "collect", "--keep", "last=1", "--plan")
    assert plan.returncode == 0
    assert "Delete 2 of 6 snapshots" in plan.stdout
    assert "pc2 last said long ago" in plan.stdout
    assert there(site) == found  # a plan changes nothing
    (told,) = fleet.json("snapshot", "collect", "--keep", "last=1")
    assert told["deleted"] == [found[3], found[4]]
    assert int(str(told["packs_removed"])) >= 1
    assert there(site) == [found[0], found[1], found[2], found[5]]
    assert entered(site) == {found[0], found[1], found[2], found[5]}
    assert fleet.run("snapshot", "verify").returncode == 0
    assert fleet.run("audit", "verify").returncode == 0
    (again,) = fleet.json("snapshot", "collect", "--keep", "last=1")
    assert (again["changed"], again["deleted"], again["freed_bytes"]) == (False, [], 0)


def test_a_plan_that_was_confirmed_does_just_that(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    rule = {"keep": "last=1"}
    action = ACTIONS["snapshot collect"].check(rule)
    digest = service.plan(fleet.site, action).digest
    perform(fleet.site, "snapshot delete", snapshot=found[4])
    with pytest.raises(ConflictError):
        service.perform(fleet.site, action, digest)
    assert there(fleet.site) == [*found[:4], found[5]]


def test_with_the_directory_away_no_snapshot_goes(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    perform(fleet.site, "snapshot delete", snapshot=found[4])
    stop_site(fleet.site)
    for verb, parameters in (("snapshot collect", {"keep": "last=1"}), ("snapshot delete", {"snapshot": found[3]})):
        with pytest.raises(DirectoryUnavailableError, match="none is deleted"):
            perform(fleet.site, verb, **parameters)
    assert int(str(perform(fleet.site, "snapshot collect", objects_only=True)["packs_removed"])) >= 1
    assert there(fleet.site) == [*found[:4], found[5]]
    assert fleet.run("snapshot", "verify").returncode == 0


@pytest.mark.kernel
def test_the_runbook_collects_on_its_own_within_policy(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    words = ["run", "32-collect-snapshots", "-p", "keep=last=1"]
    path = fleet.site.root / "site.toml"
    text = path.read_text()
    path.write_text(text.replace("auto_max_deleted = 50", "auto_max_deleted = 2"))
    done = fleet.run(*words, "-p", "confirm=auto")
    assert done.returncode == 3, done.stderr
    assert "3 snapshots would be deleted" in done.stderr
    assert there(fleet.site) == found
    path.write_text(text)
    done = fleet.run(*words, "-p", "confirm=auto", "--json")
    assert done.returncode == 0, done.stderr
    assert there(fleet.site) == [found[0], found[1], found[5]]
    assert json.loads(done.stdout)["state"] == "completed"


def test_a_note_may_change_and_nothing_else(names: tuple[Fleet, list[str]]) -> None:
    fleet, found = names
    before = load(fleet.site, found[0])
    assert fleet.json("snapshot", "note", found[0], "the golden one")[0]["to"] == "the golden one"
    after = load(fleet.site, found[0])
    assert (after.note, after.digest, after.parent, after.taken_by) == (
        "the golden one",
        before.digest,
        before.parent,
        before.taken_by,
    )
    for state in ("tested", "revoked"):
        with pytest.raises(RefusedError):
            perform(fleet.site, "snapshot state", snapshot=found[1], state="revoked")
        perform(fleet.site, "snapshot state", snapshot=found[5], state=state)
    with pytest.raises(RefusedError):
        perform(fleet.site, "snapshot state", snapshot=found[5], state="tested")
    assert fleet.run("snapshot", "verify").returncode == 0
