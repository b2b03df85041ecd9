"""What of a prototype never comes into a snapshot: secrets and identities, which each machine has its own of.

``prototypes/NAME/prepare.toml`` holds two lists of patterns: what is left out, and which files are taken empty.
The rules are applied to the snapshot; the prototype stays as it is. A pattern is a path inside the tree, in
which ``*`` and ``?`` stand for parts of one name and ``**`` for any folders; a folder that fits is left out
with all in it.
"""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import ConfigError
from statelesskit.progress import SILENT, Progress
from statelesskit.tree import walk

FILE = "prepare.toml"
# What a Debian root has of its own after it ran once, or was upgraded.
LEAVE_OUT = (
    "etc/ssh/ssh_host_*_key",
    "etc/ssh/ssh_host_*_key.pub",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/dhcp/*.leases",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/*.bin",
    "var/lib/apt/lists/*",
    "root/.bash_history",
    "home/*/.bash_history",
)
EMPTY = ("etc/machine-id", "var/lib/dbus/machine-id")
NO_IDENTITY = b"uninitialized\n"  # machine-id(5): what stands there, or nothing, before the first boot
# What tells one machine from all others, or lets one be taken for another, as a regular file's line has it.
_IDENTITY = re.compile(
    rb'"path":"(etc/ssh/ssh_host_[^/"]*_key|var/lib/systemd/(?:random-seed|credential\.secret)|'
    rb'(?:etc|var/lib/dbus)/machine-id)","sha256":"[0-9a-f]{64}","size":([1-9][0-9]*),"type":"file"'
)


@dataclass(frozen=True)
class Rules:
    """Patterns of paths; without any, everything is taken as it is."""

    leave_out: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()

    def leaves_out(self, path: bytes) -> bool:
        """Say whether what has this path is no part of a snapshot."""
        return self._left_out is not None and self._left_out.fullmatch(path) is not None

    def empties(self, path: bytes) -> bool:
        """Say whether a file of this path is taken without its content."""
        return self._emptied is not None and self._emptied.fullmatch(path) is not None

    def as_bytes(self) -> bytes:
        """Return what tells these rules from others."""
        return fs.canonical_json([self.leave_out, self.empty])

    @cached_property
    def _left_out(self) -> re.Pattern[bytes] | None:
        return _compiled(self.leave_out)

    @cached_property
    def _emptied(self) -> re.Pattern[bytes] | None:
        return _compiled(self.empty)


DEFAULTS = Rules(LEAVE_OUT, EMPTY)


def count_hits(top: Path, rules: Rules, progress: Progress = SILENT) -> dict[str, int]:
    """Return how many names in a tree each pattern fits; what is below a folder that is left out is not looked at."""
    alone = {pattern: Rules((pattern,)) for pattern in (*rules.leave_out, *rules.empty)}
    hits = dict.fromkeys(alone, 0)

    def leaves_out(path: bytes) -> bool:
        left_out = rules.leaves_out(path)
        if left_out or rules.empties(path):
            for pattern, one in alone.items():
                hits[pattern] += one.leaves_out(path)
        return left_out

    progress.stage("looking at the tree", unit="names")
    for _ in walk(top, lambda _: None, leaves_out=leaves_out):
        progress.advance()
    return hits


def identities(lines: bytes) -> Iterator[bytes]:
    """Yield the paths of what is one machine's own and stands, with content, in some whole lines of a manifest."""
    for path, size in _IDENTITY.findall(lines):
        if not path.endswith(b"/machine-id") or int(size) > len(NO_IDENTITY):
            yield path


def load_rules(site: Site, prototype: str) -> Rules:
    """Read a prototype's rules; none if it has no file of them.

    Raises:
        ConfigError: the file cannot be understood; better no snapshot than one with secrets.
    """
    path = site.prototypes / prototype / FILE
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if strange := data.keys() - {"leave_out", "empty"}:
            raise ValueError(f"{min(strange)} is unknown")
        return Rules(*(_patterns(data.get(name, []), name) for name in ("leave_out", "empty")))
    except FileNotFoundError:
        return Rules()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be used: {error}",
            hint=f"mend it; `statelesskit prototype prepare {prototype} --defaults` writes a new one",
        ) from error


def write_rules(site: Site, prototype: str, rules: Rules) -> None:
    """Write a prototype's rules, in place of those it had."""
    fs.write_file(site.prototypes / prototype / FILE, as_toml(rules))


def as_toml(rules: Rules) -> bytes:
    """Return the text of a file of rules."""
    return (
        "# What never comes into a snapshot of this prototype; the prototype stays as it is.\n"
        f"leave_out = {_list(rules.leave_out)}\n"
        "# Files that are taken without their content.\n"
        f"empty = {_list(rules.empty)}\n"
    ).encode()


def _list(patterns: Iterable[str]) -> str:
    # JSON's strings are TOML's too.
    return "[\n" + "".join(f"    {fs.canonical_json(pattern).decode()},\n" for pattern in patterns) + "]"


def _patterns(values: Any, name: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(one, str) and one.strip("/") for one in values):
        raise ValueError(f"{name} is {values!r}, expected a list of paths")
    return tuple(values)


def _compiled(patterns: Iterable[str]) -> re.Pattern[bytes] | None:
    found = [_expression(os.fsencode(pattern.strip("/"))) for pattern in patterns]
    return re.compile(b"|".join(found), re.DOTALL) if found else None


def _expression(pattern: bytes) -> bytes:
    parts = []
    names = pattern.split(b"/")
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if name == b"**":
            parts.append(b".*" if last else b"(?:.*/)?")
        else:
            parts.append(_name(name) + (b"" if last else b"/"))
    return b"(?:" + b"".join(parts) + b")"


def _name(pattern: bytes) -> bytes:
    """Return the expression of one name, which no slash is part of."""
    made = b""
    for token in re.split(rb"(\*|\?|\[!?[^\]/]+\])", pattern):
        if token == b"*":
            made += b"[^/]*"
        elif token == b"?":
            made += b"[^/]"
        elif token.startswith(b"[") and len(token) > 2:
            made += b"(?!/)" + fnmatch.translate(token.decode("latin-1")).removeprefix("(?s:").removesuffix(
                ")\\Z"
            ).encode("latin-1")
        else:
            made += re.escape(token)
    return made
