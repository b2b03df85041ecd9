"""Make a site, start and stop what runs for it, and say how it stands."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statelesskit import fs
from statelesskit.config import FOLDERS, Site, load_site, parse_site, site_toml
from statelesskit.errors import ConfigError, DirectoryUnavailableError, ExistsError, PermissionNeededError
from statelesskit.lock import held
from statelesskit.names import check_name

if TYPE_CHECKING:
    from statelesskit.directory.slapd import Status

DEFAULT_PORT = 6360
DEFAULT_BASE_DN = "ou=stateless"


def plan_site(root: Path, port: int = DEFAULT_PORT, server: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Say what :func:`init_site` would make, one row for each thing. Changes nothing.

    Raises:
        ExistsError: something that is no folder is in the way.
        PermissionNeededError: this user may not write there.
    """
    _check_place(root)
    rows = [_row("folder", root)]
    rows += [_row("folder", root / name, f"mode {mode:o}") for name, mode in FOLDERS.items()]
    rows.append(_row("configuration", root / "site.toml"))
    rows.append(_row("key", root / "keys" / "record.key", "seals the records"))
    if server:
        return [*rows, {"what": "LDAP server", "where": server["uri"], "state": "there", "note": "is looked at first"}]
    rows.append(_row("key", root / "keys" / "directory-ca.key", "signs the directory's certificate"))
    rows.append(_row("LDAP server", root / "directory" / "slapd.conf", "private, loopback only"))
    taken = "in use by another program: choose one with --port" if port_in_use(port) else "free"
    rows.append({"what": "port", "where": f"127.0.0.1:{port}", "state": taken, "note": "ldaps"})
    return rows


def _row(what: str, where: Path, note: str = "") -> dict[str, str]:
    return {"what": what, "where": str(where), "state": "there" if where.exists() else "new", "note": note}


def _check_place(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ExistsError(f"{root} is there and is no folder", hint="choose another place with --site")
    if root.exists() and any(root.iterdir()) and not (root / "site.toml").exists() and not _is_ours(root):
        raise ExistsError(f"{root} holds something that is no site", hint="choose an empty or new folder with --site")
    above = root
    while not above.exists():
        above = above.parent
    if not os.access(above, os.W_OK):
        raise PermissionNeededError(f"this user may not write in {above}", hint="use sudo, or another place: --site")


def _is_ours(root: Path) -> bool:
    """Say whether a folder holds nothing but what an unfinished init leaves."""
    return {path.name for path in root.iterdir()} <= FOLDERS.keys()


def init_site(
    root: Path,
    *,
    name: str = "",
    port: int = DEFAULT_PORT,
    base_dn: str = DEFAULT_BASE_DN,
    server: Mapping[str, str] | None = None,
) -> tuple[Site, str]:
    """Make a site, or complete one that is half made; what is there stays as it is.

    Args:
        server: keys of ``[directory]`` that name an existing server. It is looked at before site.toml
            is written, and nothing is written to it.

    Returns:
        The site, and the fingerprint of the key that seals its records: write it down elsewhere.

    Raises:
        ExistsError, PermissionNeededError: as :func:`plan_site`.
        MissingToolError: slapd is not installed.
        ConfigError: the existing server lacks something; the hint says what makes it fit.
        DirectoryUnavailableError: it does not answer, is not who it should be, or does not let us in.
    """
    from statelesskit.audit.keys import create_record_key
    from statelesskit.directory import slapd

    _check_place(root)
    name = check_name(name or socket.gethostname().partition(".")[0].lower(), "site")
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder, mode in FOLDERS.items():
        (root / folder).mkdir(mode=mode, exist_ok=True)
    with held(root / "locks" / "site.lock", what=f"the site {root}", doing="site init", wait_s=10):
        if not (root / "site.toml").exists():
            text = site_toml(name, base_dn, port, server)
            if server:
                _check_server(parse_site(root, text))
            fs.write_file(root / "site.toml", text.encode())
        site = load_site(root)
        fingerprint = create_record_key(site.keys)
        if site.server.is_private:
            slapd.prepare(site)
    return site, fingerprint


def server_rows(site: Site) -> list[dict[str, str]]:
    """Return what the directory's server is and has, a row for each thing looked at.

    Raises:
        DirectoryUnavailableError: it does not answer, is not who it should be, or does not let us in.
    """
    from statelesskit.directory import open_directory
    from statelesskit.directory.server import server_facts

    with open_directory(site, or_replica=bool(site.server.provider), any_version=True) as directory:
        return [asdict(fact) for fact in server_facts(site, directory.ldap)]


def _check_server(site: Site) -> None:
    wrong = [row for row in server_rows(site) if row["state"] == "wrong"]
    if wrong:
        raise ConfigError(
            f"the server {site.server.uri} does not fit yet: "
            + "; ".join(f"{r['check']}: {r['found']}" for r in wrong),
            hint="; ".join(row["fix"] for row in wrong) + "; then run site init again",
        )


def start_site(site: Site) -> list[str]:
    """Start the private LDAP server, unless it runs, and enter what it does not know yet; return those names.

    With an existing server nothing is started.

    Raises:
        DirectoryUnavailableError: it does not come up; the message holds what it said.
        FormatError: the directory follows an older or a newer schema.
    """
    from statelesskit.directory import open_directory, slapd
    from statelesskit.register import register
    from statelesskit.service import recorded_if_changed

    if site.server.is_private:
        slapd.start(site)
    if site.server.provider:  # a replica is told everything by the server it follows
        return []
    with recorded_if_changed(site, "site start"), open_directory(site) as directory:
        directory.bootstrap()
        return register(site, directory)


def stop_site(site: Site) -> None:
    """Stop the private LDAP server, if it runs."""
    from statelesskit.directory import slapd

    if site.server.is_private:
        slapd.stop(site)


def site_status(site: Site) -> dict[str, Any]:
    """Return what is in a site and what runs for it."""
    from statelesskit.audit.listing import list_records
    from statelesskit.directory import open_directory, slapd
    from statelesskit.directory.replica import lags
    from statelesskit.prototype import list_prototypes
    from statelesskit.snapshot import list_snapshots

    running = slapd.status(site) if site.server.is_private else _existing(site)
    counts = {
        "prototypes": len(list_prototypes(site)),
        "snapshots": len(list_snapshots(site)),
        "records": len(list_records(site.records)),
    }
    if running.running:
        with open_directory(site, or_replica=True, any_version=True) as directory:
            counts |= {"channels": len(directory.channels()), "clients": len(directory.clients())}
    return {
        "site": str(site.root),
        "name": site.name,
        "directory": "running"
        if running.running
        else "not answering"
        if running.pid or not site.server.is_private
        else "stopped",
        "directory_pid": running.pid,
        "directory_since": f"{running.since:%Y-%m-%dT%H:%M:%SZ}" if running.since else None,
        "replicas": ", ".join(str(lag) for lag in lags(site)) or None,
        "ldapi": running.ldapi_uri,
        "ldaps": running.ldaps_uri,
        **counts,
    }


def _existing(site: Site) -> Status:
    from statelesskit.directory import open_directory
    from statelesskit.directory.slapd import Status

    try:
        open_directory(site, any_version=True).close()
    except DirectoryUnavailableError:
        return Status(running=False, pid=None, ldapi_uri="", ldaps_uri=site.server.uri)
    return Status(running=True, pid=None, ldapi_uri="", ldaps_uri=site.server.uri)


def port_in_use(port: int) -> bool:
    """Say whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise ConfigError(f"this user may not use port {port}", hint="choose one above 1023") from error
        except OSError:
            return True
    return False
