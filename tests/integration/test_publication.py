"""The publication beside a real directory: what every action makes of the boot scripts, and what a push needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.config import Site
from statelesskit.directory import open_directory
from statelesskit.errors import RefusedError, StatelessError, UsageError
from statelesskit.progress import Progress
from statelesskit.publish import artefacts, making, pointers, scripts
from statelesskit.site import init_site, start_site, stop_site
from statelesskit.snapshot import Snapshot
from tests.conftest import free_port
from tests.fleet import Fleet, perform, small_root

pytestmark = [pytest.mark.slapd, pytest.mark.root]
STABLE = "channel/desktop/stable.ipxe"


def made(site: Site, snapshot: Snapshot, folder: Path, progress: Progress) -> artefacts.Made:
    """Stand in for the image and the initrd, which have tests of their own."""
    for file in ("vmlinuz", "initrd.img", "root.erofs"):
        (folder / file).write_bytes(f"{file} of {snapshot.name}".encode())
    return artefacts.Made("6.1.0", "root.erofs", "erofs", "ab" * 32, 4096, ["boot=statelesskit", "ro"])


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A site that publishes the first of its two snapshots."""
    monkeypatch.setattr(making, "make", made)
    tree = small_root(tmp_path / "tree")
    site, _ = init_site(tmp_path / "site", name="test", port=free_port())
    start_site(site)
    try:
        perform(site, "prototype create", name="desktop", source=f"at:{tree}")
        one = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
        (tree / "etc/motd").write_text("two\n")
        two = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
        perform(site, "channel create", channel="desktop/stable", snapshot=one)
        for number, mode in enumerate(("diskless", "caching", "live"), 1):
            mac = f"52:54:00:00:00:{number:02x}"
            perform(site, "client add", name=f"pc-{mode}", mode=mode, mac=mac, channel="desktop/stable")
        assert perform(site, "publish refresh")["published"] == [one]
        yield Fleet(site, one, two)
    finally:
        stop_site(site)


def files(site: Site) -> dict[str, tuple[str, int]]:
    """Return text and inode of every script: who rewrites one, even with the same text, gives it another inode."""
    boot = site.publish / "boot"
    return {
        str(path.relative_to(boot)): (path.read_text(), path.stat().st_ino)
        for path in boot.rglob("*.ipxe")
    }  # fmt: skip


def by_mac(number: int) -> str:
    return f"by-mac/52-54-00-00-00-{number:02x}.ipxe"


def leads(site: Site, path: str) -> str:
    return scripts.leads_to(files(site)[path][0])


def stale(fleet: Fleet) -> list[str]:
    done = fleet.run("publish", "status", "--json")
    found = json.loads(done.stdout)["stale"]
    assert done.returncode == bool(found)
    return [one["script"] for one in found]


def test_a_push_rewrites_one_file(fleet: Fleet) -> None:
    with pytest.raises(RefusedError, match="is not published") as refused:
        perform(fleet.site, "push apply", channel="desktop/stable", snapshot=fleet.two)
    assert refused.value.hint == f"statelesskit publish refresh {fleet.two}"
    assert fleet.pointed_at() == (fleet.one, 1)
    assert perform(fleet.site, "publish refresh", snapshots=fleet.two)["published"] == [fleet.two]
    image = fleet.site.publish / "snapshots" / fleet.two / "root.erofs"
    image.rename(image.with_name("away"))
    with pytest.raises(RefusedError, match=r"could not boot .*: root.erofs is not what was published"):
        perform(fleet.site, "push apply", channel="desktop/stable", snapshot=fleet.two)
    image.with_name("away").rename(image)
    before = files(fleet.site)
    fleet.push(fleet.two)
    after = files(fleet.site)
    assert [path for path in before if before[path] != after[path]] == [STABLE]
    assert leads(fleet.site, STABLE) == f"snapshots/{fleet.two}"
    perform(fleet.site, "push rollback", channel="desktop/stable")
    assert leads(fleet.site, STABLE) == f"snapshots/{fleet.one}"
    assert stale(fleet) == []
    assert perform(fleet.site, "publish refresh")["changed"] is False


def test_what_changes_clients_changes_their_scripts(fleet: Fleet) -> None:
    site = fleet.site
    assert leads(site, by_mac(1)) == "channel/desktop/stable"
    assert [leads(site, by_mac(n)) for n in (2, 3)] == ["", ""]
    perform(site, "client add", name="new", mode="diskless", mac="52:54:00:00:00:09")
    assert "has no pin and no channel" in files(site)[by_mac(9)][0]
    perform(site, "group create", name="lab", channel="desktop/stable")
    perform(site, "group add", name="lab", clients="new")
    assert leads(site, by_mac(9)) == "channel/desktop/stable"
    perform(site, "client pin", name="new", snapshot=fleet.one)
    assert leads(site, by_mac(9)) == f"snapshots/{fleet.one}"
    perform(site, "client change", name="new", mac="52:54:00:00:00:0a,52:54:00:00:00:0b")
    assert by_mac(9) not in files(site)
    assert [leads(site, by_mac(n)) for n in (10, 11)] == [f"snapshots/{fleet.one}"] * 2
    perform(site, "client unpin", name="new")
    perform(site, "group remove", name="lab", clients="new")
    assert leads(site, by_mac(10)) == ""
    perform(site, "client remove", name="new")
    assert {by_mac(n) for n in (10, 11)} & files(site).keys() == set()
    assert stale(fleet) == []


def test_a_pin_to_what_is_not_published_waits(fleet: Fleet) -> None:
    perform(fleet.site, "client pin", name="pc-diskless", snapshot=fleet.two)
    assert leads(fleet.site, by_mac(1)) == "channel/desktop/stable"  # it goes on with what can be booted
    assert stale(fleet) == [by_mac(1)]
    assert perform(fleet.site, "publish refresh")["published"] == [fleet.two]
    assert leads(fleet.site, by_mac(1)) == f"snapshots/{fleet.two}"


def test_what_cannot_boot_keeps_nothing_else_back(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # its trees have neither shell nor kernel, as is now seen
    perform(fleet.site, "client pin", name="pc-diskless", snapshot=fleet.two)
    result = perform(fleet.site, "publish refresh")
    assert result["published"] == []
    assert "cannot be run there" in result["left"][fleet.two]  # type: ignore[index]
    assert stale(fleet) == [by_mac(1)]
    assert leads(fleet.site, by_mac(1)) == "channel/desktop/stable"
    with pytest.raises(UsageError, match="cannot be run there"):
        perform(fleet.site, "publish refresh", snapshots=fleet.two)


def test_a_revoked_snapshot_is_booted_no_more(fleet: Fleet) -> None:
    perform(fleet.site, "publish refresh", snapshots=fleet.two)
    perform(fleet.site, "client pin", name="pc-diskless", snapshot=fleet.two)
    assert leads(fleet.site, by_mac(1)) == f"snapshots/{fleet.two}"
    perform(fleet.site, "snapshot state", snapshot=fleet.two, state="revoked")
    text, _ = files(fleet.site)[by_mac(1)]
    assert scripts.leads_to(text) == ""
    assert "is revoked" in text
    assert stale(fleet) == []


def test_a_script_that_could_not_be_written_is_told(fleet: Fleet) -> None:
    perform(fleet.site, "publish refresh", snapshots=fleet.two)
    folder = fleet.site.publish / "boot/channel/desktop"
    shutil.move(folder, folder.with_name("away"))
    folder.write_text("in the way")
    with pytest.raises(StatelessError, match=r"push apply was applied, but .*boot scripts.*publish refresh mends it"):
        fleet.push(fleet.two)
    assert fleet.pointed_at() == (fleet.two, 2)
    record = max(fleet.site.records.glob("*-push-apply-*"), key=lambda path: path.stat().st_mtime_ns)
    verified = [json.loads(line) for line in (record / "events.jsonl").read_text().splitlines()]
    (told,) = [event for event in verified if event["event"] == "verified"]
    assert not told["facts"]["ok"]
    assert "NotADirectoryError" in str(told["facts"]["checks"])
    folder.unlink()
    shutil.move(folder.with_name("away"), folder)
    assert stale(fleet) == [STABLE]
    (said,) = [one for one in fleet_doctor(fleet) if one["check"] == "boot scripts"]
    assert (said["state"], said["found"]) == ("wrong", "1 are not as the directory says, 0 wait for a snapshot")
    perform(fleet.site, "publish refresh")
    assert stale(fleet) == []


def fleet_doctor(fleet: Fleet) -> list[dict[str, str]]:
    done = fleet.run("site", "doctor", "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_change_by_somebody_else_is_found(fleet: Fleet) -> None:
    with service.recorded_if_changed(fleet.site, "by hand"), open_directory(fleet.site) as directory:
        directory.ldap.modify(
            directory.layout.client("pc-diskless"), {"macAddress": [("MODIFY_REPLACE", ["52:54:00:00:00:77"])]}
        )
    assert sorted(stale(fleet)) == [by_mac(1), by_mac(0x77)]
    assert perform(fleet.site, "publish refresh")["scripts"] == 2
    assert stale(fleet) == []


def test_a_deleted_snapshot_is_withdrawn(fleet: Fleet) -> None:
    perform(fleet.site, "publish refresh", snapshots=fleet.two)
    assert artefacts.published(fleet.site) == sorted([fleet.one, fleet.two])
    perform(fleet.site, "snapshot delete", snapshot=fleet.two)
    assert artefacts.published(fleet.site) == sorted([fleet.one, fleet.two])
    assert perform(fleet.site, "publish refresh")["withdrawn"] == [fleet.two]
    assert artefacts.published(fleet.site) == [fleet.one]


def test_a_failed_publication_leaves_all_as_it_was(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(site: Site, snapshot: Snapshot, folder: Path, progress: Progress) -> artefacts.Made:
        made(site, snapshot, folder, progress)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(making, "make", full)
    before = files(fleet.site)
    perform(fleet.site, "client pin", name="pc-diskless", snapshot=fleet.two)
    with pytest.raises(StatelessError, match="no space"):
        perform(fleet.site, "publish refresh")
    assert artefacts.published(fleet.site) == [fleet.one]
    assert {path.name for path in (fleet.site.publish / "snapshots").iterdir()} == {fleet.one}
    assert files(fleet.site) == before


def test_a_site_without_a_publication_pushes_as_before(fleet: Fleet) -> None:
    shutil.rmtree(fleet.site.publish)
    fleet.push(fleet.two)
    assert not fleet.site.publish.exists()


def test_anybody_may_read_what_is_published(fleet: Fleet) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat",
         f"{fleet.site.publish}/boot/{STABLE}", f"{fleet.site.publish}/snapshots/{fleet.one}/root.erofs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    top = Path(fleet.site.root)
    reachable = all(path.stat().st_mode & 1 for path in top.parents)
    assert done.returncode == 0 or not reachable, done.stderr


def test_a_plan_says_what_would_be_published(fleet: Fleet) -> None:
    action = ACTIONS["publish refresh"].check({"snapshots": fleet.two})
    plan = service.plan(fleet.site, action)
    assert [row["what"] for row in plan.rows] == [fleet.two]
    assert not pointers.is_published(fleet.site, fleet.two)
