"""A real site with a real, private LDAP server, and four machines of the four modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat

from statelesskit import service
from statelesskit.action import Action
from statelesskit.actions import AddClient, CreateChannel, CreatePrototype, SetSnapshotState, TakeSnapshot
from statelesskit.config import Site
from statelesskit.directory import Channel, open_directory
from statelesskit.runbook.find import runbook_folder
from statelesskit.site import init_site, start_site, stop_site
from tests.conftest import free_port

CHANNEL = "desktop/stable"
MODES = {"hall-01": "diskless", "hall-02": "caching", "kiosk-01": "live", "office-01": "thick"}
MOVED = ("hall-01", "hall-02", "kiosk-01")  # those that follow the channel


@dataclass(frozen=True)
class Small:
    """A site, and the two snapshots in it; the channel points at the first."""

    site: Site
    first: str
    second: str

    def channel(self) -> Channel:
        with open_directory(self.site) as directory:
            return directory.channel(CHANNEL)

    def records(self, of: str) -> list[Path]:
        return sorted(self.site.records.glob(f"*-{of}-*"))


@contextmanager
def small_site(folder: Path) -> Iterator[Small]:
    """Make it below a folder, and stop its server at the end."""
    source = folder / "source"
    for name, text in {"etc/os-release": "ID=small\n", "usr/bin/true": "#!/bin/sh\n", "etc/motd": "first\n"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    site, _ = init_site(folder / "site", name="small", port=free_port())
    start_site(site)
    try:
        yield _filled(site, source)
    finally:
        stop_site(site)


def _filled(site: Site, source: Path) -> Small:
    _do(site, CreatePrototype("desktop", f"dir:{source}"))
    first = _do(site, TakeSnapshot("desktop", "as installed"))
    (site.prototypes / "desktop/tree/etc/motd").write_text("second\n" * 40_000)
    second = _do(site, TakeSnapshot("desktop", "with the new greeting"))
    for snapshot in (first, second):
        for state in ("tested", "released"):
            _do(site, SetSnapshotState(snapshot, state))
    _do(site, CreateChannel(CHANNEL, first))
    for number, (name, mode) in enumerate(MODES.items(), 1):
        channel = "" if mode == "thick" else CHANNEL
        _do(site, AddClient(name, mode, mac=f"52:54:00:12:34:{number:02x}", channel=channel))
    return Small(site, first, second)


def _do(site: Site, action: Action) -> str:
    """Perform it, and return the name of the snapshot it made, if it did."""
    return str(service.perform(site, action, service.AT_ONCE).result.get("snapshot", ""))


def slow_runbook(path: Path) -> Path:
    """Write a runbook whose run takes a minute: a copy, with a cell that sleeps."""
    name = "30-take-snapshot"
    notebook = nbformat.read(runbook_folder() / f"{name}.ipynb", as_version=4)
    sleep = "import time\n\ntime.sleep(0 if book.interactive else 60)"
    slow = nbformat.v4.new_code_cell(sleep, metadata={"tags": ["sk:act"]})
    notebook.cells.insert(-5, slow)
    for cell in notebook.cells:
        cell.source = cell.source.replace(f'"{name}"', repr(str(path)))
    nbformat.write(notebook, path)
    return path
