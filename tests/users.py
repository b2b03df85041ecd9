"""Run something as an ordinary user, and a site's service for them."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from statelesskit.config import Site, load_site
from tests.fleet import Fleet, running_fleet

USER, OTHER = "nobody", "games"  # both are on every Debian; only the first is in the rules
ROOT = Path(__file__).parents[1]
RULES = f"""
[service]
enabled = true
[[service.allow]]
users = ["{USER}"]
verbs = ["push *", "snapshot take"]
objects = ["channel/desktop/*", "prototype/desktop"]
"""


def as_user(user: str, home: Path, *argv: str | Path) -> list[str]:
    """Return the command that runs another as a user, who can read this Python wherever it lies.

    In a mount namespace of its own a folder that is root's alone shows nothing but what is needed of it.
    """
    script = ["set -e", "mount -t tmpfs none /mnt"]
    needed = [path for path in {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT} if _closed(path)]
    for number, path in enumerate(needed):
        script += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(path))} /mnt/{number}"]
    script += [f"mount -t tmpfs -o mode=755 none {shlex.quote(str(top))}" for top in {_closed(path) for path in needed}]
    for number, path in enumerate(needed):
        quoted = shlex.quote(str(path))
        script += [f"mkdir -p {quoted}", f"mount --bind /mnt/{number} {quoted}"]
    account = pwd.getpwnam(user)
    words = ["setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--init-groups"]
    script.append(f"cd {shlex.quote(str(home))}; exec {shlex.join([*words, *map(str, argv)])}")
    return ["unshare", "-m", "sh", "-c", "\n".join(script)]


def _closed(path: Path) -> Path | None:
    """Return the topmost folder above a path that others can't pass."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)


@dataclass
class Served:
    """A fleet whose site has a service that runs.

    Attributes:
        home: a folder of :data:`USER`.
    """

    fleet: Fleet
    site: Site
    home: Path
    process: subprocess.Popen[bytes]

    def start(self) -> None:
        self.process = _service(self.site)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.home), "STATELESSKIT_SITE": str(self.site.root)}

    def popen(self, *words: str | Path, user: str = USER) -> subprocess.Popen[str]:
        """Start Python with these words as a user."""
        argv = as_user(user, self.home, sys.executable, "-P", *words)
        return subprocess.Popen(argv, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def python(self, *words: str | Path, user: str = USER) -> subprocess.CompletedProcess[str]:
        with self.popen(*words, user=user) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def run(self, *words: str, user: str = USER) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user."""
        return self.python("-m", "statelesskit", *words, user=user)


def _service(site: Site) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "statelesskit.service.server", "--site", str(site.root)], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith(b"serving"), line
    return process


@contextmanager
def served_fleet() -> Iterator[Served]:
    """Make it where every user can come."""
    base = Path(tempfile.mkdtemp(prefix="statelesskit-served-", dir="/var/tmp"))
    try:
        base.chmod(0o755)
        home = base / "home"
        home.mkdir()
        account = pwd.getpwnam(USER)
        os.chown(home, account.pw_uid, account.pw_gid)
        with running_fleet(base) as fleet:
            config = fleet.site.root / "site.toml"
            text = config.read_text()
            config.write_text(text[: text.index("[service]")] + RULES)
            site = load_site(fleet.site.root)
            served = Served(fleet, site, home, _service(site))
            try:
                yield served
            finally:
                served.stop()
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with served_fleet() as made:
        yield made


def eventually(look: object, wait_s: float = 30) -> None:
    """Wait until something is so."""
    assert callable(look)
    until = time.monotonic() + wait_s
    while not look():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
