"""What a directory server is and has, held against what a fleet needs of it. Reads only."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import ldap3

from statelesskit.config import Site
from statelesskit.directory import schema
from statelesskit.directory.conf import INDEXED, ldaps_uri
from statelesskit.directory.consistency import Finding, finding
from statelesskit.directory.layout import Layout
from statelesskit.directory.operations import Operations
from statelesskit.directory.session import look_at
from statelesskit.directory.tls import LEARN_DAYS, RENEW_DAYS, authorities, ca_certificate, signs_from
from statelesskit.errors import DirectoryUnavailableError, StatelessError
from statelesskit.names import printable

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory

PAGED = "1.2.840.113556.1.4.319"  # RFC 2696; without it no server answers for 100 000 clients
USEFUL = {  # what is used where it is there
    "1.3.6.1.4.1.4203.1.9.1.1": "replication by syncrepl (RFC 4533)",
}
OVERLAYS = {"unique": "two clients with one MAC address", "constraint": "values nothing can read"}
SUPPORTED = ("supportedControl", "supportedExtension", "supportedFeatures")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing looked at; ``state`` is ``ok``, ``warning`` or ``wrong``, and ``fix`` mends it."""

    check: str
    state: str
    found: str
    fix: str = ""


def server_facts(site: Site, ldap: Operations) -> Iterator[Fact]:
    """Yield one fact after the other about the server ``ldap`` is connected to.

    Raises:
        DirectoryUnavailableError: it stopped answering.
    """
    root = ldap.search("", "objectClass=*", ldap3.BASE, ["*", "+"])
    if not root:
        yield Fact("server", "wrong", "it tells us nothing about itself", "let us read its root DSE")
        return
    vendor = root[0].text("vendorName") or root[0].text("structuralObjectClass").removesuffix("ProotDSE") + "P"
    yield Fact("server", "ok", f"{printable(vendor)} at {site.server.uri or ldaps_uri(site)}")
    yield _tls(site)
    if site.server.is_private:
        yield _authority(site)
    supported = {oid for name in SUPPORTED for oid in root[0].texts(name)}
    if PAGED not in supported:
        yield Fact("paged results", "wrong", "the server has none", "use a server with the control of RFC 2696")
    known = [name for oid, name in USEFUL.items() if oid in supported]
    yield Fact("controls", "ok", ", ".join(known) or "none that would help")
    yield _schema(site, ldap, root[0].text("subschemaSubentry"))
    yield _version(site, ldap)
    yield from _settings(site, ldap)
    yield _people(site, ldap)


def server_findings(site: Site, directory: Directory) -> Iterator[Finding]:
    """Yield what of :func:`server_facts` is not as it should be, for ``directory check``.

    Where machines find people is none of its business; ``directory server`` says it.
    """
    for fact in server_facts(site, directory.ldap):
        if fact.state != "ok" and fact.check != "people":
            yield finding("server", fact.check, fact.found, fact.fix)


def lacks(ldap: Operations) -> schema.Lacks:
    """Return what the server's schema lacks."""
    root = ldap.search("", "objectClass=*", ldap3.BASE, ["subschemaSubentry"])
    return _lacks(ldap, root[0].text("subschemaSubentry") if root else "")


def _lacks(ldap: Operations, subschema: str) -> schema.Lacks:
    found = ldap.search(subschema or "cn=Subschema", "objectClass=*", ldap3.BASE, ["attributeTypes", "objectClasses"])
    if not found:
        raise DirectoryUnavailableError(
            "the server does not let us read its schema", hint="let the account of bind_dn read cn=Subschema"
        )
    return schema.compare(found[0].texts("attributeTypes"), found[0].texts("objectClasses"))


def how_to_load(site: Site, lacking: schema.Lacks) -> str:
    """Return the commands that bring a server's schema up to date."""
    if site.server.is_private:
        return f"statelesskit --site {site.root} site stop, then site start"
    if lacking.older or len(lacking.unknown) < len(schema.ATTRIBUTES):
        return (
            "on the server put the schema in place of the older one, with the server stopped: "
            "statelesskit directory schema --form config (OpenLDAP), --form 389ds (389 Directory Server)"
        )
    return (
        "OpenLDAP: statelesskit directory schema --form config | ldapadd -H ldapi:/// -Y EXTERNAL; "
        "389 Directory Server: statelesskit directory schema --form 389ds > "
        "/etc/dirsrv/slapd-INSTANCE/schema/99statelesskit.ldif, then dsctl INSTANCE restart"
    )


def _tls(site: Site) -> Fact:
    try:
        peer = look_at(site, site.server.uri or ldaps_uri(site))
    except StatelessError as error:
        return Fact("TLS", "wrong", error.message, error.hint)
    left = peer.expires_at - datetime.now(UTC)
    found = f"{peer.version}, certificate until {peer.expires_at:%Y-%m-%d}"
    if left > timedelta(days=RENEW_DAYS):
        return Fact("TLS", "ok", found)
    renew = (
        f"statelesskit --site {site.root} site stop, then site start" if site.server.is_private else "renew it there"
    )
    return Fact("TLS", "warning", f"{found}, that is {left.days} more days", renew)


def _authority(site: Site) -> Fact:
    """Say how long clients that trust the private CA will know the server, and whether they need a newer file."""
    *older, newest = authorities(site)
    found, switches = f"{ca_certificate(site)} until {newest.not_valid_after_utc:%Y-%m-%d}", signs_from(newest)
    if not older or switches < datetime.now(UTC) - timedelta(days=LEARN_DAYS):
        return Fact("CA", "ok", found)
    return Fact(
        "CA",
        "warning",
        f"{found}; of it the newest signs from {switches:%Y-%m-%d}",
        "before that day copy the file to all who have an older one: replicas, other hosts",
    )


def _schema(site: Site, ldap: Operations, subschema: str) -> Fact:
    try:
        lacking = _lacks(ldap, subschema)
    except DirectoryUnavailableError as error:
        return Fact("schema", "wrong", error.message, error.hint)
    if not lacking:
        return Fact("schema", "ok", f"version {schema.VERSION} is loaded")
    names = [*lacking.unknown, *(f"a newer {name}" for name in lacking.older)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Fact("schema", "wrong", f"lacks {', '.join(names[:3])}{more}", how_to_load(site, lacking))


def _version(site: Site, ldap: Operations) -> Fact:
    start = f"statelesskit --site {site.root} site start"
    entry = ldap.read(site.base_dn, "skDirectory")
    if entry is None:
        return Fact("version", "warning", f"{printable(site.base_dn)} is not there yet", start)
    found = entry.number("skSchemaVersion")
    if found < schema.VERSION:
        return Fact("version", "wrong", f"follows version {found}", f"statelesskit --site {site.root} site migrate")
    if found > schema.VERSION:
        return Fact("version", "wrong", f"follows version {found}, newer than we know", "use a newer statelesskit")
    return Fact("version", "ok", f"follows version {found}")


def _settings(site: Site, ldap: Operations) -> Iterator[Fact]:
    """What cn=config says, where we may read it: a private slapd has none, and most servers show it to nobody."""
    if site.server.is_private:
        return
    fix = (
        f"statelesskit directory settings --base-dn {shlex.quote(site.base_dn)} --admin "
        f"{shlex.quote(site.server.bind_dn or 'DN')}, for ldapmodify -c as the server's administrator"
    )
    try:
        config = ldap.search("cn=config", "|(objectClass=olcOverlayConfig)(objectClass=olcDatabaseConfig)")
    except StatelessError:
        config = []
    if not config:
        yield Fact("settings", "warning", "its indexes, overlays and access rules are not shown to us", fix)
        return
    ours = [one for one in config if any(_holds(suffix, site.base_dn) for suffix in one.texts("olcSuffix"))]
    there = {one.text("olcOverlay").partition("}")[2] or one.text("olcOverlay") for one in config}
    for name, against in OVERLAYS.items():
        if name not in there:
            yield Fact(f"overlay {name}", "warning", f"is not there; the server will let in {against}", fix)
    indexed = {name.lower() for one in ours for line in one.texts("olcDbIndex") for name in line.split()[0].split(",")}
    if missing := [name for name in INDEXED.split(",") if name.lower() not in indexed]:
        yield Fact("indexes", "warning", f"none for {', '.join(missing)}", fix)
    if not any("ou=roles" in rule for one in ours for rule in one.texts("olcAccess")):
        yield Fact("access rules", "warning", "none that know the roles", fix)


def _holds(suffix: str, base: str) -> bool:
    return base.lower().replace(" ", "").endswith(suffix.lower().replace(" ", ""))


def _people(site: Site, ldap: Operations) -> Fact:
    """Say where machines find people. That is not this directory's business; but somebody must have decided it."""
    if site.server.people:
        return Fact("people", "ok", f"machines find them at {printable(site.server.people)}, says site.toml")
    place = Layout(site.base_dn).folder("people")
    if ldap.search(place, "objectClass=*", ldap3.BASE):
        return Fact("people", "ok", f"are in {printable(place)}; SSSD needs ldap_search_base = that")
    return Fact(
        "people",
        "warning",
        "nothing says where machines find people and groups",
        'write under [directory] in site.toml what their SSSD asks, for example people = "ipa.example.org"',
    )
