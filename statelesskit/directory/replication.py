"""What slapd is told about replication: the provider whom to let copy all, a replica whom to follow (RFC 4533)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from statelesskit.config import Site
from statelesskit.directory.tls import ca_certificate, server_identity

# Who they are by their certificates, which only the site's own CA makes.
REPLICATOR = "replicator"  # a replica at its provider: reads everything, passwords of accounts too
READER = "reader"  # the site's commands at a replica: read the fleet


def replication_lines(site: Site, quoted: Callable[[str | Path], str]) -> list[str]:
    """Return the lines of slapd.conf that come after the main database's own and before its access rules."""
    if not site.server.provider:
        return [f'access to * by dn.exact="cn={REPLICATOR}" read by * break']
    identity, starttls = quoted(server_identity(site)), site.server.provider.startswith("ldap:")
    words = [
        "syncrepl rid=001",
        f"provider={site.server.provider}",
        "type=refreshAndPersist",
        'retry="1 30 5 +"',  # each second at first, then every five
        "network-timeout=5 keepalive=60:3:10",
        f"searchbase={quoted(site.base_dn)}",
        "bindmethod=sasl saslmech=EXTERNAL",
        "starttls=critical" if starttls else "",
        f"tls_cert={identity} tls_key={identity} tls_cacert={quoted(ca_certificate(site))} tls_reqcert=demand",
    ]
    return [
        f'access to attrs=userPassword by dn.exact="cn={READER}" none by * break',
        f'access to * by dn.exact="cn={READER}" read by * break',
        " ".join(filter(None, words)),
    ]
