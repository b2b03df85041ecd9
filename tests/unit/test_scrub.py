"""A canary secret, given in every way a person might give one, is in no file of the site."""

from __future__ import annotations

import base64
import html
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit import scrub
from statelesskit.actions import ACTIONS
from statelesskit.audit import keys
from statelesskit.audit.records import Record
from statelesskit.config import Site, load_site
from statelesskit.errors import ParameterError
from statelesskit.runbook.find import find_runbook
from statelesskit.runbook.launch import run_runbook, start_detached

CANARY = 'ca"na<ry>&é%/secret'
SPELT = {
    "as it is": CANARY,
    "JSON": json.dumps(CANARY),
    "JSON in JSON": json.dumps(json.dumps(CANARY)),
    "JSON in UTF-8": json.dumps(CANARY, ensure_ascii=False),
    "Python": repr(CANARY),
    "HTML": html.escape(CANARY),
    "a URL": quote(CANARY, safe=""),
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "a line": f"login with {CANARY}, please",
}


@pytest.fixture(autouse=True)
def known(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("_watched", "_learnt", "_read"):
        monkeypatch.setattr(scrub, name, type(getattr(scrub, name))())
    keys.create_record_key(site.keys)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/ldap").write_text(CANARY)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    load_site(site.root)


def hits(top: Path, secret: str) -> list[str]:
    """Return the files below that hold any spelling of a secret."""
    words = [spelt.encode() for spelt in scrub._spellings(secret)]
    files = [path for path in top.rglob("*") if path.is_file() and path.parent.name != "keys"]
    return [str(path) for path in files if any(word in path.read_bytes() for word in words)]


@pytest.mark.parametrize("how", SPELT)
def test_no_spelling_passes(site: Site, how: str) -> None:
    record = Record.begin(site.records, "push", facts={"parameters": {"note": SPELT[how]}})
    record.event("said", text=SPELT[how], more={SPELT[how]: [SPELT[how]]})
    record.attach("plan.json", json.dumps({"a": SPELT[how]}).encode())
    record.attach("page.html", SPELT[how].encode())
    record.end("failed", 1, key=site.keys / "record.key", error=SPELT[how])
    assert hits(site.root, CANARY) == []
    assert scrub.MARK in (record.path / "page.html").read_text()


def test_the_hits_are_no_blind_eye(site: Site) -> None:
    (site.records / "x").write_text(SPELT["HTML"])
    assert hits(site.root, CANARY) == [str(site.records / "x")]


def test_the_sites_own_keys_are_secrets(site: Site) -> None:
    pem = (site.keys / "record.key").read_text()
    (site.keys / "account-ada").write_text("a-new-password\n")  # made after the site was loaded
    clean = scrub.text(f"{pem} a-new-password {(site.keys / 'record.pub').read_text()}")
    assert pem.splitlines()[1] not in clean
    assert "a-new-password" not in clean
    assert (site.keys / "record.pub").read_text() in clean


def test_the_directorys_password_is_a_secret(site: Site) -> None:
    text = (site.root / "site.toml").read_text()
    server = 'uri = "ldaps://x"\nbind_dn = "cn=a"\npassword_file = "pw"\n'
    (site.root / "site.toml").write_text(text.replace("[directory]\n", f"[directory]\n{server}"))
    (site.root / "pw").write_text("directory-password\n")
    load_site(site.root)
    assert scrub.text("bind with directory-password") == f"bind with {scrub.MARK}"


def test_a_notebook_is_cleaned_in_place() -> None:
    notebook: Any = {"cells": [{"source": [f"a = {CANARY!r}\n"], "outputs": [{"data": {"text/plain": CANARY}}]}]}
    scrub.in_place(notebook)
    assert notebook == {
        "cells": [{"source": [f"a = '{scrub.MARK}'\n"], "outputs": [{"data": {"text/plain": scrub.MARK}}]}]
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter22"), ("db_password", "x"), ("token", "x"), ("API-Key", "x"), ("secrets", "x"),
        ("note", "-----BEGIN OPENSSH PRIVATE KEY-----\nx"), ("note", "AKIAABCDEFGHIJKLMNOP"),
        ("note", "ghp_" + "a" * 36), ("note", "{SSHA}abcdefgh12"), ("note", "password: hunter22"),
        ("note", f"see {CANARY}"),
    ],
)  # fmt: skip
def test_a_secret_is_refused_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ParameterError, match="secrets are never parameters") as raised:
        ACTIONS["snapshot note"].check({"snapshot": "desktop-1", "note": "x", name: value})
    assert value == "x" or value not in str(raised.value)


@pytest.mark.parametrize("kind", ACTIONS.values(), ids=ACTIONS)
def test_no_action_has_a_parameter_that_is_refused(kind: type) -> None:
    for item in kind.parameters():  # type: ignore[attr-defined]
        assert not scrub.looks_secret(item.name, "stable"), item.name


@pytest.mark.parametrize(
    "value", ["desktop/stable", "a tokenizer", "password-less login", "sha256:" + "0" * 64, 12, True]
)
def test_ordinary_values_are_not_refused(value: Any) -> None:
    assert not scrub.looks_secret("note", value)


def test_a_run_that_is_given_a_secret_leaves_none(site: Site) -> None:
    runbook = find_runbook("71-push-snapshot")
    parameters = {"channel": "desktop/stable", "snapshot": "x", "password": "hunter22-canary"}
    with pytest.raises(ParameterError):
        run_runbook(site, runbook, parameters)
    assert len([*site.records.iterdir()]) == 2
    assert hits(site.root, "hunter22-canary") == []
    with pytest.raises(ParameterError):
        start_detached(site, "71-push-snapshot", parameters, "01234567")
    argvs = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not any(b"hunter22-canary" in argv for argv in argvs)


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=8), st.text(), st.text())
def test_whatever_a_secret_is_it_goes(secret: str, before: str, after: str) -> None:
    if secret in scrub.MARK:
        return
    scrub._learnt.clear()
    scrub.learn(secret)
    assert secret not in scrub.text(before + secret + after).replace(scrub.MARK, "\0")
    scrub._learnt.clear()
