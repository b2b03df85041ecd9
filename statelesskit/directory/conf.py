"""The private slapd's files: its configuration, schema, data folder and socket."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from statelesskit.config import Site
from statelesskit.directory.access import LOCAL_USER, access_rules, rules_beside
from statelesskit.directory.listening import check_socket_folder, socket_file
from statelesskit.directory.model import MODES, STATES
from statelesskit.directory.replication import replication_lines
from statelesskit.directory.schema import openldap_schema
from statelesskit.directory.tls import ca_certificate, ensure_certificates, server_identity
from statelesskit.errors import ConfigError, MissingToolError
from statelesskit.fs import fsync_folder, write_file
from statelesskit.names import printable

CHANGELOG = "cn=changelog"  # the suffix of the change log's own database
LOOPBACK = "127.0.0.1"
SOCKET_FOLDER = 0o711  # local users with a role reach the socket, and change nothing beside it
MODULES = Path("/usr/lib/ldap")  # where Debian's slapd keeps them
SCHEMAS = Path("/etc/ldap/schema")
MAP_SIZE = 4 << 30  # address space the database may grow into; disk is used as it fills
CHANGELOG_SIZE = 16 << 30  # the same for the change log; when it is full, changes go on and are not logged
# TLS 1.2 and 1.3. Debian's slapd is built with GnuTLS, with which TLSProtocolMin does nothing (measured).
TLS_PRIORITIES = "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

# nis.schema brings ieee802Device and bootableDevice, and needs the two before it.
BASE_SCHEMAS = ("core", "cosine", "nis")
INDEXED = (
    "objectClass,cn,entryCSN,entryUUID,macAddress,skHardwareUUID,skChannelDN,skSnapshotDN,skPrototypeDN,"
    "skClientMode,skRunningSnapshotDN"
)
NAMING = ("cn", "ou", "dc", "o", "uid")  # what entries here are named by
# Checked by the server too: entries also come from ldapadd and from other tools.
CONSTRAINTS = {
    "macAddress": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$",
    "skClientMode": f"^({'|'.join(MODES)})$",
    "skManifestDigest": "^sha256:[0-9a-f]{64}$",
    "skSnapshotState": f"^({'|'.join(STATES)})$",
}


def prepare(site: Site) -> None:
    """Write all the files the private slapd needs; what is already right is not touched.

    Raises:
        ConfigError: ``base_dn`` or a path of the site cannot be written into a configuration.
        MissingToolError: slapd's own schemas are not installed.
    """
    from statelesskit.directory.layout import Layout

    Layout(site.base_dn)  # says what is wrong with a DN better than slapd does
    for schema in BASE_SCHEMAS:
        if not (SCHEMAS / f"{schema}.schema").exists():
            raise MissingToolError(f"{SCHEMAS / schema}.schema is not there", hint="apt-get install slapd")
    for folder in (data_folder(site), changelog_folder(site)):
        if not folder.exists():
            folder.mkdir(mode=0o700)
            fsync_folder(folder.parent)
    if not site.server.provider:  # a replica has its certificate from its provider's site, which has the CA
        ensure_certificates(site)
    _write_if_new(schema_file(site), openldap_schema())
    _write_if_new(conf_file(site), slapd_conf(site))
    _make_socket_folder(site)


def conf_file(site: Site) -> Path:
    """Return the configuration's real path, by which we know our own process again."""
    return site.directory.resolve() / "slapd.conf"


def schema_file(site: Site) -> Path:
    return site.directory / "statelesskit.schema"


def data_folder(site: Site) -> Path:
    return site.directory / "data"


def filled(site: Site) -> tuple[int, int]:
    """Return how many bytes the private slapd's database takes on disk, and how many it may; freed ones are reused."""
    return (data_folder(site) / "data.mdb").stat().st_blocks * 512, MAP_SIZE


def changelog_folder(site: Site) -> Path:
    return site.directory / "changelog"


def pid_file(site: Site) -> Path:
    return site.directory / "slapd.pid"


def log_file(site: Site) -> Path:
    return site.directory / "slapd.log"


def ldaps_uri(site: Site) -> str:
    return f"ldaps://{LOOPBACK}:{site.port}"


def ldapi_uri(site: Site) -> str:
    return "ldapi://" + quote(str(socket_file(site)), safe="")


def admin_dn(site: Site) -> str:
    """Return as whom root and the site's owner act on the private server; no entry has that name."""
    return f"cn=admin,{site.base_dn}"


def _make_socket_folder(site: Site) -> None:
    folder = socket_file(site).parent
    if folder.parent == Path("/run/statelesskit"):
        folder.parent.mkdir(mode=0o755, exist_ok=True)
    folder.mkdir(mode=SOCKET_FOLDER, exist_ok=True)
    check_socket_folder(site)
    folder.chmod(SOCKET_FOLDER)  # sites made before there were roles let nobody in


def slapd_conf(site: Site, folder: Path | None = None) -> str:
    """Return the configuration's text, for databases in another folder that are being loaded if one is given.

    The administrator has no password: slapd maps the peers of its unix socket that are root or the
    site's owner to it. Everybody else may do what a role lets them. Snapshots are not guarded by
    refint, which would silently empty the pointers to one that is deleted.
    """
    # What is being loaded is flushed once, when it is whole.
    loading = ["dbnosync"] if folder else []
    folder = folder or site.directory
    base, admin = site.base_dn, admin_dn(site)
    uids = "|".join(str(uid) for uid in sorted({0, site.root.stat().st_uid}))
    lines = ["# Made by statelesskit; changes here are overwritten at the next start."]
    lines += [f"include {_quoted(SCHEMAS / f'{name}.schema')}" for name in BASE_SCHEMAS]
    lines += [
        f"include {_quoted(schema_file(site))}",
        f"pidfile {_quoted(pid_file(site))}",
        "loglevel none",
        f"modulepath {_quoted(MODULES)}",
        *(f"moduleload {module}" for module in ("back_mdb", "unique", "constraint", "accesslog")),
        "moduleload syncprov",
        f"TLSCACertificateFile {_quoted(ca_certificate(site))}",
        f"TLSCertificateFile {_quoted(server_identity(site))}",
        f"TLSCertificateKeyFile {_quoted(server_identity(site))}",
        f'TLSCipherSuite "{TLS_PRIORITIES}"',
        "TLSVerifyClient try",  # replicas, and accounts that are certificates, say who they are by one
        "disallow bind_anon",
        "require authc",
        # slapd reads \\ as one backslash, and the pattern needs one: the + stands for itself.
        rf'authz-regexp "^gidNumber=[0-9]+\\+uidNumber=({uids}),cn=peercred,cn=external,cn=auth$" {_quoted(admin)}',
        # Other local users are who their number says, whatever their group.
        rf'authz-regexp "^gidNumber=[0-9]+\\+uidNumber=([0-9]+),cn=peercred,cn=external,cn=auth$" "{LOCAL_USER}"',
        "sizelimit unlimited",
        "timelimit unlimited",
        *(f"access {rule}" for rule in rules_beside(base)),
        f"access to * by dn.exact={_quoted(admin)} manage by * none",
        "database mdb",
        f"suffix {_quoted(CHANGELOG)}",
        f"rootdn {_quoted(admin)}",
        f"directory {_quoted(folder / changelog_folder(site).name)}",
        f"maxsize {CHANGELOG_SIZE}",
        *loading,
        "index objectClass,entryCSN,reqStart,reqDN,reqEntryUUID eq",
        "database mdb",
        f"suffix {_quoted(base)}",
        f"rootdn {_quoted(admin)}",
        f"directory {_quoted(folder / data_folder(site).name)}",
        f"maxsize {MAP_SIZE}",
        *loading,
        f"index {INDEXED} eq",
        *replication_lines(site, _quoted),
        "add_content_acl on",
        *(f"access {rule}" for rule in access_rules(base)),
        "overlay unique",
        f'unique_uri "serialize ldap:///{quote(base, safe="=,")}?macAddress?sub"',
        "overlay constraint",
        *(f'constraint_attribute {name} regex "{pattern}"' for name, pattern in CONSTRAINTS.items()),
        "overlay syncprov",
        "syncprov-checkpoint 100 10",
        *([] if site.server.provider else _changelog_lines(site)),  # its provider has it
    ]
    return "\n".join(lines) + "\n"


def _changelog_lines(site: Site) -> list[str]:
    lines = [
        "overlay accesslog",
        f"logdb {_quoted(CHANGELOG)}",
        "logops writes",
        "logsuccess TRUE",
        "logold (objectClass=*)",
        f"logoldattr {' '.join(NAMING)} entryCSN modifiersName modifyTimestamp",  # all a rename changes
    ]
    return [*lines, f"logpurge {site.keep_changes_days}+00:00 1+00:00"] if site.keep_changes_days else lines


def _quoted(word: str | Path) -> str:
    text = str(word.absolute() if isinstance(word, Path) else word)  # slapd stands in another folder
    if not text.isprintable():
        raise ConfigError(f"slapd cannot be told of {printable(text)!r}", hint="use a path of printable characters")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_if_new(path: Path, text: str) -> None:
    data = os.fsencode(text)
    if not path.exists() or path.read_bytes() != data:
        write_file(path, data, mode=0o600)
