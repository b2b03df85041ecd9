"""Who may do what, as site.toml says it, and what a run may claim."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from statelesskit.actions import ACTIONS
from statelesskit.audit.attested import unattested_claims, unattested_events
from statelesskit.audit.events import Event, append, read
from statelesskit.config import Site, parse_site
from statelesskit.errors import ConfigError, LockedError, RefusedError, StatelessError
from statelesskit.service.policy import Caller, check_allowed, check_verb
from statelesskit.service.unit import unit_text
from statelesskit.service.wire import error_frame, raised

RULES = """
[[service.allow]]
users = ["anna"]
verbs = ["push *"]
objects = ["channel/desktop/*"]
[[service.allow]]
groups = ["operators"]
verbs = ["snapshot take"]
"""
TAKE = ACTIONS["snapshot take"].check({"prototype": "desktop"})
PUSH = ACTIONS["push rollback"].check({"channel": "desktop/stable"})
ELSEWHERE = ACTIONS["push rollback"].check({"channel": "kiosk/stable"})


def ruled(site: Site, rules: str) -> Site:
    text = (site.root / "site.toml").read_text()
    return parse_site(site.root, text[: text.index("[service]")] + "[service]\nenabled = true\n" + rules)


def caller(user: str, *groups: str, uid: int = 1000) -> Caller:
    return Caller(uid, 1, user, frozenset(groups))


@pytest.mark.parametrize(
    ("who", "action", "may"),
    [
        (caller("anna"), PUSH, True),
        (caller("anna"), ELSEWHERE, False),
        (caller("anna"), TAKE, False),
        (caller("anna", "operators"), TAKE, True),
        (caller("otto", "operators"), TAKE, True),
        (caller("otto", "operators"), PUSH, False),
        (caller("operators"), TAKE, False),
        (caller("root", uid=0), ELSEWHERE, True),
        (caller("root"), ELSEWHERE, False),
    ],
)
def test_a_rule_must_fit_whole(site: Site, who: Caller, action: Any, may: bool) -> None:
    here = ruled(site, RULES)
    if may:
        check_allowed(here, who, action)
    else:
        with pytest.raises(RefusedError, match="may not do this here"):
            check_allowed(here, who, action)


def test_without_rules_only_root_may(site: Site) -> None:
    with pytest.raises(RefusedError):
        check_verb(ruled(site, ""), caller("anna"), "push apply")
    check_verb(ruled(site, ""), caller("root", uid=0), "push apply")


@pytest.mark.parametrize(
    "rules",
    [
        '[[service.allow]]\nusers = ["anna"]', '[[service.allow]]\nverbs = ["*"]',
        '[[service.allow]]\nusers = ["anna"]\nverbs = ["*"]\nobject = ["x"]',
        '[[service.allow]]\nusers = "anna"\nverbs = ["*"]', "allow = [1]", "allowed = []",
    ],
)  # fmt: skip
def test_a_rule_that_says_something_else_is_no_rule(site: Site, rules: str) -> None:
    with pytest.raises(ConfigError, match=r"service\.allow"):
        ruled(site, rules)


def test_errors_come_back_as_they_were() -> None:
    error = raised(error_frame(LockedError("the channel is locked", hint="wait"))["error"])
    assert (type(error), error.message, error.hint, error.exit_code) == (
        LockedError, "the channel is locked", "wait", 4
    )  # fmt: skip
    for hostile in ({}, {"kind": "os"}, {"kind": "CommandError", "message": 1}, {"kind": None, "exit_code": "x"}):
        assert type(raised(hostile)) is StatelessError


def record(tmp_path: Path, *told: tuple[str, dict[str, Any]], mode: str = "service") -> list[Event]:
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    append(path, "begin", {"mode": mode})
    for kind, facts in told:
        append(path, kind, facts)
    return read(path)[0]


def test_claimed_and_not_attested_is_found(tmp_path: Path) -> None:
    claim = {"claimed": True}
    good = [("cell", claim), ("applying", {}), ("applied", {"result": {"serial": 2}})]
    ended = ("end", {"state": "completed", **claim})
    assert list(unattested_events(record(tmp_path, *good, ended))) == []
    forged = record(tmp_path, *good, ("applied", {"result": {"serial": 3}, **claim}), ended)
    assert list(unattested_events(forged)) == ["line 5: applied is claimed by the run, and not attested"]
    half = record(tmp_path, ("applying", {}), ended)
    assert len(list(unattested_events(half))) == 1
    assert list(unattested_events(record(tmp_path, ("applying", {}), ("end", {"state": "failed", **claim})))) == []
    assert list(unattested_events(record(tmp_path, ("applied", claim), mode="in process"))) == []


@pytest.mark.parametrize(
    ("claimed", "faults"), [({"serial": 2}, 0), ({"serial": 3}, 1), ({"serial": True}, 1), ({}, 1), (None, 1)]
)
def test_a_notebooks_claims_are_held_against_the_events(tmp_path: Path, claimed: object, faults: int) -> None:
    forged = ("applied", {"result": {"serial": 3}, "claimed": True})
    log = record(tmp_path, ("applied", {"result": {"serial": 2}}), forged)
    output = {"metadata": {"statelesskit": {"applied": claimed}}}
    notebook = json.dumps({"cells": [{"outputs": [{}, output]}, {}]}).encode()
    assert len(list(unattested_claims(notebook, log))) == faults


@pytest.mark.parametrize("notebook", [b"", b"[]", b'{"cells":[1]}', b'{"cells":[{"outputs":[1]}]}', b"[" * 10**5])
def test_a_notebook_that_is_none_claims_nothing(tmp_path: Path, notebook: bytes) -> None:
    assert list(unattested_claims(notebook, record(tmp_path))) == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize(("name", "group"), [("site", "adm"), ("a site with 100% of 'everything'", "")])
def test_systemd_takes_the_units(tmp_path: Path, name: str, group: str) -> None:
    root = Path("/srv", name)
    paths = []
    for part in unit_text(root, group).split("# /etc/systemd/system/")[1:]:
        path = tmp_path / part.partition("\n")[0]
        path.write_text(part.partition("\n")[2])
        paths.append(str(path))
    assert len(paths) == 2
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
