"""Who takes part: this tool and its peers, each with a repository of its own, flushed before it counts as done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Contender
from tests.conftest import free_port

CLI = str(Path(sys.executable).with_name("statelesskit"))
OURS = "statelesskit"
PEERS = ("restic", "borg", "ostree archive", "casync")
PACKAGES = ("restic", "borgbackup", "ostree", "casync", "rsync", "zstd", "tar", "coreutils")


@dataclass(frozen=True)
class Keeper:
    """A deduplicating store of trees.

    Attributes:
        folder: everything it keeps, its caches too; ``{}`` in the commands stands for it.
        sizes: what of it counts as stored (caches do not).
        rounds: at most so many, for one that is slow.
    """

    name: str
    folder: Path
    init: str
    take: str
    sizes: tuple[str, ...]
    rounds: int = 100

    @property
    def command(self) -> str:
        return self.take.replace("{}", str(self.folder))

    @property
    def _saved(self) -> Path:
        return self.folder.with_suffix(".taken")

    def fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shell(self.init.replace("{}", str(self.folder)))

    def save(self) -> None:
        """Keep the repository as it is now, to start from it again."""
        self.drop()
        subprocess.run(["cp", "-a", self.folder, self._saved], check=True)

    def is_saved(self) -> bool:
        return self._saved.exists()

    def restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run(["cp", "-a", self._saved, self.folder], check=True)

    def drop(self) -> None:
        shutil.rmtree(self._saved, ignore_errors=True)

    def contender(self, before: Callable[[], object]) -> Contender:
        return Contender(self.name, self.command, before, tuple(self.folder / size for size in self.sizes), self.rounds)


def keepers(repos: Path, tree: Path, *, large: bool) -> list[Keeper]:
    """Return ours first, then the peers, all for one tree."""
    home = "export HOME={} RESTIC_PASSWORD=x BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes; "
    casync = "casync make --exclude-submounts=yes --cache={}/cache --store={}/store {}/tree.caidx"
    found = [
        Keeper(OURS, repos / "site", new_site(tree), f"{CLI} --site {{}} snapshot take p", ("store", "snapshots")),
        Keeper(
            "restic", repos / "restic", f"{home} restic -q -r {{}}/repo init",
            f"{home} restic -q -r {{}}/repo backup {tree}", ("repo",), rounds=2 if large else 100,
        ),
        Keeper(
            "borg", repos / "borg", f"{home} borg init -e none {{}}/repo",
            f"{home} borg create -C zstd,3 {{}}/repo::{{utcnow:%s%f}} {tree}", ("repo",), rounds=1 if large else 100,
        ),
        Keeper(
            "ostree archive", repos / "ostree", "ostree --repo={}/repo init --mode=archive",
            f"ostree --repo={{}}/repo commit -b x --no-bindings {tree}", ("repo",), rounds=1,
        ),
        Keeper(
            "casync", repos / "casync", "mkdir {}/store {}/cache",
            f"{casync} {tree} && sync -f {{}}", ("store", "tree.caidx"),
        ),
    ]  # fmt: skip
    # On the large root these two take minutes for what the others do in half a minute.
    return [one for one in found if not large or one.name not in ("ostree archive", "casync")]


def new_site(tree: Path) -> str:
    """Return the command that makes a site at ``{}`` with the tree as its prototype ``p``."""
    ours = f"{CLI} --site {{}}"
    return f"{ours} site init --name bench --port {free_port()} && {ours} prototype create p --from at:{tree}"


def shell(command: str) -> str:
    """Run what is not measured; return what it printed."""
    done = subprocess.run(["/bin/sh", "-ec", command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
