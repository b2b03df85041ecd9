"""A site on a server somebody else set up: looked at, told what it lacks, then used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from statelesskit.config import load_site
from statelesskit.directory import Client, open_directory
from statelesskit.directory.schema import ATTRIBUTES, CLASSES, compare, ds389_ldif
from statelesskit.directory.settings import settings_ldif
from statelesskit.errors import ExistsError, RefusedError
from statelesskit.site import server_rows
from tests.existing import ADMIN, BASE, SECRET, SUFFIX, Existing, existing_server, site_on

pytestmark = pytest.mark.slapd
OURS = f"cn=fleet,{SUFFIX}"  # an account that is no rootdn


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Existing]:
    """A server without our schema."""
    (tmp_path / "server").mkdir()
    with existing_server(tmp_path / "server") as server:
        yield server


def statelesskit(root: Path, *words: str, code: int | None = 0) -> str:
    argv = [sys.executable, "-m", "statelesskit", "--site", str(root), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert code in (None, done.returncode), done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.stdout + done.stderr


def rows(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def entries(server: Existing) -> list[str]:
    argv = ["ldapsearch", "-x", "-LLL", "-H", server.ldap, "-D", ADMIN, "-w", SECRET, "-b", SUFFIX, "dn"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("dn:")]


def test_from_nothing_to_a_running_site(server: Existing, tmp_path: Path) -> None:
    """What an admin does, in this order, with the texts the commands print."""
    root, secret = tmp_path / "site", tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    words = ["--ldap", server.ldaps, "--base-dn", BASE, "--bind-dn", OURS, "--password-file", str(secret)]
    words += ["--ca", str(server.ca), "--people", "ipa.example.org"]
    server.ldif(
        f"dn: {OURS}\nchangetype: add\nobjectClass: device\nobjectClass: simpleSecurityObject\nuserPassword: {SECRET}\n"
    )
    before = entries(server)

    assert server.ldaps in statelesskit(root, "site", "init", "--plan", *words)
    said = statelesskit(root, "site", "init", *words, code=7)
    assert "schema: lacks skPrototypeDN" in said
    assert "directory schema --form config | ldapadd" in said
    assert not (root / "site.toml").exists()
    assert entries(server) == before

    schema = statelesskit(root, "directory", "schema", "--form", "config")
    server.ldif(schema.replace("\n", "\nchangetype: add\n", 1), "-D", "cn=config")
    said = statelesskit(root, "site", "init", *words)
    assert "version 2 is loaded" in said
    assert "ipa.example.org" in said
    assert "directory settings --base-dn" in said
    assert entries(server) == before

    denied = statelesskit(root, "site", "start", code=7)
    assert "does not let us in: insufficientAccessRights" in denied
    settings = statelesskit(root, "directory", "settings", "--base-dn", BASE, "--admin", OURS)
    server.ldif(settings, "-c", "-D", "cn=config")
    statelesskit(root, "site", "start")
    statelesskit(root, "site", "start")
    assert f"dn: ou=clients,{BASE}" in entries(server)
    statelesskit(root, "client", "add", "c1", "--mode", "live", "--mac", "52:54:00:00:00:01")
    assert rows(statelesskit(root, "site", "status", "--json"))[0]["clients"] == 1
    assert not (root / "directory" / "slapd.conf").exists()
    assert "nothing of it runs here" in statelesskit(root, "site", "stop")
    looked = rows(statelesskit(root, "site", "doctor", "--json", code=None))
    states = {row["check"]: row["state"] for row in looked if row["check"].startswith("directory")}
    assert states["directory TLS"] == states["directory schema"] == states["directory version"] == "ok"
    found = rows(statelesskit(root, "directory", "check", "--json", code=None))
    # The settings are not shown to us, and nothing of its change log.
    assert [row["object"] for row in found] == ["client c1", "server settings", "directory"]
    kept = [path for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []

    with open_directory(load_site(root)) as directory:  # its overlays and our account's rights are what they should be
        with pytest.raises(ExistsError, match="belongs to client c1"):
            directory.add_client(Client("c2", "live", ("52:54:00:00:00:01",)))
        with pytest.raises(RefusedError, match="refused the change"):
            directory.ldap.add(
                f"cn=c3,ou=clients,{BASE}",
                {"objectClass": ["device", "skClient"], "skClientMode": ["x"]},
                "client",
                "c3",
            )


def test_what_is_readable_of_its_settings_is_said(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with existing_server(tmp_path / "server", ours=True, config_for=ADMIN) as server:
        site = site_on(server, tmp_path / "site")
        seen = {row["check"]: row for row in server_rows(site)}
        assert seen["schema"]["state"] == "ok"
        assert seen["version"]["found"] == f"{BASE} is not there yet"
        assert seen["people"]["state"] == "warning"
        assert "none for cn, entryCSN" in seen["indexes"]["found"]
        assert {"overlay unique", "overlay constraint", "access rules"} <= seen.keys()
        server.ldif(settings_ldif(BASE, ADMIN, "olcDatabase={1}mdb,cn=config"), "-c", "-D", "cn=config")
        assert not {"overlay unique", "overlay constraint", "access rules", "indexes", "settings"} & {
            row["check"] for row in server_rows(site)
        }


def test_the_wrong_options_are_named(tmp_path: Path) -> None:
    assert "--bind-dn is for an existing server" in statelesskit(
        tmp_path / "s", "site", "init", "--bind-dn", "x", code=2
    )
    words = ["--ldap", "ldaps://x.example", "--base-dn", BASE]
    assert "needs a bind_dn" in statelesskit(tmp_path / "s", "site", "init", *words, code=7)


def test_an_older_or_partial_schema_is_told_apart() -> None:
    attributes, classes = [one.render() for one in ATTRIBUTES], [one.render() for one in CLASSES]
    assert not compare(attributes, classes)
    assert compare(attributes[1:], classes).unknown == ("skPrototypeDN",)
    assert len(compare([], []).unknown) == len(ATTRIBUTES) + len(CLASSES)
    older = [text.replace(" $ skReferenceSnapshotDN", "") for text in classes]
    assert compare(attributes, older).older == ("skClient",)


def test_the_form_of_389_is_what_another_parser_reads() -> None:
    from ldap3.protocol.rfc4512 import AttributeTypeInfo, ObjectClassInfo

    head, *lines = ds389_ldif().splitlines()
    assert head == "dn: cn=schema"
    kinds = [line.partition(": ") for line in lines]
    types = [AttributeTypeInfo.from_definition([text]) for kind, _, text in kinds if kind == "attributeTypes"]
    classes = [ObjectClassInfo.from_definition([text]) for kind, _, text in kinds if kind == "objectClasses"]
    read = {one.name[0]: one for found in (*types, *classes) for one in found.values()}
    assert len(read) == len(kinds) == len(ATTRIBUTES) + len(CLASSES)
    for attribute in ATTRIBUTES:
        one = read[attribute.name]
        assert (one.single_value, one.syntax) == (not attribute.many, attribute.kind.value[2])
        assert one.extensions == [("X-ORIGIN", ["statelesskit"])]
    for item in CLASSES:
        assert set(read[item.name].may_contain) == set(item.may.split())
        assert set(read[item.name].must_contain) == set(item.must.split())
