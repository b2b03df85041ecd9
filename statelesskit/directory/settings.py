"""What an existing OpenLDAP should be told about our part of its tree, as LDIF for cn=config."""

from __future__ import annotations

import base64
from urllib.parse import quote

from ldap3.utils.dn import parse_dn

from statelesskit.directory.access import access_rules, inside_quotes
from statelesskit.directory.conf import CONSTRAINTS, INDEXED
from statelesskit.directory.layout import Layout

HEAD = """\
# For `ldapmodify -c`: what is there already is passed over.
# The access rules are put before the database's own. If it has none yet, so that all may read all, give it
# some first: with ours alone nobody would get at the rest of its tree.
"""


def settings_ldif(base: str, admin: str, database: str) -> str:
    """Return LDIF for ``ldapmodify -c``: indexes, access rules, and overlays that refuse what cannot be right.

    The rules come before those that are there, and decide about our part and nothing else.

    Args:
        admin: the account the site uses as the directory's administrator.
        database: DN of the database's entry, ``olcDatabase={1}mdb,cn=config``.

    Raises:
        ConfigError: ``base`` is no DN a site can stand on.
    """
    Layout(base)
    by_admin = f'by dn.exact="{inside_quotes(admin)}"'
    own = [f'to dn.subtree="{inside_quotes(base)}" {by_admin} write by * break']
    if above := ",".join(f"{kind}={value}" for kind, value, _ in parse_dn(base)[1:]):
        # What it may add below that is still ours alone.
        own.append(f'to dn.base="{inside_quotes(above)}" attrs=children {by_admin} add by * break')
    unique = f"serialize ldap:///{quote(base, safe='=,')}?macAddress?sub"
    parts = [
        # One by one: with `ldapmodify -c` what is there already is passed over, and nothing else with it.
        *(_modify("cn=module{0},cn=config", "olcModuleLoad", [name]) for name in ("unique", "constraint")),
        *(_modify(database, "olcDbIndex", [f"{name} eq"]) for name in INDEXED.split(",")),
        _modify(database, "olcAddContentAcl", ["TRUE"], how="replace"),
        _modify(
            database, "olcAccess", [f"{{{place}}}{rule}" for place, rule in enumerate([*own, *access_rules(base)])]
        ),
        _add(f"olcOverlay=unique,{database}", "olcUniqueConfig", "unique", "olcUniqueURI", [unique]),
        _add(
            f"olcOverlay=constraint,{database}",
            "olcConstraintConfig",
            "constraint",
            "olcConstraintAttribute",
            [f'{name} regex "{pattern}"' for name, pattern in CONSTRAINTS.items()],
        ),
    ]
    return HEAD + "\n".join(parts)


def _modify(dn: str, name: str, values: list[str], how: str = "add") -> str:
    return (
        "\n".join([f"dn: {dn}", "changetype: modify", f"{how}: {name}", *(_line(name, one) for one in values)]) + "\n"
    )


def _add(dn: str, kind: str, overlay: str, name: str, values: list[str]) -> str:
    lines = [f"dn: {dn}", "changetype: add", f"objectClass: {kind}", f"olcOverlay: {overlay}"]
    return "\n".join([*lines, *(_line(name, one) for one in values)]) + "\n"


def _line(name: str, value: str) -> str:
    """Return a line of LDIF; what is not plain ASCII is encoded (RFC 2849)."""
    if value.isascii() and value.isprintable():
        return f"{name}: {value}"
    return f"{name}:: {base64.b64encode(value.encode()).decode()}"
