from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from statelesskit.config import Site
from statelesskit.errors import NotFoundError, UsageError
from statelesskit.prototype.sources import debian
from statelesskit.prototype.sources.debian import Target, host_settings, host_targets, sources_for

TARGETS = """\
http://mirror.invalid/debian/|bookworm|bookworm|oldstable|main|Debian|{0}:1
http://mirror.invalid/debian/|bookworm|bookworm|oldstable|contrib|Debian|{0}:1
http://mirror.invalid/debian/|bookworm-updates|bookworm-updates|oldstable-updates|main|Debian|{0}:1
http://mirror.invalid/debian/|bookworm-backports|bookworm-backports|oldstable-backports|main|Debian|{0}:1
http://mirror.invalid/security/|bookworm-security|bookworm-security|oldstable-security|main|Debian|{0}:2
http://mirror.invalid/ubuntu/|jammy-updates|jammy|jammy-updates|main|Ubuntu|{1}:2
https://third.invalid/|nodistro|nodistro|nodistro|main|. nodistro|{1}:3
https://third.invalid/|bookworm|bookworm|bookworm|main|Third Party|{1}:4
http://mirror.invalid/new/|$(RELEASE)|$(CODENAME)|$(SUITE)|main|$(ORIGIN)|{1}:5
"""
DEB822 = """\
# A comment alone is no stanza.

Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
# in between
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

types: deb
suites: bookworm-security
signed-by: /usr/share/keyrings/x.gpg
Trusted: yes
"""
ONE_LINE = "# old style\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/ubuntu jammy-updates main\n"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = tmp_path / "a.sources", tmp_path / "b.list"
    new.write_text(DEB822)
    old.write_text(ONE_LINE)
    said = {
        "apt-get": TARGETS.format(new, old),
        "apt-config": 'Dir "/";\nAcquire::http::Proxy "http://p.invalid:1";\n'
        'Acquire::http::Proxy::h.invalid "DIRECT";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::https::CAInfo "/host/only.pem";\n'
        'Acquire::http::Proxy-Auto-Detect "/host/program";\nDPkg::Post-Invoke:: "rm -rf /";\n',
    }
    monkeypatch.setattr(debian, "run", lambda argv: subprocess.CompletedProcess(argv, 0, said[argv[0]], ""))


@pytest.mark.usefixtures("apt")
@pytest.mark.parametrize(
    ("suite", "releases"),
    [
        ("bookworm", ["bookworm", "bookworm", "bookworm-updates", "bookworm-security"]),
        ("oldstable", ["bookworm", "bookworm", "bookworm-updates", "bookworm-security"]),
        ("jammy", ["jammy-updates"]),
        ("nodistro", []),
    ],
)
def test_a_suite_is_its_main_updates_and_security_parts(suite: str, releases: list[str]) -> None:
    assert [target.release for target in host_targets() if target.belongs_to(suite)] == releases


@pytest.mark.usefixtures("apt")
def test_the_hosts_entries_become_the_trees_sources() -> None:
    found = sources_for(target for target in host_targets() if target.belongs_to("bookworm"))
    key = "Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
    assert found == (
        "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: bookworm\nComponents: main contrib\n"
        f"{key}\n"
        "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: bookworm-updates\nComponents: main\n"
        f"{key}\n"
        "Types: deb\nURIs: http://mirror.invalid/security/\nSuites: bookworm-security\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/x.gpg\nTrusted: yes\n"
    )


@pytest.mark.usefixtures("apt")
def test_options_of_a_one_line_entry_are_kept() -> None:
    found = sources_for(target for target in host_targets() if target.belongs_to("jammy"))
    assert found.endswith("Signed-By: /k.gpg\n")


@pytest.mark.usefixtures("apt")
def test_only_how_servers_are_reached_is_passed_on() -> None:
    assert host_settings() == (
        'Acquire::http::Proxy "http://p.invalid:1";\nAcquire::http::Proxy::h.invalid "DIRECT";\n'
        'Acquire::Check-Valid-Until "false";\n'
    )


@pytest.mark.usefixtures("apt")
def test_an_unknown_suite_is_answered_with_those_there_are(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "find_tool", str)
    with pytest.raises(NotFoundError, match="no packages of the suite trixie; it has bookworm, jammy"):
        debian.check(site, "trixie")
    monkeypatch.setattr(debian, "host_targets", list[Target])
    with pytest.raises(NotFoundError, match="run apt-get update"):
        debian.check(site, "trixie")


@pytest.mark.parametrize("suite", ["", "--help", "a b", "bookworm/../x", "Bookworm", "bookworm-updates"])
def test_suites_that_are_none(site: Site, suite: str) -> None:
    with pytest.raises(UsageError, match="is no suite"):
        debian.check(site, suite)
