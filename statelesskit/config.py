"""A site: where one server's prototypes, snapshots, directory, keys and records are."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
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
"""


@dataclass(frozen=True, slots=True)
class Site:
    """One server's installation; immutable, read from ``site.toml``."""

    root: Path
    name: str
    base_dn: str
    port: int
    auto_states: tuple[str, ...]
    auto_max_clients: int

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
    )


def _get(table: dict[str, object], name: str, kind: type[T]) -> T:
    key = name.rpartition(".")[2]
    if key not in table:
        raise KeyError(f"the key {name} is missing")
    value = table[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
    return value
