"""What site.toml may say of the directory's server."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelesskit.config import DirectoryServer, Site, load_site, site_toml
from statelesskit.errors import ConfigError

BIND = {"uri": "ldaps://ldap.example", "bind_dn": "cn=fleet,o=x", "password_file": "/etc/secret"}


def site_with(tmp_path: Path, server: dict[str, str], base_dn: str = "ou=stateless") -> Site:
    (tmp_path / "site.toml").write_text(site_toml("test", base_dn, 6360, server), encoding="utf-8")
    return load_site(tmp_path)


def test_without_a_word_the_server_is_private(tmp_path: Path) -> None:
    assert site_with(tmp_path, {}).server == DirectoryServer()
    assert DirectoryServer().is_private


def test_an_existing_server(tmp_path: Path) -> None:
    site = site_with(tmp_path, BIND | {"ca_file": "keys/ca.pem"})
    expected = DirectoryServer(**BIND, ca_file=tmp_path / "keys/ca.pem")  # type: ignore[arg-type]
    assert site.server == expected
    assert not site.server.is_private


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"uri": "http://ldap.example"}, "is no server"),
        ({"uri": "ldaps://"}, "is no server"),
        ({"uri": "ldapi://%2Ftmp%2Fldapi"}, "is no server"),
        ({"uri": "ldaps://ldap.example:port"}, "is no server"),
        ({"uri": "ldaps://anna:secret@ldap.example"}, "holds an @"),
        ({"uri": "ldaps://ldap.example/o=x??sub"}, "is no server"),
        ({"password_file": ""}, "go together"),
        ({"bind_dn": ""}, "go together"),
        ({"bind_dn": "", "password_file": ""}, "needs a bind_dn"),
        ({"certificate_file": "a"}, "go together"),
        ({"certificate_file": "a", "key_file": "b"}, "expected one way"),
        ({"pasword": "x"}, "directory.pasword is unknown"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, change: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        site_with(tmp_path, BIND | change)
    assert "secret@" not in str(refused.value)


def test_replicas_are_a_list_of_uris(tmp_path: Path) -> None:
    text = site_toml("test", "ou=stateless", 6360)
    for value, said in (('["ldaps://b.example", "x"]', "is no server"), ('"ldaps://b.example"', "expected a list")):
        (tmp_path / "site.toml").write_text(text.replace("[directory]", f"[directory]\nreplicas = {value}"))
        with pytest.raises(ConfigError, match=said):
            load_site(tmp_path)
    good = text.replace("[directory]", '[directory]\nreplicas = ["ldaps://b.example:6361"]')
    (tmp_path / "site.toml").write_text(good)
    assert load_site(tmp_path).server == dataclasses.replace(DirectoryServer(), replicas=("ldaps://b.example:6361",))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    site = site_with(tmp_path_factory.mktemp("site"), BIND | {"people": text}, base_dn=text)
    assert (site.server.people, site.base_dn) == (text, text)
