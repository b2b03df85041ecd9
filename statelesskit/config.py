"""A site: where one server's prototypes, snapshots, directory, keys and records are."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from statelesskit.errors import ConfigError, NotFoundError

DEFAULT_ROOT = Path("/srv/stateless")
FORMAT = 1
T = TypeVar("T")

TEMPLATE = """\
# A statelesskit site. Change it with an editor; `statelesskit site doctor` checks it.
format = {format}
name = "{name}"

[directory]
# The part of the LDAP tree that is ours, and the loopback port the private server answers on (ldaps).
base_dn = "{base_dn}"
port = {port}

[policy]
# What a run may do with confirm=auto, that is with nobody looking: push only snapshots in these
# states, and only when at most so many clients change.
auto_states = ["released"]
auto_max_clients = 1000
# How many snapshots a run may delete on its own.
auto_max_deleted = 50

[retention]
# Which snapshots of each prototype `statelesskit snapshot collect` keeps: the last so many, and the newest of each
# of so many days, weeks and months that have one. With all four at 0 it keeps all. Whatever the rules say, it keeps
# what a channel points at or pointed at before, a pin, an export, the newest, and what a client reported that it
# runs or holds within so many days.
last = 10
daily = 14
weekly = 8
monthly = 12
# Always kept too: those whose name or note fits one of these patterns, for example "*-2026*" or "golden*".
named = []
lease_days = 90
"""


@dataclass(frozen=True, slots=True)
class Retention:
    """Which snapshots of a prototype are kept; with no count above 0, all are.

    Attributes:
        named: patterns of names and notes, as a shell's; what fits one is kept.
        lease_days: how long what a client reported holds a snapshot.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    named: tuple[str, ...] = ()
    lease_days: int = 90


@dataclass(frozen=True, slots=True)
class Site:
    """One server's installation; immutable, read from ``site.toml``."""

    root: Path
    name: str
    base_dn: str
    port: int
    auto_states: tuple[str, ...]
    auto_max_clients: int
    auto_max_deleted: int = 0
    retention: Retention = Retention()

    @property
    def prototypes(self) -> Path:
        return self.root / "prototypes"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    @property
    def directory(self) -> Path:
        return self.root / "directory"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def lock_file(self, what: str) -> Path:
        """Return the lock file of an object such as ``prototype/desktop``."""
        return self.locks / (what.replace("/", ".") + ".lock")


# Name below the root: mode. Trees hold set-id programs, of old versions too, so no local user may reach them.
FOLDERS = {
    "prototypes": 0o700,
    "snapshots": 0o755,
    "store": 0o700,
    "exports": 0o700,
    "directory": 0o700,
    "keys": 0o700,
    "records": 0o755,
    "locks": 0o755,
}


def site_root(option: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the site is: the option, then ``STATELESSKIT_SITE``, then ``/srv/stateless``."""
    return Path(option or environ.get("STATELESSKIT_SITE") or DEFAULT_ROOT).absolute()


def load_site(root: Path) -> Site:
    """Read a site's configuration.

    Raises:
        NotFoundError: there is no site at ``root``.
        ConfigError: ``site.toml`` cannot be read, lacks a key or holds one of the wrong kind.
    """
    path = root / "site.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no site at {root}", hint=f"make one: statelesskit --site {root} site init"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        return _parse(root, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}", hint="mend the line it names") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error.args[0] if error.args else error}",
            hint="compare it with the comments of a fresh `site init`",
        ) from error


def _parse(root: Path, data: dict[str, object]) -> Site:
    if _get(data, "format", int) != FORMAT:
        raise ValueError(f"format is {data['format']!r}, this statelesskit reads format {FORMAT}")
    directory, policy = _get(data, "directory", dict), _get(data, "policy", dict)
    port = _get(directory, "directory.port", int)
    if not 0 < port < 65536:
        raise ValueError(f"directory.port is {port}, expected 1 to 65535")
    states = _get(policy, "policy.auto_states", list)
    return Site(
        root=root,
        name=_get(data, "name", str),
        base_dn=_get(directory, "directory.base_dn", str),
        port=port,
        auto_states=tuple(str(state) for state in states),
        auto_max_clients=_get(policy, "policy.auto_max_clients", int),
        # Sites made before there was such a thing have neither; nothing of theirs goes until somebody says what.
        auto_max_deleted=_get({"auto_max_deleted": 0} | policy, "policy.auto_max_deleted", int),
        retention=_retention(_get({"retention": {}} | data, "retention", dict)),
    )


def _retention(table: Mapping[str, object]) -> Retention:
    known: dict[str, object] = {item.name: item.default for item in fields(Retention)}
    if strange := table.keys() - known.keys():
        raise KeyError(f"retention.{min(strange)} is unknown")
    counts = {name: _get({**known, **table}, f"retention.{name}", int) for name in known if name != "named"}
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"retention.{name} is {count}, expected 0 or more")
    patterns = table.get("named", [])
    if not isinstance(patterns, list) or not all(isinstance(one, str) and one for one in patterns):
        raise TypeError(f"retention.named is {patterns!r}, expected a list of patterns")
    return Retention(named=tuple(patterns), **counts)


def _get(table: Mapping[str, object], name: str, kind: type[T]) -> T:
    key = name.rpartition(".")[2]
    if key not in table:
        raise KeyError(f"the key {name} is missing")
    value = table[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
    return value
