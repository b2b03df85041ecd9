"""What of a prototype never comes into a snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

from statelesskit.config import Site
from statelesskit.errors import ConfigError
from statelesskit.prototype.prepare import DEFAULTS, FILE, Rules, count_hits, load_rules, write_rules


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("etc/ssh/ssh_host_*_key", ["etc/ssh/ssh_host_a_key"], ["etc/ssh/ssh_host_a_key.pub", "x/ssh_host_a_key"]),
        ("var/lib/apt/lists/*", ["var/lib/apt/lists/a", "var/lib/apt/lists/.b"], ["var/lib/apt/lists"]),
        ("/tmp/", ["tmp"], ["tmp/x", "var/tmp"]),
        ("**/*.pyc", ["a.pyc", "a/b/c.pyc"], ["a.pyc/b", "a.py"]),
        ("var/cache/**", ["var/cache/a", "var/cache/a/b"], ["var/cache", "var/caches/a"]),
        ("a?c", ["abc", "a\nc"], ["ac", "a/c", "abbc"]),
        ("[ab]/[!x]", ["a/b", "b/y"], ["c/b", "a/x", "a//"]),
        ("a.b+(c)", ["a.b+(c)"], ["axb+(c)", "a.bb(c)"]),
        ("ä/*", ["ä/x"], ["a/x"]),
    ],
)  # fmt: skip
def test_patterns(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    for rules, ask in ((Rules((pattern,)), Rules.leaves_out), (Rules((), (pattern,)), Rules.empties)):
        assert [path for path in fits if not ask(rules, path.encode())] == []
        assert [path for path in fits_not if ask(rules, path.encode())] == []


def test_names_that_are_no_utf_8_are_matched_by_their_bytes() -> None:
    assert Rules(("etc/*.key",)).leaves_out(b"etc/\xff\xfe.key")


def test_no_rules_touch_nothing() -> None:
    assert not Rules().leaves_out(b"etc/machine-id")
    assert not Rules().empties(b"etc/machine-id")


def test_rules_are_written_and_read(site: Site) -> None:
    (site.prototypes / "desktop").mkdir()
    assert load_rules(site, "desktop") == Rules()
    for rules in (DEFAULTS, Rules(('a "quoted" \\ name', "ä\n"), ())):
        write_rules(site, "desktop", rules)
        assert load_rules(site, "desktop") == rules


@pytest.mark.parametrize(
    "text", ["leave_out = 1", "leave_out = ['']", "leave_out = ['/']", "leave = []", "[", "empty = [1]", "\udcff"]
)
def test_rules_that_cannot_be_understood_stop_a_take(site: Site, text: str) -> None:
    path: Path = site.prototypes / "desktop" / FILE
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"prepare\.toml"):
        load_rules(site, "desktop")


def test_what_rules_fit_now_is_counted(tmp_path: Path) -> None:
    for path in ("etc/ssh/a_key", "etc/ssh/b_key", "etc/id", "cache/a_key", "cache/deep/b_key"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    rules = Rules(("**/*_key", "cache", "none"), ("etc/id",))
    assert count_hits(tmp_path, rules) == {"**/*_key": 2, "cache": 1, "none": 0, "etc/id": 1}
