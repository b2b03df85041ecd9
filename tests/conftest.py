"""What this machine can test, said at the top; in CI nothing may be skipped for want of a tool."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from statelesskit import scrub
from statelesskit.config import FOLDERS, TEMPLATE, DirectoryServer, Site, load_site
from statelesskit.run import SYSTEM_PATH

pytest_plugins = ["tests.fleet", "tests.users"]

CI = os.environ.get("CI", "") not in ("", "0", "false")
CAPABILITIES = {
    "slapd": shutil.which("slapd", path=SYSTEM_PATH) is not None,
    "root": os.geteuid() == 0,
    "network": os.geteuid() == 0 and shutil.which("mmdebstrap", path=SYSTEM_PATH) is not None,
    "ssh": shutil.which("dropbear", path=SYSTEM_PATH) is not None,
    "systemd": shutil.which("systemd-analyze", path=SYSTEM_PATH) is not None,
    "kernel": True,
    "boots": os.geteuid() == 0
    and all(
        shutil.which(name, path=SYSTEM_PATH)
        for name in ("qemu-system-x86_64", "nbdkit", "ganesha.nfsd", "veritysetup", "mksquashfs", "xorriso")
    ),
    "browser": shutil.which("chromium", path=SYSTEM_PATH) is not None,
}


def pytest_report_header() -> list[str]:
    able = [name for name, there in CAPABILITIES.items() if there]
    lacking = [name for name, there in CAPABILITIES.items() if not there]
    return [f"can test: {', '.join(able)}", f"cannot test here: {', '.join(lacking) or 'nothing'}"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, there in CAPABILITIES.items():
        if item.get_closest_marker(name) and not there:
            if CI:
                pytest.fail(f"CI must be able to test {name}", pytrace=False)
            pytest.skip(f"this machine cannot test {name}")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("STATELESSKIT_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has one site, and its secrets; this one has many."""
    for name in ("_watched", "_learnt"):
        monkeypatch.setattr(scrub, name, set())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site's configuration and folders, with nothing in them and nothing running."""
    root = tmp_path / "site"
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True, mode=mode)
    (root / "site.toml").write_text(
        TEMPLATE.format(format=1, name="test", base_dn="ou=stateless", port=free_port()), encoding="utf-8"
    )
    # Patience is for people: here nobody brings back a server that a test took away.
    return replace(load_site(root), server=DirectoryServer(patience_s=1))
