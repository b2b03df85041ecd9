"""Every role by every operation on every kind of entry: tried with real binds, and slapacl asked as a witness."""

from __future__ import annotations

import dataclasses
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ldap3
import pytest

from statelesskit.audit.keys import create_record_key
from statelesskit.config import DirectoryServer, Site
from statelesskit.directory import Client, PrototypeEntry, SnapshotEntry, ber, conf, open_directory, slapd, tls
from statelesskit.directory.accounts import (
    account_dn,
    accounts,
    add_account,
    grant,
    members,
    remove_account,
    revoke,
    role_rows,
    roles_of,
)
from statelesskit.directory.link import Link
from statelesskit.directory.operations import Operations
from statelesskit.directory.pushes import pushes
from statelesskit.directory.server import server_facts
from statelesskit.directory.session import connect
from statelesskit.errors import (
    DirectoryUnavailableError,
    ExistsError,
    NameInvalidError,
    NotFoundError,
    StatelessError,
)
from tests.conftest import free_port
from tests.existing import small_site

pytestmark = pytest.mark.slapd

NOBODY = 65534
BASE = "ou=stateless"
AT = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
SNAPSHOT = "desktop-20261121T073000Z"
DESKTOP = f"cn=desktop,ou=prototypes,{BASE}"

# r: read, a: add one like it, m: modify, d: delete it.
MATRIX = """\
kind            operator  pusher:desktop  auditor  reporter  nobody
top             r         r               r        r         -
folder          r         r               r        r         -
prototype       ramd      r               r        -         -
snapshot        ramd      r               r        -         -
channel         ramd      rm              r        -         -
other_channel   ramd      r               r        -         -
channel_note    ramd      r               r        -         -
client          ramd      r               r        r         -
status          ramd      r               r        ram       -
status_class    ramd      r               r        ram       -
status_mac      ramd      r               r        ra        -
beside_status   ramd      r               r        r         -
group           ramd      r               r        -         -
push            ra        ra              r        -         -
other_push      ra        r               r        -         -
unnamed_push    r         r               r        -         -
role            r         -               r        -         -
account         r         -               r        -         -
password        -         -               -        -         -
"""
HEAD, *ROWS = [line.split() for line in MATRIX.splitlines()]
ROLES = HEAD[1:]
EXPECTED = {(kind, role): set(rights) - {"-"} for kind, *row in ROWS for role, rights in zip(ROLES, row, strict=True)}

Attributes = dict[str, list[str]]
CHANNEL: Attributes = {"objectClass": ["skChannel"], "skSerial": ["1"]}


def push_of(channel: str) -> Attributes:
    return {"objectClass": ["skPush"], "skCreated": ["20261123073000Z"], "skChannelDN": [channel]}


# An entry of each kind, and the attribute that is changed. "channel_note" and the like are the same entry again.
CLIENTS, GROUPS, PUSHES = f"ou=clients,{BASE}", f"ou=groups,{BASE}", f"ou=pushes,{BASE}"
STATUS: Attributes = {"objectClass": ["skClientStatus"], "skLastResult": ["ok"]}
KINDS: dict[str, tuple[str, Attributes, str, str]] = {
    "top": (BASE, {}, "description", "x"),
    "folder": (f"ou=more,{BASE}", {"objectClass": ["organizationalUnit"]}, "description", "x"),
    "prototype": (f"cn=server,ou=prototypes,{BASE}", {"objectClass": ["skPrototype"]}, "description", "x"),
    "snapshot": (
        f"cn={SNAPSHOT}-2,{DESKTOP}",
        {
            "objectClass": ["skSnapshot"],
            "skManifestDigest": ["sha256:" + "a" * 64],
            "skCreated": ["20261123073000Z"],
            "skSnapshotState": ["staged"],
        },
        "skSnapshotState",
        "revoked",
    ),
    "channel": (f"cn=stable,{DESKTOP}", CHANNEL, "skSnapshotDN", f"cn={SNAPSHOT},{DESKTOP}"),
    "other_channel": (f"cn=stable,cn=kiosk,ou=prototypes,{BASE}", CHANNEL, "skSnapshotDN", f"cn={SNAPSHOT},{DESKTOP}"),
    "channel_note": (f"cn=stable,{DESKTOP}", CHANNEL, "description", "x"),
    "client": (
        f"cn=c2,{CLIENTS}",
        {"objectClass": ["device", "skClient"], "skClientMode": ["live"]},
        "skChannelDN",
        f"cn=stable,{DESKTOP}",
    ),
    "status": (f"cn=status,cn=c1,{CLIENTS}", STATUS, "skLastResult", "failed"),
    "status_class": (f"cn=status,cn=c1,{CLIENTS}", STATUS, "objectClass", "ieee802Device"),
    # A class may come, but nothing that would take another client's MAC address.
    "status_mac": (
        f"cn=status,cn=c1,{CLIENTS}",
        {**STATUS, "objectClass": ["skClientStatus", "ieee802Device"]},
        "macAddress",
        "52:54:00:00:00:01",
    ),
    "beside_status": (f"cn=other,cn=c1,{CLIENTS}", STATUS, "skLastResult", "failed"),
    "group": (
        f"cn=lab,{GROUPS}",
        {"objectClass": ["groupOfNames", "skAssignment"], "member": [f"cn=c1,{CLIENTS}"]},
        "skPriority",
        "7",
    ),
    "push": (f"cn=desktop/stable/7,{PUSHES}", push_of(f"cn=stable,{DESKTOP}"), "skRecord", "x"),
    "other_push": (f"cn=kiosk/stable/7,{PUSHES}", push_of(f"cn=stable,{DESKTOP}"), "skRecord", "x"),
    "unnamed_push": (f"cn=seven,{PUSHES}", push_of(f"cn=stable,{DESKTOP}"), "description", "x"),
    "role": (
        f"cn=pushers-x,ou=roles,{BASE}",
        {"objectClass": ["groupOfNames"], "member": [f"cn=operator,ou=accounts,{BASE}"]},
        "member",
        f"cn=nobody,ou=accounts,{BASE}",
    ),
    "account": (
        f"cn=more,ou=accounts,{BASE}",
        {"objectClass": ["device", "simpleSecurityObject"], "userPassword": ["x"]},
        "description",
        "x",
    ),
    "password": (
        f"cn=more,ou=accounts,{BASE}",
        {"objectClass": ["device", "simpleSecurityObject"], "userPassword": ["x"]},
        "userPassword",
        "y",
    ),
}


def name_of(role: str) -> str:
    return role.replace(":", "-")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A private directory with a small fleet, and an account for each role."""
    site = small_site(tmp_path_factory.mktemp("access") / "site", port=free_port(), base_dn=BASE)
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            for prototype in ("desktop", "kiosk"):
                directory.add_prototype(PrototypeEntry(prototype))
            directory.add_snapshot(SnapshotEntry(SNAPSHOT, "desktop", f"sha256:{'b' * 64}", "released", AT))
            directory.add_client(Client("c1", "live"))
            for role in ROLES:
                add_account(directory, name_of(role), site.root / name_of(role))
                if role != "nobody":
                    grant(directory, role, name_of(role))
        yield site
    finally:
        slapd.stop(site)


def as_role(site: Site, role: str) -> Site:
    """Return the site as somebody with a role sees it: through the network, with a password."""
    server = DirectoryServer(
        uri=conf.ldaps_uri(site),
        ca_file=tls.ca_certificate(site),
        bind_dn=f"cn={name_of(role)},ou=accounts,{BASE}",
        password_file=name_of(role),
    )
    return dataclasses.replace(site, server=server)


def linked(site: Site) -> Operations:
    return Operations(Link(lambda: connect(site), 1))


def try_all(site: Site, role: str, kind: str) -> set[str]:
    """Return what a role can do to an entry of a kind; all is as before afterwards."""
    dn, attributes, changed, value = KINDS[kind]
    with closing(linked(site)) as admin, closing(linked(as_role(site, role))) as ours:

        def present() -> bool:
            return bool(admin.search(dn, "objectClass=*", ldap3.BASE))

        can = set()
        if attributes:
            assert not present()
            with suppress(StatelessError):
                ours.add(dn, attributes, "entry", dn)
                can.add("a")
            assert present() is ("a" in can)
            if "a" not in can:
                admin.add(dn, attributes, "entry", dn)
        with suppress(StatelessError):
            found = ours.search(dn, "objectClass=*", ldap3.BASE)
            wanted = "objectClass" if kind != "password" else "userPassword"
            can |= {"r"} if found and found[0].values.get(wanted) else set()
        kept = admin.search(dn, "objectClass=*", ldap3.BASE)[0].texts(changed)
        how = ldap3.MODIFY_ADD if changed == "objectClass" else ldap3.MODIFY_REPLACE
        with suppress(StatelessError):
            assert ours.modify(dn, {changed: [(how, [value])]})
            can.add("m")
        now = admin.search(dn, "objectClass=*", ldap3.BASE)[0].texts(changed)
        assert (value in now) is ("m" in can)
        admin.modify(dn, {changed: [(ldap3.MODIFY_REPLACE, kept)]})
        if attributes:
            with suppress(StatelessError):
                ours.delete(dn)
                can |= set() if present() else {"d"}
            admin.delete(dn)
        return can


@pytest.mark.parametrize("role", ROLES)
def test_each_role_can_do_what_is_its_own(world: Site, role: str) -> None:
    found = {kind: try_all(world, role, kind) for kind in KINDS}
    expected = {kind: EXPECTED[kind, role] for kind in KINDS}
    if role != "nobody":
        expected["status_class"] |= {"d"} if role == "operator" else set()  # the same entry as "status"
    assert found == expected


@pytest.mark.parametrize("role", ROLES)
def test_slapacl_agrees(world: Site, role: str) -> None:
    dns = {}
    with closing(linked(world)) as admin:
        for dn, attributes, _, _ in KINDS.values():
            if attributes and dn not in dns:
                admin.add(dn, attributes, "entry", dn)
                dns[dn] = attributes
        try:
            for kind, (dn, attributes, changed, _) in KINDS.items():
                expected = EXPECTED[kind, role]
                read = "objectClass" if kind != "password" else "userPassword"
                assert allowed(world, role, dn, "entry/read", f"{read}/read") is ("r" in expected), kind
                change = f"{changed}/{'add' if changed == 'objectClass' else 'write'}"
                assert allowed(world, role, dn, change) is ("m" in expected), kind
                if attributes:
                    above = dn.partition(",")[2]
                    adding = [f"{name}/add" for name in ("entry", *attributes)]
                    may_add = allowed(world, role, dn, *adding) and allowed(world, role, above, "children/add")
                    assert may_add is ("a" in expected), kind
                    gone = allowed(world, role, dn, "entry/delete") and allowed(world, role, above, "children/delete")
                    assert gone is ("d" in expected), kind
        finally:
            for dn in dns:
                admin.delete(dn)


def allowed(site: Site, role: str, dn: str, *rights: str) -> bool:
    who = f"cn={name_of(role)},ou=accounts,{BASE}"
    argv = ["slapacl", "-f", str(conf.conf_file(site)), "-D", who, "-b", dn, *rights]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in done.stderr.splitlines() if line.endswith((": ALLOWED", ": DENIED"))]
    assert len(said) == len(rights), done.stderr
    return all(line.endswith("ALLOWED") for line in said)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_beside_the_tree(world: Site, role: str) -> None:
    with closing(linked(as_role(world, role))) as ours:

        def reads(dn: str, *attributes: str) -> bool:
            with suppress(StatelessError):
                return bool(ours.search(dn, "objectClass=*", ldap3.BASE, attributes))
            return False

        assert reads("", "supportedExtension") is (role != "nobody")
        assert reads("cn=Subschema", "objectClasses") is (role != "nobody")
        found = []
        with suppress(StatelessError):
            found = ours.search("cn=changelog", "objectClass=auditWriteObject", attributes=["reqMod", "reqOld"])
        assert bool(found) is (role == "auditor")
        said = [line for entry in found for name in ("reqMod", "reqOld") for line in entry.texts(name)]
        assert not [line for line in said if "userPassword" in line or "SSHA" in line]
        if role != "nobody":
            assert [fact for fact in server_facts(as_role(world, role), ours) if fact.state == "wrong"] == []
            change = {"description": [(ldap3.MODIFY_REPLACE, ["by many"])]}
            refused = ours.change_all([ber.modify(f"cn=c1,{CLIENTS}", change)], lambda _: None)
            assert bool(refused) is (role != "operator")


def test_the_change_log_has_passwords_that_the_auditor_does_not_see(world: Site) -> None:
    with closing(linked(world)) as admin:
        found = admin.search("cn=changelog", "objectClass=auditAdd", attributes=["reqMod"])
        assert [line for entry in found for line in entry.texts("reqMod") if line.startswith("userPassword:+ {SSHA}")]
        line = found[0].dn
        found_whole = admin.search(line, "objectClass=auditAdd", ldap3.BASE)[0].values
    for role in ROLES:
        with closing(linked(as_role(world, role))) as ours:
            with suppress(StatelessError):
                assert not ours.delete(line)
            with suppress(StatelessError):
                assert not ours.modify(line, {"reqMod": [(ldap3.MODIFY_REPLACE, ["x"])]})
    with closing(linked(world)) as admin:
        assert admin.search(line, "objectClass=auditAdd", ldap3.BASE)[0].values == found_whole


# --- accounts and roles themselves -------------------------------------------------------------


def test_who_has_no_role_is_told_so(world: Site) -> None:
    with pytest.raises(DirectoryUnavailableError, match="does not let us in: insufficientAccessRights") as refused:
        open_directory(as_role(world, "nobody"))
    assert "directory grant" in refused.value.hint


def test_a_role_is_given_and_taken(world: Site) -> None:
    with open_directory(world) as directory:
        add_account(directory, "anna", world.root / "anna")
        assert stat.S_IMODE((world.root / "anna").stat().st_mode) == 0o600
        for again in range(2):
            for role in ("pusher:desktop", "pusher:kiosk", "auditor"):
                grant(directory, role, "anna")
            assert roles_of(directory, "anna") == ["auditor", "pusher:desktop", "pusher:kiosk"], again
        assert {"role": "auditor", "account": "anna"} in role_rows(directory)
        revoke(directory, "pusher:kiosk", "anna")
        assert "pushers-kiosk" not in members(directory)
        assert account_dn(directory, "anna") in members(directory)["pushers"]
        revoke(directory, "pusher:desktop", "anna")
        assert account_dn(directory, "anna") not in members(directory)["pushers"]
        remove_account(directory, "anna")
        remove_account(directory, "anna")
        assert roles_of(directory, "anna") == []
        assert "anna" not in accounts(directory)
        with pytest.raises(ExistsError, match="is there already"):
            add_account(directory, "anna", world.root / "anna")
    with pytest.raises(DirectoryUnavailableError, match="invalidCredentials"):
        connect(as_role(world, "anna"))


def test_roles_of_hosts_users_and_certificates(world: Site) -> None:
    with open_directory(world) as directory:
        for account in ("user:nobody", "uid:04242", "dn:CN=Night, O=Example"):
            grant(directory, "auditor", account)
        rows = [row["account"] for row in role_rows(directory) if row["role"] == "auditor"]
        assert {f"uid:{NOBODY}", "uid:4242"} < set(rows)
        for account in ("uid:65534", "uid:4242", "dn:cn=night,o=example"):
            assert roles_of(directory, account) == ["auditor"]
            revoke(directory, "auditor", account)
            assert roles_of(directory, account) == []


def test_a_certificate_of_the_sites_ca_is_an_account(world: Site) -> None:
    identity = world.root / "night.pem"
    tls.make_identity(world, identity, "night")
    server = DirectoryServer(uri=conf.ldaps_uri(world), certificate_file=identity, key_file=identity)
    server = dataclasses.replace(server, ca_file=tls.ca_certificate(world))
    night = dataclasses.replace(world, server=server)
    with open_directory(world) as directory:
        with pytest.raises(DirectoryUnavailableError, match="insufficientAccessRights"):
            open_directory(night)
        grant(directory, "pusher:desktop", "dn:CN=night")
        with open_directory(night) as theirs:
            assert [one.name for one in theirs.clients()] == ["c1"]
            revoke(directory, "pusher:desktop", "dn:cn=Night")
            with pytest.raises(DirectoryUnavailableError):  # at once, over the same connection
                theirs.clients()
        with pytest.raises(DirectoryUnavailableError, match="insufficientAccessRights"):
            open_directory(night)


@pytest.mark.parametrize("account", ["user:no such one", "user:a\0b"])
def test_a_user_this_host_has_not(world: Site, account: str) -> None:
    with open_directory(world) as directory, pytest.raises(NotFoundError):
        account_dn(directory, account)


@pytest.mark.parametrize(
    "account", ["", "An na", "a,ou=roles", "uid:", "uid:-1", "uid:x", "dn:", "dn:x", "dn:cn=a\n", "x:y"]
)
def test_what_is_no_account(world: Site, account: str) -> None:
    with open_directory(world) as directory, pytest.raises(NameInvalidError):
        account_dn(directory, account)


@pytest.mark.parametrize("role", ["", "operators", "pusher", "pusher:", "pusher:a,b", "operator:x", "admin"])
def test_what_is_no_role(world: Site, role: str) -> None:
    with open_directory(world) as directory, pytest.raises(NameInvalidError):
        grant(directory, role, "nobody")


@pytest.mark.root
def test_a_user_of_this_host_uses_the_socket() -> None:
    root = Path(tempfile.mkdtemp(prefix="statelesskit-test-"))
    root.chmod(0o755)
    site = small_site(root / "site", port=free_port(), base_dn=BASE)
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            directory.add_client(Client("c1", "live"))
        argv = ["ldapsearch", "-Q", "-LLL", "-Y", "EXTERNAL", "-H", conf.ldapi_uri(site), "-b", f"cn=c1,{CLIENTS}"]

        def found() -> bool:
            done = subprocess.run(argv, user=NOBODY, capture_output=True, text=True, timeout=60, check=False)
            return "skClientMode: live" in done.stdout

        assert not found()
        with open_directory(site) as directory:
            grant(directory, "reporter", f"uid:{NOBODY}")
            assert found()
            revoke(directory, "reporter", f"uid:{NOBODY}")
            assert not found()
        # The socket cannot be taken away or replaced, and nothing else in its folder can be reached.
        script = (
            "import os, sys\n"
            "for what in (lambda: os.unlink(sys.argv[1] + '/ldapi'), lambda: open(sys.argv[1] + '/new', 'w'),\n"
            "             lambda: os.listdir(sys.argv[1]), lambda: os.listdir(sys.argv[1] + '/data'),\n"
            "             lambda: open(sys.argv[1] + '/server.pem'), lambda: open(sys.argv[1] + '/slapd.conf'),\n"
            "             lambda: open(sys.argv[1] + '/slapd.log')):\n"
            "    try: what()\n"
            "    except PermissionError: continue\n"
            "    sys.exit('it could')\n"
        )
        subprocess.run(["/usr/bin/python3", "-c", script, str(site.directory)], user=NOBODY, check=True, timeout=60)
    finally:
        slapd.stop(site)
        shutil.rmtree(root)


# --- the commands ------------------------------------------------------------------------------


def test_commands_never_print_the_password(world: Site) -> None:
    def run(*words: str, code: int = 0) -> str:
        argv = [sys.executable, "-m", "statelesskit", "--site", str(world.root), "directory", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    create_record_key(world.keys)
    said = run("account", "add", "--plan", "nightly") + run("account", "add", "nightly")
    secret = (world.keys / "account-nightly").read_text().strip()
    assert len(secret) == 43
    said += run("account", "add", "nightly", code=2) + run("grant", "pusher:desktop", "nightly")
    said += run("grant", "pusher:desktop", "nightly") + run("grant", "auditor", "nobody-there", code=2)
    assert '{"account":"nightly","role":"pusher:desktop"}' in run("roles", "--json").replace(" ", "")
    said += run("revoke", "pusher:desktop", "nightly") + run("account", "remove", "nightly")
    assert not (world.keys / "account-nightly").exists()
    records = b"".join(path.read_bytes() for path in world.records.rglob("*") if path.is_file())
    assert b"nightly" in records
    assert secret not in said
    assert secret.encode() not in records + conf.log_file(world).read_bytes()


@pytest.mark.parametrize(
    "base", ["OU = Stateless , o=Café", "o=Größe\\, Ltd,c=DE", "dc=a-b,dc=x_y", "ou=a.b (c) x,o=z"]
)
def test_roles_hold_below_any_base(site: Site, base: str) -> None:
    site = dataclasses.replace(site, base_dn=base)
    slapd.start(site)
    try:
        with open_directory(site) as directory:
            directory.bootstrap()
            for prototype in ("desktop", "kiosk"):
                directory.add_prototype(PrototypeEntry(prototype))
                name = f"{prototype}-20261121T073000Z"
                directory.add_snapshot(SnapshotEntry(name, prototype, f"sha256:{'b' * 64}", "released", AT))
                directory.add_channel(f"{prototype}/stable", name, moved_by="anna", moved_at=AT, record="r1")
            directory.add_client(Client("c1", "live"))
            for role in ("pusher:desktop", "reporter"):
                add_account(directory, name_of(role), site.root / name_of(role))
                grant(directory, role, name_of(role))
            place = directory.layout.account
            as_them = {
                role: dataclasses.replace(
                    site, server=dataclasses.replace(as_role(site, role).server, bind_dn=place(name_of(role)))
                )
                for role in ("pusher:desktop", "reporter")
            }
            status = f"cn=status,{directory.layout.client('c1')}"
        move: dict[str, Any] = {"serial": 1, "moved_by": "ben", "moved_at": AT, "record": "r2"}
        with open_directory(as_them["pusher:desktop"]) as directory:
            directory.move_channel("desktop/stable", to="desktop-20261121T073000Z", **move)
            with pytest.raises(StatelessError, match="insufficientAccessRights"):
                directory.move_channel("kiosk/stable", to="kiosk-20261121T073000Z", **move)
            assert [one.serial for one in pushes(directory, "desktop/stable")] == [1, 2]
            with pytest.raises(StatelessError, match="insufficientAccessRights"):
                directory.remove_client("c1")
        with open_directory(as_them["reporter"]) as directory:
            directory.ldap.add(status, STATUS, "status", "c1")
            with pytest.raises(StatelessError, match="insufficientAccessRights"):
                directory.ldap.delete(status)
    finally:
        slapd.stop(site)
