"""Who may do what in the directory: roles as access rules of OpenLDAP (slapd.access(5)).

A role is a group under ``ou=roles``; only the administrator, whom no rule binds, changes one. Every
pusher is also in the group ``pushers``, which reads the fleet: a rule can name a prototype's own group
only where the prototype is part of the entry's name.

The rules want ``add_content_acl on``: then whoever adds an entry needs the right to each of its
attributes, so nobody adds what they could not write.
"""

from __future__ import annotations

import re

ROLES = ("operator", "pusher", "auditor", "reporter")
# What a push moves, and what its entry in the history says.
MOVED = "skSnapshotDN,skPreviousSnapshotDN,skSerial,skMovedBy,skMovedAt,skRecord"
PUSH = "entry,objectClass,cn,skCreated,skChannelDN,skSnapshotDN,skPreviousSnapshotDN,skSerial,skMovedBy,skRecord"
REPORTED = (
    "skRunningSnapshotDN,skCachedSnapshotDN,skLastSeen,skLastResult,skSerial,skManifestDigest,skOverlayBytes,"
    "skOverlayLimit,skLevel,skKey,skEnrolment"
)
ADD_ONLY = "=arscxd"  # read, and add what is not there; change and remove nothing
LOCAL_USER = "uidNumber=$1,cn=peercred,cn=external,cn=auth"  # who the peer of a unix socket is


def access_rules(base: str) -> list[str]:
    """Return the rules for the tree below ``base``, in the order slapd must hold them.

    They are written as ``olcAccess`` takes them, and slapd.conf after the word ``access``.
    """
    given, under, base = base, f",{_pattern(base)}$", inside_quotes(base)

    def by(rights: str, *roles: str) -> str:
        return " ".join(_by(given, rights, role) for role in roles)

    def pusher_of(rights: str) -> str:
        spelt = inside_quotes(_spelt(given)).replace("$", "$$")
        return f'by group.expand="cn=pushers-$1,ou=roles,{spelt}" {rights}'

    readers = by("read", "auditor", "pusher")
    everyone = by("read", *ROLES)
    operated = f"{by('write', 'operator')} {readers}"
    clients, status = f'"^cn=[^,]+,ou=clients{under}"', f'"^cn=status,cn=[^,]+,ou=clients{under}"'
    channels = f'"^cn=[^,]+,cn=([^,]+),ou=prototypes{under}" filter=(objectClass=skChannel)'
    pushes = f'"^cn=([^,/]+)/[^,/]+/[0-9]+,ou=pushes{under}"'
    return [
        f'to dn.subtree="{base}" attrs=userPassword by anonymous auth by * none',
        *(f'to dn.subtree="ou={name},{base}" {by("read", "operator", "auditor")}' for name in ("roles", "accounts")),
        # What clients report is added and changed by the report door, and never taken away by it.
        f"to dn.regex={clients} attrs=children {by('write', 'operator')} {by('add', 'reporter')}",
        f"to dn.regex={status} attrs={REPORTED} {by('write', 'reporter')} {operated}",
        f"to dn.regex={status} attrs=entry,objectClass,cn {by(ADD_ONLY, 'reporter')} {operated}",
        f'to dn.children="ou=clients,{base}" {operated} {by("read", "reporter")}',
        # A pusher moves the channels of one prototype and adds to the history, which operators do not rewrite either.
        f"to dn.regex={channels} attrs={MOVED} {pusher_of('write')} {operated}",
        f"to dn.regex={pushes} attrs={PUSH} {pusher_of(ADD_ONLY)} {by(ADD_ONLY, 'operator')} {readers}",
        f'to dn.base="ou=pushes,{base}" attrs=children {by("add", "operator", "pusher")}',
        f'to dn.children="ou=pushes,{base}" {by("read", "operator")} {readers}',
        # The folders stay; what else is in them is the operators'.
        f'to dn.one="{base}" attrs=children {by("write", "operator")}',
        f'to dn.one="{base}" {everyone}',
        *(f'to dn.children="ou={name},{base}" {operated}' for name in ("prototypes", "groups")),
        # Who has no role is told so, where others are told the version.
        f'to dn.base="{base}" {everyone} by * disclose',
        f'to dn.subtree="{base}" by * none',
    ]


def rules_beside(base: str) -> list[str]:
    """Return the rules for what is beside the tree: the server itself, and its change log (slapo-accesslog(5)).

    Auditors read the log, but no passwords in it.
    """
    everyone = " ".join(_by(base, "read", role) for role in ROLES)
    return [
        *(f'to dn.base="{dn}" {everyone} by * break' for dn in ("", "cn=Subschema")),
        'to dn.subtree="cn=changelog" attrs=reqMod val.regex="^userPassword:" by * none',
        'to dn.subtree="cn=changelog" attrs=reqOld val.regex="^userPassword:" by * none',
        f'to dn.subtree="cn=changelog" {_by(base, "read", "auditor")}',
    ]


def _by(base: str, rights: str, role: str) -> str:
    return f'by group.exact="cn={role}s,ou=roles,{inside_quotes(base)}" {rights}'


def inside_quotes(text: str) -> str:
    """Return a text as it stands between quotes in slapd's configuration."""
    return text.replace("\\", r"\\").replace('"', r"\"")


def _spelt(base: str) -> str:
    """Return a base as slapd can expand it: it takes a number after a backslash for a reference, and a space
    after a comma for one too many, so what has a meaning is escaped as itself (RFC 4514, section 2.4)."""
    from ldap3.utils.dn import parse_dn

    from statelesskit.directory.layout import unescape

    parts = [(kind.strip(), unescape(value)) for kind, value, _ in parse_dn(base, strip=True)]
    return ",".join(f"{kind}=" + re.sub(r'[ ,+"\\<>;=#]', r"\\\g<0>", value) for kind, value in parts)


def _pattern(base: str) -> str:
    """Return a pattern for a base as slapd writes it; it knows no UTF-8, so other characters fit any."""
    from ldap3.utils.dn import parse_dn

    rdns = [f"{kind.strip()}={value.strip()}".lower() for kind, value, _ in parse_dn(base, strip=True)]
    return ",".join(re.sub(r"[^a-z0-9=_ -]+", ".+", rdn) for rdn in rdns)
