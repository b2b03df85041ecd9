"""A site: where one server's prototypes, snapshots, directory, keys and records are."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from statelesskit import scrub
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
# How many days the private server's change log reaches back; 0 keeps it all.
keep_changes_days = 0
# How many seconds a command waits for a server that is away, and the replicas that answer questions meanwhile
# (`statelesskit directory replica init` makes one).
# patience_s = 10
# replicas = ["ldaps://127.0.0.1:6361"]

[policy]
# What a run may do with confirm=auto, that is with nobody looking: push only snapshots in these
# states, and only when at most so many clients change.
auto_states = ["released"]
auto_max_clients = 1000
# How many snapshots a run may delete on its own.
auto_max_deleted = 50

[audit]
# A command that is given the checkpoint of the log of records on its standard input whenever a run has ended, and
# keeps it where this host can't change it, for example ["ssh", "auditor@elsewhere", "cat > checkpoint"].
witness = []

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

[publish]
# What is published, as machines reach it: for example "http://stateless.example.org:8080". Needed for machines whose
# iPXE is older than 2021; and where those that booted report to: "https://stateless.example.org:8443/report".
url = ""
report_url = ""

[service]
# With it `statelesskit-service`, run by root, performs what others ask for, and they need no rights of their own.
# root may do all; of the others, who fits a rule may do what it names, to what it names ("prototype/desktop",
# "channel/desktop/*"; left out, to all). What reads files ("prototype create", "client import") reads them as root.
enabled = false
# Who may talk to it at all: a group's name, or "" for every local user.
group = ""
# [[service.allow]]
# users = ["anna"]
# groups = ["operators"]
# verbs = ["snapshot take", "push *"]
# objects = ["prototype/desktop", "channel/desktop/*"]
"""


def site_toml(name: str, base_dn: str, port: int, server: Mapping[str, str] | None = None) -> str:
    """Return the text of a new ``site.toml``; ``server`` holds further keys of ``[directory]``."""
    text = TEMPLATE.format(format=FORMAT, name=name, base_dn=_quoted(base_dn)[1:-1], port=port)
    if not server:
        return text
    lines = "".join(f"{key} = {_quoted(value)}\n" for key, value in server.items() if value)
    return text.replace("\n[policy]", f"# An existing server, used instead of the private one.\n{lines}\n[policy]")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's strings are JSON's, but for this


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
class DirectoryServer:
    """How the fleet directory is reached, as ``[directory]`` says; secrets are named, never held.

    Attributes:
        uri: an existing server, ``ldaps://host[:port]`` or ``ldap://host[:port]`` (then with StartTLS);
            "" is the site's private slapd.
        replicas: servers that reads may go to while that one is away.
        ca_file: the CAs that may have made their certificates; none is the private CA, or the system's.
        bind_dn: who we are there, with ``password_file``: a file, or the name of a systemd credential.
        certificate_file: the certificate that says who we are instead (SASL EXTERNAL), with ``key_file``.
        patience_s: how long something that is asked waits for a server that is away.
        provider: in the site of a replica, the server whose changes its private slapd follows.
        people: the URI or domain where the fleet's machines find people, for what is said about it.
    """

    uri: str = ""
    replicas: tuple[str, ...] = ()
    ca_file: Path | None = None
    bind_dn: str = ""
    password_file: str = ""
    certificate_file: Path | None = None
    key_file: Path | None = None
    people: str = ""
    patience_s: int = 10
    provider: str = ""

    @property
    def is_private(self) -> bool:
        return not self.uri


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom the service lets do what: shell patterns of verbs and of objects, as :meth:`Action.objects` names them."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    objects: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """Whether the privileged service performs the actions of others, and which.

    Attributes:
        group: whose members may talk to it; "" is every local user.
    """

    enabled: bool = False
    group: str = ""
    allow: tuple[Rule, ...] = ()


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
    keep_changes_days: int = 0
    retention: Retention = Retention()
    server: DirectoryServer = DirectoryServer()
    witness: tuple[str, ...] = ()
    publish_url: str = ""
    report_url: str = ""
    service: ServiceRules = ServiceRules()

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
    def publish(self) -> Path:
        return self.root / "publish"

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
    def schedule(self) -> Path:
        return self.root / "schedule"

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
    "publish": 0o755,
    "directory": 0o711,  # local users with a role reach its socket; all else in it is closed to them
    "keys": 0o700,
    "records": 0o755,
    "schedule": 0o755,
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
    return parse_site(root, text)


def parse_site(root: Path, text: str) -> Site:
    """Return the site a configuration describes.

    Raises:
        ConfigError: the text is no TOML, lacks a key or holds one of the wrong kind.
    """
    path = root / "site.toml"
    try:
        site = _parse(root, tomllib.loads(text))
        named = site.server.password_file
        scrub.watch(site.keys, *([root / named] if named else []))  # so that nobody who writes can forget to
        return site
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
    keep_days = _get({"keep_changes_days": 0} | directory, "directory.keep_changes_days", int)
    if not 0 <= keep_days < 100_000:
        raise ValueError(f"directory.keep_changes_days is {keep_days}, expected 0 to 99999")
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
        keep_changes_days=keep_days,
        retention=_retention(_get({"retention": {}} | data, "retention", dict)),
        server=_server(root, directory),
        witness=_witness(_get({"audit": {}} | data, "audit", dict)),
        **_urls(_get({"publish": {}} | data, "publish", dict)),
        service=_service(_get({"service": {}} | data, "service", dict)),
    )


def _urls(table: Mapping[str, object]) -> dict[str, str]:
    if strange := table.keys() - {"url", "report_url"}:
        raise KeyError(f"publish.{min(strange)} is unknown")
    # They go into boot scripts and a kernel's command line, where nothing can be quoted; an initrd speaks no TLS.
    return {
        "publish_url": _plain_url(table, "url", "http"),
        "report_url": _plain_url(table, "report_url", "https?"),
    }


def _plain_url(table: Mapping[str, object], key: str, scheme: str) -> str:
    url = _get({key: ""} | dict(table), f"publish.{key}", str).rstrip("/")
    if url and not re.fullmatch(rf"{scheme}://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{{1,5}})?(/[A-Za-z0-9._~/-]*)?", url):
        raise ValueError(f"publish.{key} is {url!r}, expected http://HOST[:PORT] and a path of plain characters")
    return url


def _witness(table: Mapping[str, object]) -> tuple[str, ...]:
    if strange := table.keys() - {"witness"}:
        raise KeyError(f"audit.{min(strange)} is unknown")
    words = table.get("witness", [])
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise TypeError(f"audit.witness is {words!r}, expected a command as a list of words")
    return tuple(words)


def _service(table: Mapping[str, object]) -> ServiceRules:
    if strange := table.keys() - {"enabled", "group", "allow"}:
        raise KeyError(f"service.{min(strange)} is unknown")
    rules = _get({"allow": []} | dict(table), "service.allow", list)
    return ServiceRules(
        enabled=_get({"enabled": False} | dict(table), "service.enabled", bool),
        group=_get({"group": ""} | dict(table), "service.group", str),
        allow=tuple(_rule(rule) for rule in rules),
    )


def _rule(table: object) -> Rule:
    if not isinstance(table, dict):
        raise TypeError(f"service.allow holds {table!r}, expected tables: [[service.allow]]")
    if strange := table.keys() - {item.name for item in fields(Rule)}:  # a typing error must not widen a rule
        raise KeyError(f"service.allow.{min(strange)} is unknown")
    for name, words in table.items():
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise TypeError(f"service.allow.{name} is {words!r}, expected a list of texts")
    rule = Rule(**{name: tuple(words) for name, words in table.items()})
    if not (rule.users or rule.groups) or not rule.verbs:
        raise ValueError("service.allow names nobody or nothing, expected users or groups, and verbs")
    return rule


def _server(root: Path, table: Mapping[str, object]) -> DirectoryServer:
    known: dict[str, object] = {item.name: item.default for item in fields(DirectoryServer)}
    if strange := table.keys() - known.keys() - {"base_dn", "port", "keep_changes_days"}:
        raise KeyError(f"directory.{min(strange)} is unknown")

    def text(name: str) -> str:
        return _get({name: ""} | dict(table), f"directory.{name}", str)

    def file(name: str) -> Path | None:
        return root / text(name) if text(name) else None

    uri, replicas = text("uri"), table.get("replicas", [])
    if not isinstance(replicas, list) or not all(isinstance(one, str) for one in replicas):
        raise TypeError(f"directory.replicas is {replicas!r}, expected a list of URIs")
    for one in (uri, text("provider"), *replicas):
        if one:
            check_uri(one)
    server = DirectoryServer(
        uri=uri,
        replicas=tuple(replicas),
        ca_file=file("ca_file"),
        bind_dn=text("bind_dn"),
        password_file=text("password_file"),
        certificate_file=file("certificate_file"),
        key_file=file("key_file"),
        people=text("people"),
        provider=text("provider"),
        patience_s=_get({"patience_s": 10} | dict(table), "directory.patience_s", int),
    )
    if server.patience_s < 0:
        raise ValueError(f"directory.patience_s is {server.patience_s}, expected 0 or more")
    if bool(server.bind_dn) != bool(server.password_file):
        raise ValueError("directory.bind_dn and directory.password_file go together; one is missing")
    if bool(server.certificate_file) != bool(server.key_file):
        raise ValueError("directory.certificate_file and directory.key_file go together; one is missing")
    if server.bind_dn and server.certificate_file:
        raise ValueError("directory has a bind_dn and a certificate_file; expected one way to say who we are")
    if uri and not (server.bind_dn or server.certificate_file):
        raise ValueError(
            "directory.uri needs a bind_dn with its password_file, or a certificate_file with its key_file"
        )
    return server


def check_uri(uri: str) -> str:
    """Return the URI of a directory server, or say why it cannot be one.

    Raises:
        ValueError: it is not ``ldap://`` or ``ldaps://``, has no host, or more than host and port.
    """
    if "@" in uri:  # not shown: what stands before it may be a password
        raise ValueError("a server's URI holds an @, expected ldaps://host[:port]; who we are is bind_dn")
    try:
        parts = urlsplit(uri)
        right = parts.scheme in ("ldap", "ldaps") and parts.hostname and parts.port != 0 and uri.isprintable()
    except ValueError:  # a port that is none
        right = False
    if not right or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{uri!r} is no server, expected ldaps://host[:port] or ldap://host[:port]")
    return uri


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
