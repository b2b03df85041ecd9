"""A copy through a real ssh and a real server on the loopback, with keys and a home of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from statelesskit.audit.keys import create_record_key
from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.snapshot import Snapshot, list_snapshots
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify_all
from tests.conftest import free_port
from tests.torture import add_prototype, statelesskit

pytestmark = [pytest.mark.root, pytest.mark.ssh]
# In a mount namespace of its own root's home is another folder: ssh and the server both ask the password file.
AT_HOME = ["unshare", "--mount", "--", "sh", "-c", 'mount --bind "$1" /etc/passwd; shift; exec "$@"', "sh"]


@dataclass
class Host:
    """The other host, and the home of who copies to it."""

    home: Path
    port: int
    commands: Path

    @property
    def argv(self) -> list[str]:
        return [*AT_HOME, str(self.home / "passwd")]

    def trust(self, key: str) -> None:
        (self.home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}\n")

    def copy(self, site: Site, name: str, to: Path, host: str = "backup") -> subprocess.CompletedProcess[str]:
        argv = [*self.argv, *statelesskit(site, "snapshot", "copy", name, f"ssh:{host}:{to}")]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def public(key: Path) -> str:
    out = subprocess.run(["dropbearkey", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
    return next(line for line in out.splitlines() if line.startswith("ssh-"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path / "home", free_port(), tmp_path / "commands")
    ssh = found.home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    found.home.chmod(0o700)
    (found.home / "passwd").write_text(f"root:x:0:0:root:{found.home}:/bin/sh\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "id_ed25519"], check=True)
    # What is on the path of a shell that is not a person's.
    found.commands.mkdir()
    for name, text in (
        ("statelesskit", f'exec {sys.executable} -m statelesskit "$@"'),
        ("shell", f'PATH="{found.commands}:$PATH" exec sh -c "$SSH_ORIGINAL_COMMAND"'),
    ):
        (found.commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (found.commands / name).chmod(0o755)
    key = (ssh / "id_ed25519.pub").read_text()
    (ssh / "authorized_keys").write_text(f'command="{found.commands}/shell" {key}')
    (ssh / "authorized_keys").chmod(0o600)
    # An admin who has turned the check off: it is made all the same.
    (ssh / "config").write_text(f"Host backup\n HostName 127.0.0.1\n Port {found.port}\n StrictHostKeyChecking no\n")
    own = tmp_path / "host.key"
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", own], capture_output=True, check=True)
    found.trust(public(own))
    words = ["dropbear", "-F", "-E", "-s", "-j", "-k", "-r", str(own), "-p", f"127.0.0.1:{found.port}"]
    with subprocess.Popen([*found.argv, *words, "-P", str(tmp_path / "pid")], stderr=subprocess.DEVNULL) as server:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", found.port)) == 0:
                    break
            time.sleep(0.05)
        yield found
        server.terminate()


@pytest.fixture
def other(tmp_path: Path) -> Site:
    root = tmp_path / "with a blank; and more"
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True, mode=mode)
    (root / "site.toml").write_text(TEMPLATE.format(format=1, name="other", base_dn="ou=other", port=1))
    create_record_key(root / "keys")
    return load_site(root)


@pytest.fixture
def snapshot(site: Site) -> Snapshot:
    top = add_prototype(site)
    top.mkdir()
    (top / "noise").write_bytes(os.urandom(3_000_000))
    (top / "file").write_text("content")
    return take(site, "desktop")[0]


def test_it_arrives_whole(site: Site, other: Site, snapshot: Snapshot, host: Host) -> None:
    done = host.copy(site, snapshot.name, other.root)
    assert done.returncode == 0, done.stderr
    assert [one.digest for one in list_snapshots(other)] == [snapshot.digest]
    assert list(verify_all(other, list_snapshots(other), everything=True)) == []
    again = host.copy(site, snapshot.name, other.root)
    assert again.returncode == 0, again.stderr
    assert "was there     yes" in again.stdout


@pytest.mark.parametrize("known", ["nothing", "another key"])
def test_a_host_that_is_not_known_is_not_talked_to(
    site: Site, other: Site, snapshot: Snapshot, host: Host, tmp_path: Path, known: str
) -> None:
    if known == "nothing":
        (host.home / ".ssh/known_hosts").write_text("")
    else:
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", tmp_path / "evil"], capture_output=True, check=True)
        host.trust(public(tmp_path / "evil"))
    done = host.copy(site, snapshot.name, other.root)
    assert done.returncode == 1
    assert "Host key verification failed" in done.stderr
    assert "`ssh backup true` must work" in done.stderr
    assert list_snapshots(other) == []
    assert "127.0.0.1" not in (host.home / ".ssh/known_hosts").read_text() or known == "another key"


def test_what_is_wrong_there_is_said_here(site: Site, other: Site, snapshot: Snapshot, host: Host) -> None:
    done = host.copy(site, snapshot.name, other.root / "nowhere")
    assert done.returncode == 2
    assert f"ssh:backup:{other.root}/nowhere: there is no site" in done.stderr
    (host.commands / "statelesskit").unlink()
    done = host.copy(site, snapshot.name, other.root)
    assert done.returncode == 1
    assert "`ssh backup statelesskit --version` must work" in done.stderr
    assert list_snapshots(other) == []


@pytest.mark.parametrize(
    "evil", ["-oProxyCommand=touch {mark}", "-F/dev/null", "a@-oProxyCommand=touch", "-a@b", "x;touch {mark}"]
)
def test_a_host_is_never_an_option(site: Site, snapshot: Snapshot, host: Host, tmp_path: Path, evil: str) -> None:
    mark = tmp_path / "mark"
    done = host.copy(site, snapshot.name, Path("/srv"), evil.format(mark=mark))
    assert done.returncode == 2
    assert "names no site on another host" in done.stderr
    assert not mark.exists()
