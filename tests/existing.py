"""A directory server somebody else set up: slapd of cn=config, with a password, ldap:// and ldaps://."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from statelesskit.config import FOLDERS, Site, load_site, site_toml
from statelesskit.directory import tls
from statelesskit.directory.schema import config_ldif, openldap_schema
from statelesskit.fs import write_file
from tests.conftest import free_port

SECRET = "tHe-sEcReT-oF-tHe-sErVeR"
DEBIAN_RULES = "access to attrs=userPassword by self write by anonymous auth by * none\naccess to * by * read"
MISNAMED = "127.0.0.2"
SUFFIX = "o=example"
BASE = f"ou=fleet,{SUFFIX}"
ADMIN = f"cn=admin,{SUFFIX}"


@dataclass(frozen=True)
class Existing:
    """A running server."""

    folder: Path
    port: int
    tls_port: int
    issuer: Site

    @property
    def ldap(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def ldaps(self) -> str:
        return f"ldaps://127.0.0.1:{self.tls_port}"

    @property
    def ca(self) -> Path:
        return tls.ca_certificate(self.issuer)

    def ldif(self, text: str, *words: str) -> None:
        """Change it as its own administrator would."""
        argv = ["ldapmodify", "-x", "-H", self.ldap, *words, "-w", SECRET]
        argv += [] if "-D" in words else ["-D", ADMIN]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=30)
        wrong = [line for line in done.stderr.splitlines() if line.startswith("ldap_") and "value exists" not in line]
        assert done.returncode == 0 or ("-c" in words and not wrong), done.stderr

    def load_schema(self) -> None:
        """Load our schema as an administrator of cn=config does."""
        lines = config_ldif().splitlines()
        self.ldif("\n".join([lines[0], "changetype: add", *lines[1:]]) + "\n", "-D", "cn=config")


@contextmanager
def existing_server(folder: Path, *, extra: str = "", ours: bool = False, config_for: str = "") -> Iterator[Existing]:
    """Start one, with an entry for ``SUFFIX``.

    Args:
        extra: lines of its slapd.conf.
        ours: it has our schema.
        config_for: who may read its cn=config.
    """
    issuer = small_site(folder / "issuer", port=1)
    tls.ensure_certificates(issuer)
    server = Existing(folder, free_port(), free_port(), issuer)
    (folder / "data").mkdir()
    (folder / "conf.d").mkdir()
    (folder / "ours.schema").write_text(openldap_schema())
    identity = tls.server_identity(issuer)
    (folder / "slapd.conf").write_text(
        f"""\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
{f"include {folder}/ours.schema" if ours else ""}
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile {tls.ca_certificate(issuer)}
TLSCertificateFile {identity}
TLSCertificateKeyFile {identity}
TLSVerifyClient try
database config
rootdn cn=config
rootpw {SECRET}
{f'access to * by dn.exact="{config_for}" read' if config_for else ""}
database mdb
suffix {SUFFIX}
rootdn {ADMIN}
rootpw {SECRET}
directory {folder}/data
maxsize 104857600
index objectClass eq
{extra or DEBIAN_RULES}
"""
    )
    conf = ["-f", str(folder / "slapd.conf")]
    top = f"dn: {SUFFIX}\nobjectClass: organization\no: {SUFFIX.partition('=')[2]}\n"
    for argv in (["slapadd", *conf], ["slaptest", *conf, "-F", str(folder / "conf.d")]):
        done = subprocess.run(argv, input=top, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
    # Also where its certificate says it is not.
    places = [uri.replace("127.0.0.1", host) for uri in (server.ldap, server.ldaps) for host in ("127.0.0.1", MISNAMED)]
    argv = ["slapd", "-d", "0", "-F", str(folder / "conf.d"), "-h", " ".join(places)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            argv = ["ldapwhoami", "-x", "-H", server.ldap]
            if subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0:
                break
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def small_site(root: Path, *, port: int, base_dn: str = BASE, server: dict[str, str] | None = None) -> Site:
    """Return a site of folders and configuration alone."""
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True, mode=mode, exist_ok=True)
    (root / "site.toml").write_text(site_toml("test", base_dn, port, server))
    return load_site(root)


def site_on(server: Existing, root: Path, uri: str = "", **keys: str) -> Site:
    """Return a site that uses the server as its administrator, over ldaps unless told otherwise."""
    root.mkdir(parents=True, exist_ok=True)
    write_file(root / "password", f"{SECRET}\n".encode(), mode=0o600)
    words = {"uri": uri or server.ldaps, "ca_file": str(server.ca), "bind_dn": ADMIN, "password_file": "password"}
    return small_site(root, port=1, server=words | keys)
