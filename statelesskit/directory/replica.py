"""Replicas: second servers that follow the first (syncrepl, RFC 4533) and answer questions while it is away.

A replica is a site of its own whose private slapd follows another's, so what starts, stops and asks a site
does that to a replica too. It changes nothing: every change goes to the one provider, and so does every
question that a change rests on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ldap3
from ldap3.core import exceptions as ldap

from statelesskit.config import FOLDERS, FORMAT, TEMPLATE, Site, check_uri, load_site
from statelesskit.directory.conf import ldaps_uri, prepare
from statelesskit.directory.failures import translated
from statelesskit.directory.replication import READER, REPLICATOR
from statelesskit.directory.session import Connection, certificate_end, connect, disconnect
from statelesskit.directory.tls import RENEW_DAYS, ca_certificate, make_identity, server_identity
from statelesskit.errors import (
    DirectoryAwayError,
    DirectoryUnavailableError,
    ExistsError,
    NotFoundError,
    ParameterError,
    RefusedError,
    StatelessError,
)
from statelesskit.fs import make_folders, write_file
from statelesskit.progress import current

README = """\
A replica of the directory of the site {name}. It has the site's secrets: keep it as safe.

On this machine, in this folder:    statelesskit directory replica start .
In the site's site.toml, under [directory], so that questions go here while the site's server is away:
    replicas = ["ldaps://127.0.0.1:{port}"]
On another machine, copy the folder there, keep this running there, and start the replica there:
    ssh -N -L {site_port}:127.0.0.1:{site_port} -R {port}:127.0.0.1:{port} THE-SITES-MACHINE
Ask it without the site:            statelesskit --site . client list
Its certificate ends after a year; `statelesskit directory replica init` of the same folder gives it a new one.
"""


# --- making one -------------------------------------------------------------------------------


def check_new(site: Site, folder: Path) -> None:
    """Refuse what cannot become a replica of the site.

    Raises:
        ExistsError: the folder holds something else.
        RefusedError: the site's server is not its own, or is a replica itself.
    """
    if not site.server.is_private or site.server.provider:
        raise RefusedError(
            f"only a site with a server of its own makes replicas; this one uses {site.server.uri or 'another site'}'s",
            hint="let that server's administrator replicate it, and name the copies: replicas in [directory]",
        )
    if folder.exists() and any(folder.iterdir()) and not _is_replica(folder):
        raise ExistsError(f"{folder} holds something that is no replica", hint="choose an empty or new folder")


def provider_uri(site: Site, given: str) -> str:
    """Return where a replica finds the site's server; by default as from this machine."""
    try:
        return check_uri(given or ldaps_uri(site))
    except ValueError as error:
        raise ParameterError(str(error)) from None


def init_replica(site: Site, folder: Path, *, port: int, provider: str) -> Site:
    """Make a folder from which a replica of the site's private server runs, here or on another machine.

    Made again, it gets a new certificate, and keeps what it holds. A crash leaves what making it again completes.

    Args:
        port: the loopback port where it will answer (ldaps).

    Raises:
        ExistsError, RefusedError: as :func:`check_new`.
    """
    check_new(site, folder)
    text = TEMPLATE.format(format=FORMAT, name=site.name, base_dn=site.base_dn, port=port)
    following = f'# A replica: its server follows this one, and changes nothing itself.\nprovider = "{provider}"\n'
    make_folders(folder)
    write_file(folder / "site.toml", text.replace("\n[policy]", f"{following}\n[policy]", 1).encode())
    for name, mode in FOLDERS.items():
        (folder / name).mkdir(mode=mode, exist_ok=True)
    made = load_site(folder)
    make_identity(site, server_identity(made), REPLICATOR)
    write_file(ca_certificate(made), ca_certificate(site).read_bytes())
    make_identity(site, reader_identity(site), READER)
    write_file(folder / "README", README.format(name=site.name, port=port, site_port=site.port).encode())
    prepare(made)
    return made


def _is_replica(folder: Path) -> bool:
    return (folder / "site.toml").exists() and bool(load_site(folder).server.provider)


def load_replica(folder: Path) -> Site:
    """Return the replica in a folder.

    Raises:
        NotFoundError: there is none; a site of its own is none.
    """
    site = load_site(folder.absolute())
    if not site.server.provider:
        raise NotFoundError(f"{folder} is a site, and no replica", hint="statelesskit directory replica init makes one")
    return site


def reader_identity(site: Site) -> Path:
    """Return the key and certificate by which replicas know this site's commands."""
    return site.keys / "directory-reader.pem"


# --- asking one -------------------------------------------------------------------------------


def connect_to_provider(site: Site) -> Connection:
    """Connect to where changes are made, and whatever they rest on is read.

    Raises:
        RefusedError: this site is a replica.
    """
    if site.server.provider:
        raise RefusedError(
            f"{site.root} is a replica of {site.server.provider}: it answers questions and changes nothing",
            hint="run the same command at the site it is a replica of",
        )
    return connect(site)


def connect_for_reading(site: Site) -> Connection:
    """Connect to the site's server or, while it is away, to the first replica that answers; say which and how old.

    Raises:
        DirectoryAwayError: none answers.
    """
    try:
        connection = connect(site)
    except DirectoryAwayError as away:
        for uri in site.server.replicas:
            try:
                connection = connect_to_replica(site, uri)
                _say_how_old(connection, site, f"the replica {uri}", f"; {away.message}")
            except StatelessError as error:
                away.message += f"; nor does a replica help: {error.message}"
            else:
                return connection
        raise
    if site.server.provider:
        _say_how_old(connection, site, f"a replica of {site.server.provider}")
    return connection


def _say_how_old(connection: Connection, site: Site, which: str, why: str = "") -> None:
    try:
        seen = last_change(connection, site)
    except BaseException:
        disconnect(connection)
        raise
    age = f"which knows all changes up to {_utc(seen)}" if seen else "which does not tell how old that is"
    current().waiting(f"read from {which}, {age}{why}")


def connect_to_replica(site: Site, uri: str) -> Connection:
    """Connect to one of the site's replicas."""
    server = site.server
    if server.is_private:
        server = replace(server, certificate_file=reader_identity(site), key_file=reader_identity(site))
    return connect(replace(site, server=server), uri=uri)


def last_change(connection: Connection, site: Site) -> datetime | None:
    """Return when the last change was made that a server knows of (contextCSN); None if it is no OpenLDAP that tells.

    Raises:
        DirectoryUnavailableError: it has not got everything yet since it was made.
    """
    entries: list[dict[str, Any]] = []
    with translated(connection.server.name), suppress(ldap.LDAPNoSuchObjectResult):
        _, _, entries, _ = connection.search(site.base_dn, "(objectClass=*)", ldap3.BASE, attributes=["contextCSN"])
    found = [value for entry in entries for value in entry["raw_attributes"].get("contextCSN", ())]
    if found:
        return datetime.strptime(max(found)[:21].decode(), "%Y%m%d%H%M%S.%f").replace(tzinfo=UTC)
    if not site.server.is_private:
        return None
    raise DirectoryUnavailableError(
        f"the server at {connection.server.name} has not caught up since it was made",
        hint="wait until it has reached its provider: statelesskit directory replica status",
    )


@dataclass(frozen=True, slots=True)
class Lag:
    """How a replica stands.

    Attributes:
        last_change: when the last change it knows of was made; None if it does not tell.
        behind_s: how much younger its provider's last change is, 0 when nothing is missing; None if either does not
            answer. Of many changes made at once, as by an import, many may be missing in little time.
        ends_at: when its certificate ends.
        note: what keeps it from answering, or makes its answers wrong.
    """

    uri: str
    last_change: datetime | None
    behind_s: float | None
    ends_at: datetime | None = None
    note: str = ""

    @property
    def ends_soon(self) -> bool:
        return self.ends_at is not None and self.ends_at - datetime.now(UTC) < timedelta(days=RENEW_DAYS)

    def __str__(self) -> str:
        if self.note:
            return f"{self.uri}: {self.note}"
        if self.behind_s is None:
            found = "answers; whether it is up to date is not known"
        elif self.behind_s:
            found = f"behind: its last change is {self.behind_s:.3g} s older than the provider's"
        else:
            found = "up to date"
        if self.ends_soon:
            found += f", its certificate ends on {self.ends_at:%Y-%m-%d}"
        return f"{self.uri}: {found}"

    def row(self) -> dict[str, Any]:
        return {
            "replica": self.uri,
            "last_change": _utc(self.last_change) if self.last_change else None,
            "behind_s": self.behind_s,
            "certificate_ends": _utc(self.ends_at) if self.ends_at else None,
            "note": self.note,
        }


def lags(site: Site) -> list[Lag]:
    """Say of each replica that the site names how far it is behind."""
    found: list[Lag] = []
    for uri in site.server.replicas:
        try:
            seen, ends_at = _asked(site, uri)
        except StatelessError as error:
            found.append(Lag(uri, None, None, note=error.message))
        else:
            found.append(Lag(uri, seen, None, ends_at))
    try:
        newest = _asked(site, "")[0] if found else None  # asked last, as it is never behind
    except StatelessError:
        newest = None
    return [_compared(lag, newest) for lag in found]


def _compared(lag: Lag, newest: datetime | None) -> Lag:
    if newest is None or lag.last_change is None:
        return lag
    if lag.last_change > newest:
        note = "it knows changes that its provider does not: stop it, remove its directory/data, start it again"
        return replace(lag, note=note)
    return replace(lag, behind_s=(newest - lag.last_change).total_seconds())


def _asked(site: Site, uri: str) -> tuple[datetime | None, datetime | None]:
    """Return when the last change was made that a server knows of, and when its certificate ends, if it has one."""
    connection = connect_to_replica(site, uri) if uri else connect(site)
    try:
        return last_change(connection, site), certificate_end(connection)
    finally:
        disconnect(connection)


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
