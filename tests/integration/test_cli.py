"""The command line as a person and a script meet it: contracts, bad input, exit codes, nothing half-made."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.fleet import Fleet, small_root

pytestmark = [pytest.mark.slapd, pytest.mark.root]


def statelesskit(root: Path, *words: str, wait_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "statelesskit", "--site", str(root), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=wait_s,
    )


def spawn(root: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "statelesskit", "--site", str(root), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestContracts:
    """What scripts outside rely on (and the README shows)."""

    def test_take_and_diff(self, fleet: Fleet) -> None:
        (taken,) = fleet.json("snapshot", "take", "desktop")
        assert taken.keys() >= {"snapshot", "digest", "files", "bytes", "new_bytes", "findings"}
        assert taken["findings"] == []
        assert taken["new_bytes"] == 0
        rows = fleet.json("snapshot", "diff", fleet.one, fleet.two)
        assert {"path": "etc/motd", "change": "added", "fields": []} in rows
        assert {"path": "etc", "change": "changed", "fields": ["mtime_ns"]} in rows

    def test_verify_is_silent_when_all_is_well(self, fleet: Fleet) -> None:
        assert fleet.json("snapshot", "verify") == []

    def test_explain(self, fleet: Fleet) -> None:
        fleet.push(fleet.two)
        (told,) = fleet.json("client", "explain", "pc-caching")
        assert told.keys() == {"snapshot", "digest", "because", "otherwise"}
        assert told["snapshot"] == fleet.two
        (told,) = fleet.json("client", "explain", "pc-thick")
        assert told["snapshot"] is None

    def test_plan_and_apply(self, fleet: Fleet) -> None:
        fleet.push(fleet.one)
        _, serial = fleet.pointed_at()
        (plan,) = fleet.json("push", "plan", "desktop/stable", fleet.two)
        assert plan.keys() >= {"plan_digest", "clients", "forecast_bytes"}
        assert {row["client"] for row in plan["clients"]} == {"pc-diskless", "pc-caching", "pc-live"}  # type: ignore[union-attr,attr-defined]
        assert plan["forecast_bytes"] == len("two\n")
        words = ("push", "apply", "desktop/stable", fleet.two, "--plan-digest", str(plan["plan_digest"]))
        (applied,) = fleet.json(*words)
        assert applied["serial"] == serial + 1
        assert applied["previous"] == fleet.one
        assert (fleet.site.records / str(applied["record"]) / "statement.dsse.json").exists()
        again = fleet.run(*words)
        assert again.returncode == 4

    def test_export(self, fleet: Fleet, tmp_path: Path) -> None:
        (result,) = fleet.json("export", "tree", fleet.two, str(tmp_path / "tree"), "--reread")
        assert result["equal"] is True
        assert (tmp_path / "tree/etc/motd").read_text() == "two\n"
        again = fleet.run("export", "tree", fleet.two, str(tmp_path / "tree"))
        assert again.returncode == 2
        assert "already there" in again.stderr

    def test_ldapsearch_reads_the_assignment(self, fleet: Fleet) -> None:
        fleet.push(fleet.two)
        (status,) = fleet.json("site", "status")
        found = subprocess.run(
            ["ldapsearch", "-LLL", "-Q", "-Y", "EXTERNAL", "-H", str(status["ldapi"]), "-o", "ldif-wrap=no",
             "-b", "ou=stateless", "(cn=stable)", "skSnapshotDN"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"skSnapshotDN: cn={fleet.two},cn=desktop,ou=prototypes,ou=stateless" in found.stdout

    def test_every_command_has_help(self, fleet: Fleet) -> None:
        import click

        from statelesskit.cli import cli

        def walk(command: click.Command, words: tuple[str, ...]) -> None:
            assert (command.help or "").strip(), words
            if isinstance(command, click.Group):
                ctx = click.Context(command)
                for name in command.list_commands(ctx):
                    below = command.get_command(ctx, name)
                    assert below is not None
                    walk(below, (*words, name))

        walk(cli, ())


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "code", "says"),
        [
            (("snapshot", "take", "desktpo"), 2, "did you mean desktop?"),
            (("snapshot", "take", "../desktop"), 2, "is no name for a prototype"),
            (("snapshot", "take", "a/b"), 2, "is no name for a prototype"),
            (("snapshot", "show", "../../etc"), 2, "names no snapshot"),
            (("snapshot", "show", "desktop-20200101T000000Z"), 2, "there is no snapshot"),
            (("prototype", "create", "..", "--from", "dir:/tmp"), 2, "is no name for a prototype"),
            (("prototype", "create", "x/y", "--from", "dir:/tmp"), 2, "is no name for a prototype"),
            (("prototype", "create", "x\ny", "--from", "dir:/tmp"), 2, "is no name for a prototype"),
            (("prototype", "create", "new", "--from", "dir:/proc/self/fd"), 2, "root tree"),
            (("prototype", "create", "new", "--from", "dir:/nowhere"), 2, "/nowhere"),
            (("prototype", "create", "new", "--from", "ftp:x"), 2, "debootstrap"),
            (("prototype", "create", "desktop", "--from", "dir:/tmp"), 2, "already"),
            (("prototype", "run", "nobody", "--", "true"), 2, "no prototype"),
            (("push", "plan", "desktop", "x"), 2, "names no channel"),
            (("push", "plan", "desktop/stabel", "desktop-20200101T000000Z"), 2, "desktop/stable"),
            (("client", "add", "pc", "--mode", "fat"), 2, "no mode 'fat'"),
            (("client", "add", "pc", "--mode", "diskless", "--mac", "zz"), 2, "is no MAC address"),
            (("client", "add", "pc", "--mode", "diskless", "--mac", "52:54:00:00:00:00"), 2, "pc-diskless"),
            (("client", "add", "pc-thick", "--mode", "thick"), 2, "already"),
            (("client", "add", "pc", "--mode", "diskless", "--channel", "desktop/x"), 2, "desktop/stable"),
            (("client", "explain", "pc-diskles"), 2, "pc-diskless"),
            (("run", "71-push-snapsho"), 2, "did you mean 71-push-snapshot?"),
            (("run", "71-push-snapshot", "-p", "nonsense"), 2, "NAME=VALUE"),
            (("audit", "show", "ffffffff"), 2, "no record"),
            (("audit", "show", "../keys"), 2, "is no record"),
            (("nonsense",), 2, "No such command"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_is_named_with_the_fix(self, fleet: Fleet, words: tuple[str, ...], code: int, says: str) -> None:
        before = {path.name for path in fleet.site.prototypes.iterdir()}
        done = fleet.run(*words)
        assert done.returncode == code, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert {path.name for path in fleet.site.prototypes.iterdir()} == before

    def test_a_locked_prototype_says_who_holds_it(self, fleet: Fleet) -> None:
        from statelesskit.lock import held

        with held(fleet.site.lock_file("prototype/desktop"), what="it", doing="apt-get upgrade"):
            done = fleet.run("snapshot", "take", "desktop")
        assert done.returncode == 4
        assert "apt-get upgrade by root" in done.stderr
        assert fleet.run("snapshot", "take", "desktop").returncode == 0

    def test_two_takes_at_once(self, fleet: Fleet) -> None:
        with spawn(fleet.site.root, "snapshot", "take", "desktop") as a:
            b = fleet.run("snapshot", "take", "desktop")
            a.communicate(timeout=60)
        assert {a.returncode, b.returncode} <= {0, 4}
        assert 0 in (a.returncode, b.returncode)
        assert fleet.json("snapshot", "verify") == []


class TestSite:
    def test_from_nothing_to_running_and_back(self, tmp_path: Path) -> None:
        root, port = tmp_path / "new site", free_port()
        done = statelesskit(root, "site", "status")
        assert done.returncode == 2
        assert "site init" in done.stderr
        done = statelesskit(root, "site", "init", "--plan", "--port", str(port))
        assert done.returncode == 0
        assert str(root / "site.toml") in done.stdout
        assert not root.exists()
        for _ in range(2):
            done = statelesskit(root, "site", "init", "--name", "lab", "--port", str(port))
            assert done.returncode == 0, done.stderr
            assert "SHA256:" in done.stdout
        done = statelesskit(root, "site", "doctor")
        assert done.returncode == 1
        assert "site start" in done.stdout
        try:
            for _ in range(2):
                done = statelesskit(root, "site", "start")
                assert done.returncode == 0, done.stderr
            done = statelesskit(root, "site", "doctor", "--json")
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            assert [row for row in rows if row["state"] == "wrong"] == []
            assert done.returncode == 0
        finally:
            for _ in range(2):
                assert statelesskit(root, "site", "stop").returncode == 0
        assert json.loads(statelesskit(root, "site", "status", "--json").stdout)["directory"] == "stopped"

    def test_two_starts_at_once_make_one_server(self, tmp_path: Path) -> None:
        root = tmp_path / "site"
        statelesskit(root, "site", "init", "--name", "lab", "--port", str(free_port()))
        try:
            with spawn(root, "site", "start") as a, spawn(root, "site", "start") as b:
                told = [process.communicate(timeout=60)[1] for process in (a, b)]
            assert (a.returncode, b.returncode) == (0, 0), told
            servers = subprocess.run(
                ["pgrep", "-fc", str(root / "directory/slapd.conf")], capture_output=True, text=True, check=False
            )
            assert servers.stdout.strip() == "1"
        finally:
            statelesskit(root, "site", "stop")

    def test_a_port_in_use_is_named_and_the_next_start_works(self, tmp_path: Path) -> None:
        root, port = tmp_path / "site", free_port()
        statelesskit(root, "site", "init", "--name", "lab", "--port", str(port))
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            done = statelesskit(root, "site", "start")
        assert done.returncode == 7
        assert str(port) in done.stderr
        assert "site.toml" in done.stderr
        try:
            assert statelesskit(root, "site", "start").returncode == 0
        finally:
            statelesskit(root, "site", "stop")

    def test_a_directory_that_is_away_stops_no_snapshot(self, tmp_path: Path) -> None:
        root = tmp_path / "site"
        statelesskit(root, "site", "init", "--name", "lab", "--port", str(free_port()))
        tree = small_root(tmp_path / "tree")
        assert statelesskit(root, "prototype", "create", "lab", "--from", f"dir:{tree}").returncode == 0
        done = statelesskit(root, "snapshot", "take", "lab")
        assert done.returncode == 0, done.stderr
        assert "learn of this snapshot at the next contact" in done.stderr
        done = statelesskit(root, "client", "list")
        assert done.returncode == 7
        assert "site start" in done.stderr
        try:
            done = statelesskit(root, "site", "start")
            assert "lab-" in done.stdout
        finally:
            statelesskit(root, "site", "stop")

    def test_a_folder_that_is_no_site_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("precious")
        done = statelesskit(tmp_path, "site", "init")
        assert done.returncode == 2
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    @pytest.mark.parametrize("text", ["", "format = 2\n", "not toml", "format = 1\nname = 7\n"])
    def test_a_broken_configuration_is_named(self, tmp_path: Path, text: str) -> None:
        root = tmp_path / "site"
        root.mkdir()
        (root / "site.toml").write_text(text)
        done = statelesskit(root, "site", "status")
        assert done.returncode == 7
        assert "site.toml" in done.stderr
        assert "Traceback" not in done.stderr

    def test_stopped_while_creating_leaves_nothing(self, tmp_path: Path) -> None:
        root = tmp_path / "site"
        statelesskit(root, "site", "init", "--name", "lab", "--port", str(free_port()))
        tree = small_root(tmp_path / "tree")
        for number in range(200):
            (tree / f"usr/lib/{number}").write_bytes(os.urandom(500_000))
        for wait_s in (0.3, 0.45, 0.6):
            with spawn(root, "prototype", "create", "lab", "--from", f"dir:{tree}") as process:
                time.sleep(wait_s)
                process.send_signal(signal.SIGTERM)
                said = process.communicate(timeout=30)[1]
            assert process.returncode in (0, 143, -signal.SIGTERM), said
            if (root / "prototypes/lab").exists():  # the signal came after it was whole
                assert len(list((root / "prototypes/lab/tree/usr/lib").iterdir())) == 200
                break
        done = statelesskit(root, "prototype", "create", "lab2", "--from", f"dir:{tree}")
        assert done.returncode == 0, done.stderr
        assert statelesskit(root, "audit", "verify").stdout.count("vanished") <= 1
