from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.errors import EnvironmentLacksError, LockedError, UsageError
from statelesskit.lock import held
from statelesskit.prototype import Prototype, sandbox
from statelesskit.prototype.create import create
from statelesskit.prototype.sandbox import run_contained, run_in
from statelesskit.prototype.sources.debian import host_targets
from tests.integration.test_prototype_create import describe, processes_with, small_root, wait_until_gone

pytestmark = pytest.mark.root

PROGRAMS = ("cat", "env", "hostname", "id", "ln", "ls", "readlink", "rm", "sh", "sleep", "stat", "touch", "true")


@pytest.fixture
def desktop(site: Site, tmp_path: Path) -> Prototype:
    """A prototype just big enough to run a shell in, made of this host's programs."""
    tree = small_root(tmp_path / "desktop")
    programs = [Path(shutil.which(name) or name).resolve() for name in PROGRAMS]
    linked = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    for library in set(re.findall(r"(/\S+) \(0x", linked)):
        place = tree / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    for name, program in zip(PROGRAMS, programs, strict=True):
        shutil.copy(program, tree / "usr/bin" / name)
    (tree / "etc/resolv.conf").write_text("# the tree's own\n")
    return create(site, "desktop", f"at:{tree}")


def mounts() -> list[str]:
    """Return what is mounted, but by another worker's tests."""
    ours = f"/{os.environ.get('PYTEST_XDIST_WORKER', '')}/"
    return [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if not ("/pytest-of-" in line or "/statelesskit-test-" in line) or ours in line
    ]


def said(prototype: Prototype, site: Site, script: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a shell script in the prototype and return what it printed."""
    assert run_in(prototype, ["sh", "-c", script], site=site) == 0
    return capfd.readouterr().out.strip()


@pytest.mark.parametrize("kind", ["file", "missing", "into /run", "absolute", "dangling", "loop", "folder"])
def test_a_run_leaves_host_and_tree_as_they_were(
    site: Site, desktop: Prototype, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    resolv_conf = desktop.tree / "etc/resolv.conf"
    if kind != "file":
        resolv_conf.unlink()
    match kind:
        case "into /run":
            resolv_conf.symlink_to("../run/systemd/resolve/stub-resolv.conf")
        case "absolute":
            (desktop.tree / "usr/resolv.conf").touch()
            resolv_conf.symlink_to("/usr/resolv.conf")
        case "dangling":
            resolv_conf.symlink_to("/no/where")
        case "loop":
            resolv_conf.symlink_to("resolv.conf")
        case "folder":
            resolv_conf.mkdir()
    before, mounted = describe(desktop.tree), mounts()
    seen = said(desktop, site, "cat /etc/resolv.conf || true", capfd)
    assert describe(desktop.tree) == before
    assert mounts() == mounted
    resolves = kind not in ("dangling", "loop", "folder")
    assert (seen == Path("/etc/resolv.conf").read_text().strip()) == resolves


def test_what_the_command_writes_stays(site: Site, desktop: Prototype) -> None:
    (desktop.tree / "etc/resolv.conf").unlink()
    assert run_in(desktop, ["sh", "-c", "umask; echo new > /etc/motd; touch /run/x /tmp/x /dev/x"], site=site) == 0
    assert (desktop.tree / "etc/motd").read_text() == "new\n"
    assert (desktop.tree / "etc").stat().st_mtime >= (desktop.tree / "etc/motd").stat().st_mtime - 1
    assert [list((desktop.tree / name).iterdir()) for name in ("run", "tmp", "dev")] == [[], [], []]
    assert not (desktop.tree / "etc/resolv.conf").exists()


def test_a_tree_that_is_to_stay_untouched_shows_what_is_written_to_the_command_alone(
    desktop: Prototype, tmp_path: Path
) -> None:
    before, mounted, said = describe(desktop.tree), mounts(), tmp_path / "said"
    script = "cat /etc/given; echo more >> /etc/resolv.conf; rm -r /usr/bin/env; cat /etc/resolv.conf"
    with said.open("wb") as out:
        code = run_contained(
            desktop.tree, ["sh", "-c", script], name="desktop", network=False, untouched=True,
            files={"/etc/given": "given\n"}, stdout=out.fileno(),
        )  # fmt: skip
    assert (code, said.read_text()) == (0, "given\n# the tree's own\nmore\n")
    assert describe(desktop.tree) == before
    assert mounts() == mounted


def test_the_world_inside_is_its_own(
    site: Site, desktop: Prototype, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    monkeypatch.delenv("DEBIAN_FRONTEND", raising=False)
    environment = said(desktop, site, "env", capfd)
    assert "SECRET" not in environment
    assert "STATELESSKIT" not in environment
    for line in ("HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_OFFLINE=1"):
        assert line in environment.splitlines()
    assert said(desktop, site, "hostname", capfd) == "desktop"
    assert (
        said(desktop, site, "ls /proc | while read p; do case $p in [0-9]*) echo $p; esac; done | cat", capfd)[0] == "1"
    )
    assert said(desktop, site, "ls -d /sys/class /proc/self/fd /dev/pts /dev/shm | cat", capfd).count("\n") == 3
    assert said(desktop, site, "cat /dev/null; echo x > /dev/full || echo full", capfd) == "full"
    assert said(desktop, site, "echo 1 > /proc/sys/vm/drop_caches || echo read-only", capfd) == "read-only"
    assert said(desktop, site, f"ls {Path(__file__).parent} || echo gone", capfd) == "gone"
    assert said(desktop, site, "cat /proc/self/mountinfo", capfd).splitlines()[0].split()[4] == "/"


@pytest.mark.parametrize(("script", "code"), [("true", 0), ("exit 7", 7), ("kill -9 $$", 137), ("exit 125", 125)])
def test_the_exit_code_is_the_commands(site: Site, desktop: Prototype, script: str, code: int) -> None:
    assert run_in(desktop, ["sh", "-c", script], site=site) == code


@pytest.mark.parametrize("argv", [[], ["nowhere-to-be-found"], ["/etc/os-release"], ["/etc"]])
def test_a_command_that_is_none_is_named(site: Site, desktop: Prototype, argv: list[str]) -> None:
    before = describe(desktop.tree)
    with pytest.raises(UsageError, match=argv[0] if argv else "no command"):
        run_in(desktop, argv, site=site)
    assert describe(desktop.tree) == before


@pytest.mark.parametrize("name", ["proc", "sys", "dev", "run", "tmp"])
def test_a_tree_cannot_lead_mounts_astray(
    site: Site, desktop: Prototype, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (desktop.tree / name).rmdir()
    with pytest.raises(UsageError, match=f"no folder {name}/"):
        run_in(desktop, ["true"], site=site)
    (desktop.tree / name).symlink_to(outside)
    before, mounted = (describe(outside), describe(desktop.tree)), mounts()
    with pytest.raises(UsageError, match=f"no folder {name}/"):
        run_in(desktop, ["true"], site=site)
    # And without that check: the symlink is followed inside the tree, where it leads nowhere.
    monkeypatch.setattr(sandbox, "_require_mount_points", lambda tree: None)
    with pytest.raises(EnvironmentLacksError, match="mount"):
        run_in(desktop, ["true"], site=site)
    assert ((describe(outside), describe(desktop.tree)), mounts()) == (before, mounted)


def test_without_network_there_is_none(site: Site, desktop: Prototype, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_in(desktop, ["cat", "/proc/net/dev", "/etc/resolv.conf"], site=site, network=False) == 0
    out = capfd.readouterr().out
    assert re.findall(r"^ *(\w+):", out, flags=re.MULTILINE) == ["lo"]
    assert "the tree's own" in out


def test_what_the_command_left_running_ends_with_it(site: Site, desktop: Prototype) -> None:
    assert run_in(desktop, ["sh", "-c", "sleep 98765.1 & true"], site=site) == 0
    wait_until_gone("98765.1")


def test_a_busy_prototype_is_locked(site: Site, desktop: Prototype) -> None:
    busy = held(site.lock_file("prototype/desktop"), what="prototype desktop", doing="snapshot take")
    with busy, pytest.raises(LockedError, match="snapshot take"):
        run_in(desktop, ["true"], site=site)


RUN = """
import sys
from pathlib import Path
from statelesskit.config import load_site
from statelesskit.prototype import load
from statelesskit.prototype.sandbox import run_contained, run_in

site = load_site(Path(sys.argv[1]))
sys.exit(run_in(load(site, "desktop"), sys.argv[2:], site=site))
"""


def started(site: Site, seconds: str) -> subprocess.Popen[bytes]:
    """Start a command that stays, and wait until it runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, site.root, "sh", "-c", f"echo ready; exec sleep {seconds}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_run_that_is_stopped(site: Site, desktop: Prototype, number: signal.Signals) -> None:
    (desktop.tree / "etc/resolv.conf").unlink()
    before, mounted = describe(desktop.tree), mounts()
    with started(site, "98765.2") as process:
        process.send_signal(number)
        assert process.wait(timeout=5) != 0
    wait_until_gone("98765.2")
    assert mounts() == mounted
    if number == signal.SIGINT:
        assert describe(desktop.tree) == before
    # What a killed run had to leave, the next one takes away.
    assert run_in(desktop, ["true"], site=site) == 0
    after = describe(desktop.tree)
    assert after.keys() == before.keys()


def test_a_command_cannot_outlive_its_namespaces_keeper(site: Site, desktop: Prototype) -> None:
    with started(site, "98765.3") as process:
        outer = next(
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if path.read_text().rpartition(")")[2].split()[1] == str(process.pid)
        )
        os.kill(outer, signal.SIGKILL)
        assert process.wait(timeout=5) == 137
    wait_until_gone("98765.3")


def test_ctrl_c_is_the_commands_own_affair_at_a_terminal(site: Site, desktop: Prototype) -> None:
    script = "trap 'echo interrupted; exit 9' INT; echo ready; while true; do sleep 0.1; done"
    leader, follower = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-c", RUN, site.root, "sh", "-c", script],
        stdin=follower,
        stdout=follower,
        stderr=follower,
    ) as process:
        os.close(follower)
        heard = b""
        while b"ready" not in heard:
            heard += os.read(leader, 1000)
        os.write(leader, b"\x03")
        while b"interrupted" not in heard:
            heard += os.read(leader, 1000)
        assert process.wait(timeout=5) == 9
    os.close(leader)
    assert not processes_with(script)


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Prototype]:
    """A Debian of this host's own suite, installed once."""
    root = tmp_path_factory.mktemp("debian")
    for name in FOLDERS:
        (root / name).mkdir()
    (root / "site.toml").write_text(TEMPLATE.format(format=1, name="test", base_dn="ou=stateless", port=1))
    site = load_site(root)
    suites = [target.codename for target in host_targets() if "-" not in target.codename]
    return site, create(site, "desktop", f"debootstrap:{suites[0]}")


@pytest.mark.network
def test_a_bootstrapped_tree_owes_nothing_to_this_host(debian: tuple[Site, Prototype]) -> None:
    site, made = debian
    assert (made.tree / "usr/bin/dpkg").is_file()
    assert (made.tree / "etc/resolv.conf").read_text() == ""
    assert not (made.tree / "etc/hostname").exists()
    assert not (made.tree / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    assert [path.name for path in (made.tree / "etc/apt/sources.list.d").iterdir()] == ["host.sources"]
    for key in re.findall(r"Signed-By: (/\S+)", (made.tree / "etc/apt/sources.list.d/host.sources").read_text()):
        assert (made.tree / key.lstrip("/")).is_file()
    assert not any(str(made.tree.parent) in line for line in mounts())
    assert [path.name for path in site.prototypes.iterdir()] == ["desktop"]


@pytest.mark.network
def test_packages_install_and_start_no_service(
    debian: tuple[Site, Prototype], capfd: pytest.CaptureFixture[str]
) -> None:
    site, made = debian
    before = describe(made.tree)
    assert run_in(made, ["true"], site=site) == 0
    assert describe(made.tree) == before
    assert run_in(made, ["apt-get", "install", "-y", "hello"], site=site) == 0
    assert run_in(made, ["apt-get", "update", "--error-on=any"], site=site) == 0
    capfd.readouterr()
    assert said(made, site, "hello", capfd) == "Hello, world!"
    # With an init in the tree, only what is (not) in /run tells it from a running system.
    service = (
        "mkdir -p /etc/init.d; printf '#!/bin/sh\\ntouch /etc/started' > /etc/init.d/foo; chmod +x /etc/init.d/foo"
    )
    script = f"touch /sbin/init; {service}; update-rc.d foo defaults; invoke-rc.d foo start; rm /sbin/init"
    assert run_in(made, ["sh", "-c", script], site=site) == 0
    assert not (made.tree / "etc/started").exists()
