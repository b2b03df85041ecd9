"""Send a snapshot to another site: a process of ours that receives it there, here or through ssh."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statelesskit.config import Site, load_site
from statelesskit.errors import (
    CommandError,
    ConflictError,
    DamagedError,
    FormatError,
    NameInvalidError,
    NoSpaceError,
    RefusedError,
    StatelessError,
    UsageError,
)
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.run import conversing
from statelesskit.snapshot.description import ABOUT, MANIFEST, altered
from statelesskit.snapshot.manifest_file import check_manifest
from statelesskit.snapshot.registry import HINT, Snapshot
from statelesskit.snapshot.wire import DIGEST, VERSION, Wire
from statelesskit.store import Store

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*", re.ASCII)
OBJECTS_MAX = 2**32
# Nobody is there to be asked, a host that is not known already is not talked to whatever a configuration allows,
# and nothing but the talk goes through.
_SSH = (
    "ssh",
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "StrictHostKeyChecking=yes",
    "-o",
    "ClearAllForwardings=yes",
    "-o",
    "ForwardAgent=no",
    "-o",
    "ForwardX11=no",
    "-o",
    "Compression=yes",
    "--",
)
SSH_FAILED, NOT_FOUND = 255, 127  # exit codes of ssh(1), and of the shell on the other host


@dataclass(frozen=True, slots=True)
class Target:
    """A site to send to: a folder, on another host if one is named."""

    folder: str
    host: str = ""

    def __str__(self) -> str:
        return f"ssh:{self.host}:{self.folder}" if self.host else self.folder

    def argv(self, snapshot: Snapshot) -> list[str]:
        """Return the command that receives a snapshot there."""
        words = ["--site", self.folder, "snapshot", "receive", snapshot.name, snapshot.digest, "--json"]
        if not self.host:
            return [sys.executable, "-P", "-m", "statelesskit", *words]
        return [*_SSH, self.host, shlex.join(["statelesskit", *words])]


def parse_target(text: str, site: Site) -> Target:
    """Read ``FOLDER`` or ``ssh:HOST:FOLDER``.

    Raises:
        NameInvalidError: it is neither.
        NotFoundError, ConfigError: there is no site in that folder.
        UsageError: it is the site itself.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind == "ssh":
        host, _, folder = rest.partition(":")
        if not _HOST.fullmatch(host) or not folder.startswith("/") or "\0" in folder:
            raise NameInvalidError(
                f"{printable(text)!r} names no site on another host", hint="write ssh:HOST:/srv/stateless"
            )
        return Target(folder, host)
    root = Path(text).absolute()
    if load_site(root).root.samefile(site.root):
        raise UsageError(f"{printable(root)} is this site itself", hint="name another site")
    return Target(str(root))


def send(site: Site, snapshot: Snapshot, target: Target, progress: Progress = SILENT) -> dict[str, Any]:
    """Send a snapshot; return what the other site's command says of it. Only what it lacks is sent.

    Raises:
        DamagedError: something of the snapshot is missing or damaged here.
        StatelessError: the other side could not, or would not, take it in; nothing of it is seen there then.
    """
    check_manifest(site, snapshot)
    agent = os.environ.get("SSH_AUTH_SOCK")
    try:
        with conversing(target.argv(snapshot), env={"SSH_AUTH_SOCK": agent} if agent and target.host else None) as (
            outgoing,
            incoming,
        ):
            wire = Wire(incoming, outgoing)
            greeting = wire.hear()
            if "statelesskit-copy" in greeting:
                _talk(site, snapshot, wire, greeting, progress)
                greeting = wire.hear()
    except CommandError as error:
        raise _as_said(error, target) from error
    return greeting


def _talk(site: Site, snapshot: Snapshot, wire: Wire, greeting: dict[str, Any], progress: Progress) -> None:
    if greeting["statelesskit-copy"] != VERSION:
        raise FormatError("the other site has another version of statelesskit", hint="use the same on both")
    folder = site.snapshots / snapshot.name
    manifest, about = (folder / MANIFEST).read_bytes(), json.loads((folder / ABOUT).read_bytes())
    if altered(about):
        raise DamagedError(f"{folder / ABOUT} was altered", hint=HINT)
    wire.say(about=about, manifest_bytes=len(manifest))
    wire.send(manifest)
    wire.flush()
    store = Store(site.store)
    while missing := wire.number(wire.hear(), "missing", OBJECTS_MAX):
        wanted = {wire.receive(DIGEST) for _ in range(missing)}
        progress.stage(f"sending {snapshot.name}", total=len(wanted), unit="objects")
        for digest in store.in_stored_order(wanted):
            wire.send_object(digest, store.read(digest))
            progress.advance()
        wire.flush()


def _as_said(error: CommandError, target: Target) -> StatelessError:
    """Return the error the other side told of, in its own words."""
    kinds: dict[int, type[StatelessError]] = {
        kind.exit_code: kind for kind in (UsageError, RefusedError, ConflictError, NoSpaceError, DamagedError)
    }
    said = [line for line in error.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    message = next((line.removeprefix("error: ") for line in said if line.startswith("error: ")), "")
    hint = next((line.removeprefix("hint: ") for line in said if line.startswith("hint: ")), "")
    if not message:
        if target.host and error.returncode == SSH_FAILED:
            error.hint = f"`ssh {target.host} true` must work without a question: its key known here, ours known there"
        elif target.host and error.returncode == NOT_FOUND:
            error.hint = f"`ssh {target.host} statelesskit --version` must work: link it into /usr/local/bin there"
        return error
    return kinds.get(error.returncode, StatelessError)(f"{target}: {printable(message)}", hint=printable(hint))
