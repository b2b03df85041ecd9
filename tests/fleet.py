"""A running site with two snapshots, a channel and four clients; made once for each process that tests.

Each test moves the channel itself and says from where.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from statelesskit import service
from statelesskit.actions import ACTIONS
from statelesskit.config import Site
from statelesskit.site import init_site, start_site, stop_site
from tests.conftest import free_port


@dataclass(frozen=True)
class Fleet:
    """A site that runs, with what the tests push from and to."""

    site: Site
    one: str
    two: str

    def run(self, *words: str, wait_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the command line as a person would."""
        return subprocess.run(
            [sys.executable, "-m", "statelesskit", "--site", str(self.site.root), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=wait_s,
        )

    def json(self, *words: str) -> list[dict[str, object]]:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def push(self, snapshot: str) -> None:
        """Move the channel, whatever it points at."""
        perform(self.site, "push apply", channel="desktop/stable", snapshot=snapshot)

    def plan_digest(self, snapshot: str) -> str:
        action = ACTIONS["push apply"].check({"channel": "desktop/stable", "snapshot": snapshot})
        return service.plan(self.site, action).digest

    def pointed_at(self) -> tuple[str | None, int]:
        from statelesskit.directory import open_directory

        with open_directory(self.site) as directory:
            channel = directory.channel("desktop/stable")
        return channel.snapshot, channel.serial


def perform(site: Site, verb: str, **parameters: object) -> dict[str, object]:
    """Perform an action at once."""
    outcome = service.perform(site, ACTIONS[verb].check(parameters), service.AT_ONCE)
    return dict(outcome.result)


def small_root(path: Path) -> Path:
    """Make a tree that is a root tree just so."""
    for folder in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "usr/lib", "var/lib/dpkg"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    (path / "etc/os-release").write_text('ID=debian\nVERSION_CODENAME=test\nPRETTY_NAME="A small root"\n')
    (path / "usr/bin/tool").write_bytes(os.urandom(1000))
    (path / "var/lib/dpkg/status").write_text(
        "Package: base\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n"
    )
    return path


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@contextmanager
def running_fleet(base: Path) -> Iterator[Fleet]:
    """Make one below a folder, and stop its server at the end."""
    tree = small_root(base / "tree")
    site, _ = init_site(base / "site", name="test", port=free_port())
    start_site(site)
    try:
        perform(site, "prototype create", name="desktop", source=f"at:{tree}")
        one = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
        (tree / "etc/motd").write_text("two\n")
        two = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
        perform(site, "channel create", channel="desktop/stable", snapshot=one)
        for number, mode in enumerate(("diskless", "caching", "live")):
            mac = f"52:54:00:00:00:{number:02x}"
            perform(site, "client add", name=f"pc-{mode}", mode=mode, mac=mac, channel="desktop/stable")
        perform(site, "client add", name="pc-thick", mode="thick")
        yield Fleet(site, one, two)
    finally:
        stop_site(site)
