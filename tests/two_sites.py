"""Two sites in one folder, and beside it a tree that both adopt as their prototype: for tests of what is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.memory import RACY_NS
from statelesskit.progress import SILENT
from statelesskit.snapshot import Snapshot, list_snapshots
from statelesskit.snapshot.receiving import is_here, receive
from statelesskit.snapshot.sending import _talk
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify_all
from statelesskit.snapshot.wire import Wire

PROTOTYPES = {"here": "desktop", "there": "kiosk"}  # so that no name is given by both


class TwoSites:
    """What is durable is below ``disk`` alone."""

    def __init__(self, base: Path) -> None:
        self.base, self.tree, self.disk = base, base / "tree", base / "disk"
        self.tree.mkdir(parents=True)
        self.here, self.there = self._site("here"), self._site("there")
        self.write("etc/os-release", b"ID=debian\n")
        self.write("a", b"a" * 300)
        self.write("b/c", b"c")

    def _site(self, name: str) -> Site:
        root = self.disk / name
        for folder, mode in FOLDERS.items():
            (root / folder).mkdir(parents=True, mode=mode)
        (root / "site.toml").write_text(TEMPLATE.format(format=1, name=name, base_dn="ou=stateless", port=1))
        about = {
            "format": 1, "source": f"at:{self.tree}", "tree": str(self.tree),
            "created_at": "2026-11-23T07:30:00+00:00", "created_by": "t", "note": "",
        }  # fmt: skip
        (root / "prototypes" / PROTOTYPES[name]).mkdir()
        (root / "prototypes" / PROTOTYPES[name] / "prototype.json").write_text(json.dumps(about))
        return load_site(root)

    # --- the tree -----------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        path = self.tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def settle(self) -> None:
        """Let the kernel's clock step on, so that nothing in the tree is racy."""
        time.sleep(RACY_NS / 1e9 * 1.5)

    def change(self) -> None:
        self.write("a", b"another")
        self.write("new", random.Random(1).randbytes(600_000))  # more than a frame
        (self.tree / "b/c").unlink()
        self.settle()

    # --- what is done to the sites ------------------------------------------------------------

    def take(self, site: Site | None = None) -> Snapshot:
        site = site or self.here
        return take(site, PROTOTYPES[site.name])[0]

    def copy(self, name: str, source: Site, target: Site) -> None:
        """As the command does between two processes, but in this one."""
        snapshot = next(found for found in list_snapshots(source) if found.name == name)
        if is_here(target, name, snapshot.digest):
            return
        ends = socket.socketpair()
        wires = [Wire(end.makefile("rb"), end.makefile("wb")) for end in ends]
        sender = threading.Thread(target=self._send, args=(source, snapshot, wires[0], ends[0]))
        sender.start()
        try:
            receive(target, name, snapshot.digest, wires[1])
        finally:
            ends[1].shutdown(socket.SHUT_RDWR)
            sender.join()
            for wire, end in zip(wires, ends, strict=True):
                with suppress(OSError):  # what was not sent yet has nobody to go to
                    wire._outgoing.close()
                wire._incoming.close()
                end.close()

    def _send(self, source: Site, snapshot: Snapshot, wire: Wire, end: socket.socket) -> None:
        with suppress(OSError, EOFError):  # the receiver says why
            _talk(source, snapshot, wire, wire.hear(), SILENT)
        with suppress(OSError):
            end.shutdown(socket.SHUT_WR)

    # --- what is there ------------------------------------------------------------------------

    def check_clean(self) -> dict[tuple[str, str], Snapshot]:
        """Verify all of both sites, and that the order is one; return the snapshots by site and name."""
        found = {}
        for site in (self.here, self.there):
            snapshots = list_snapshots(site)
            assert list(verify_all(site, snapshots, everything=True)) == []
            assert len({(one.prototype, one.sequence) for one in snapshots}) == len(snapshots)
            found |= {(site.name, one.name): one for one in snapshots}
        return found

    def leftovers(self) -> list[Path]:
        return [path for path in self.disk.rglob("*") if fs.PARTIAL in path.name]


PRIMITIVES = (
    "create", "open_log", "make_folder", "write_all", "truncate", "fsync", "rename", "unlink", "remove_folder",
)  # fmt: skip


def killed(operation: Callable[[], Any], at: int) -> bool:
    """Do it in a process that kill -9 ends at the n-th change of the disk; return false if it ended before."""
    child = os.fork()
    if child == 0:
        try:
            left = iter(range(at))
            for name in PRIMITIVES:
                setattr(fs, name, _deadly(getattr(fs, name), left))
            operation()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _deadly(real: Callable[..., Any], left: Any) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)

    return call
