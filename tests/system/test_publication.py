"""A diskless machine boots what is published, through iPXE and `site serve`; after a push it boots the other one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from statelesskit.clients.discovered import listed
from statelesskit.config import Site, load_site
from statelesskit.site import init_site, start_site, stop_site
from tests.conftest import free_port
from tests.fleet import Fleet, perform
from tests.system.boots import BOOT_S, HOST, Console, say_what_is_seen

pytestmark = [
    pytest.mark.boots, pytest.mark.root, pytest.mark.network, pytest.mark.slapd, pytest.mark.slow,
    pytest.mark.timeout(900),
]  # fmt: skip
PACKAGES = [
    "linux-image-cloud-amd64", "initramfs-tools", "busybox", "systemd-sysv", "udev", "kmod", "libcap2-bin", "zstd",
]  # fmt: skip
MAC, STRANGER = "52:54:00:00:00:01", "52:54:00:00:00:02"


@contextmanager
def served(site: Site, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "statelesskit", "--site", site.root, "site", "serve", "--listen"]
    process = subprocess.Popen([*command, f"127.0.0.1:{port}"])
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0


def boot_by_network(place: Path, port: int, mac: str, until: str = "seen end") -> Console:
    """Have QEMU's own iPXE fetch the first script, and wait until the console says something."""
    said = place / "console"
    said.unlink(missing_ok=True)
    argv = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", "2", "-m", "1536",
        "-display", "none", "-nodefaults", "-machine", "graphics=off", "-no-reboot", "-serial", f"file:{said}",
        "-netdev", f"user,id=n0,bootfile=http://{HOST}:{port}/boot/start.ipxe",
        "-device", f"virtio-net-pci,netdev=n0,bootindex=1,mac={mac}", "-device", "virtio-rng-pci",
    ]  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as machine:
        ends = time.monotonic() + BOOT_S
        while machine.poll() is None and time.monotonic() < ends:
            if said.exists() and until in said.read_text(errors="replace"):
                break
            time.sleep(1)
        machine.kill()
    return Console(said.read_text(errors="replace").replace("\r", ""))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, int]]:
    base, port = tmp_path_factory.mktemp("publication"), free_port()
    made, _ = init_site(base / "site", name="test", port=free_port())
    toml = (made.root / "site.toml").read_text()
    (made.root / "site.toml").write_text(toml.replace('\nurl = ""', f'\nurl = "http://{HOST}:{port}"'))
    site = load_site(made.root)
    start_site(site)
    try:
        suite = subprocess.run(
            ["sh", "-c", '. /etc/os-release && echo "$VERSION_CODENAME"'], check=True, capture_output=True, text=True
        ).stdout.strip()
        perform(site, "prototype create", name="desktop", source=f"debootstrap:{suite}")
        fleet = Fleet(site, "", "")
        done = fleet.run(
            "prototype", "run", "desktop", "--", "apt-get", "-qq", "install", "-y", "--no-install-recommends",
            *PACKAGES, wait_s=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        tree = site.prototypes / "desktop/tree"
        say_what_is_seen(tree)
        one = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
        (tree / "etc/motd").write_text("two\n")
        two = str(perform(site, "snapshot take", prototype="desktop")["snapshot"])
        perform(site, "channel create", channel="desktop/stable", snapshot=one)
        perform(site, "client add", name="kiosk-1", mode="diskless", mac=MAC, channel="desktop/stable")
        yield Fleet(site, one, two), port
    finally:
        stop_site(site)
    shutil.rmtree(base)


def test_a_machine_boots_what_is_published_and_after_a_push_the_other(fleet: tuple[Fleet, int], tmp_path: Path) -> None:
    running, port = fleet
    site = running.site
    assert perform(site, "publish refresh", snapshots=running.two)["published"] == [running.one, running.two]
    done = running.run("publish", "status", "--verify", "--json")
    assert done.returncode == 0, done.stdout
    with served(site, port):
        stop_site(site)  # machines boot with the directory away
        told = json.loads(boot_by_network(tmp_path, port, MAC).seen()["boot.json"])
        assert (told["snapshot"], told["client"]) == (running.one, "kiosk-1")
        start_site(site)
        running.push(running.two)
        stop_site(site)
        told = json.loads(boot_by_network(tmp_path, port, MAC).seen()["boot.json"])
        assert (told["snapshot"], told["client"]) == (running.two, "kiosk-1")
        said = boot_by_network(tmp_path, port, STRANGER, until="It asks again").text
        start_site(site)
    assert f"nobody knows this machine. Its address is {STRANGER}" in said
    assert [one.mac for one in listed(site)] == [STRANGER]
