"""kill -9 of slapd in the middle of whole jobs: what is there is the old or the new, and the record tells which."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.audit.listing import list_records
from statelesskit.audit.verify import verify_record
from statelesskit.config import Site
from statelesskit.directory import open_directory
from statelesskit.errors import StatelessError
from statelesskit.site import init_site, start_site, stop_site
from tests.conftest import free_port
from tests.fleet import perform, small_root
from tests.weather import killed_after

pytestmark = [pytest.mark.slapd, pytest.mark.root]

ROUNDS = 12
SEED = 20261124


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of its own: here the server dies many times."""
    base = tmp_path_factory.mktemp("killed")
    tree = small_root(base / "tree")
    site, _ = init_site(base / "site", name="test", port=free_port())
    site = replace(site, server=replace(site.server, patience_s=1))
    start_site(site)
    try:
        perform(site, "prototype create", name="desktop", source=f"at:{tree}")
        for text in ("one", "two"):
            (tree / "etc/motd").write_text(text)
            perform(site, "snapshot take", prototype="desktop")
        yield site
    finally:
        stop_site(site)


def moments(job: Callable[[], object]) -> list[float]:
    """Return times to kill at, spread over how long the job takes when nothing happens."""
    began = time.monotonic()
    job()
    took = time.monotonic() - began
    chosen = random.Random(SEED)
    return [took * (number + chosen.random()) / ROUNDS for number in range(ROUNDS)]


def made_by(error: StatelessError | None) -> set[bool]:
    """Return whether a job may have made its change, by what the person was told."""
    if error is None or "was applied" in error.message or "was written" in error.message:
        return {True}
    return {True, False} if "may have made it" in error.message else {False}


def check_record(site: Site, error: StatelessError | None) -> str:
    """Hold the last record against what the person was told; return its name."""
    last = list_records(site.records)[-1]
    assert last.state == ("failed" if error else "completed")
    assert verify_record(site.records / last.name, (site.keys / "record.pub").read_text()) == []
    if error:
        assert error.message[:60] in (site.records / last.name / "events.jsonl").read_text()
    return last.name


def test_pushes(site: Site) -> None:
    with open_directory(site) as directory:
        snapshots = [one.name for one in directory.snapshots()]
    perform(site, "channel create", channel="desktop/stable", snapshot=snapshots[0])
    for number in range(3):
        perform(site, "client add", name=f"pc-{number}", mode="diskless", channel="desktop/stable")

    def push() -> None:
        with open_directory(site) as directory:
            to = snapshots[directory.channel("desktop/stable").snapshot == snapshots[0]]
        perform(site, "push apply", channel="desktop/stable", snapshot=to)

    told = []
    for delay_s in moments(push):
        with open_directory(site) as directory:
            before = directory.channel("desktop/stable")
        to = snapshots[before.snapshot == snapshots[0]]
        action = ACTIONS["push apply"].check({"channel": "desktop/stable", "snapshot": to})
        error = killed_after(site, delay_s, lambda action=action: service.perform(site, action, service.AT_ONCE))  # type: ignore[misc]
        record = check_record(site, error)
        told.append(error)
        with open_directory(site) as directory:
            after = directory.channel("desktop/stable")
        made = after != before
        assert made in made_by(error)
        if made:
            assert (after.serial, after.snapshot, after.previous, after.record) == (
                before.serial + 1, to, before.snapshot, record,
            )  # fmt: skip
    assert any(told)
    push()  # and the next one is as good as the first
    check_record(site, None)


def test_adds(site: Site) -> None:
    def add(name: str) -> None:
        perform(site, "client add", name=name, mode="live", mac=f"52:54:00:00:01:{name[-2:]}")

    for number, delay_s in enumerate(moments(lambda: add("add-99"))):
        name = f"add-{number:02}"
        error = killed_after(site, delay_s, lambda name=name: add(name))  # type: ignore[misc]
        check_record(site, error)
        with open_directory(site) as directory:
            found = {client.name: client for client in directory.clients()}
        assert (name in found) in made_by(error)
        if name not in found:
            add(name)  # nothing is in its way
        else:
            assert found[name].macs == (f"52:54:00:00:01:{number:02}",)
