"""What an auditor takes away, verified by a stranger with OpenSSH and coreutils; and what was pruned before."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from statelesskit import frames, service
from statelesskit.actions.prune_records import PruneRecords
from statelesskit.audit import keys
from statelesskit.audit.differences import differences
from statelesskit.audit.listing import list_records
from statelesskit.audit.query import query
from statelesskit.audit.records import Record
from statelesskit.audit.verify import verify_records
from statelesskit.audit_folder import export_records
from statelesskit.cli import cli
from statelesskit.config import Site
from statelesskit.errors import AuditError, ConflictError, ExistsError, RefusedError, UsageError

HOSTILE = "=cmd|'/c calc'!A1<script>alert(1)</script>\x1b[31m"
TOMORROW = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"


@pytest.fixture(autouse=True)
def fingerprint(site: Site, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("statelesskit.audit.verify.is_at_work", lambda path: False)
    monkeypatch.setattr("statelesskit.audit_folder.is_at_work", lambda path: False)
    return keys.create_record_key(site.keys)


def made(site: Site, snapshot: str = "desktop-2", *, user: str = "ada", output: str = "pushed\n") -> Path:
    facts = {"user": user, "parameters": {"channel": "desktop/stable", "snapshot": snapshot}}
    record = Record.begin(site.records, "71-push-snapshot", facts=facts)
    plan = {"facts": {"from": "desktop-1", "to": snapshot}, "summary": "x"}
    record.attach("plan.json", json.dumps(plan).encode())
    record.event("applied", result={"serial": 7, "previous": "desktop-1", "snapshot": snapshot, "changed": True})
    cell = {"cell_type": "code", "source": "push()", "outputs": [{"output_type": "stream", "text": [output]}]}
    record.attach("record.ipynb", json.dumps({"cells": [cell]}).encode())
    record.end("completed", 0, key=site.keys / "record.key", changes=f"desktop/stable to {snapshot}")
    return record.path


def strangers(folder: Path, fingerprint: str) -> subprocess.CompletedProcess[str]:
    """Verify on what is as good as an empty machine: no variables, another folder, no Python."""
    argv = ["sh", str(folder / "verify.sh"), fingerprint]
    return subprocess.run(argv, cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)


@pytest.fixture
def exported(site: Site, tmp_path: Path) -> Path:
    for _ in range(3):
        made(site)
    assert export_records(site, tmp_path / "away/out") == 3 if (tmp_path / "away").mkdir() is None else 0
    return tmp_path / "away/out"


def test_a_stranger_finds_nothing_in_what_is_whole(exported: Path, fingerprint: str) -> None:
    done = strangers(exported, fingerprint)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("verified: 3 records, nothing altered.")


def first(folder: Path) -> Path:
    return sorted(path for path in (folder / "records").iterdir() if path.name != "log")[0]


def alter(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = first(folder) / name
        data = path.read_bytes()
        path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])

    return change


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        path = folder / "records/log/entries"
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return tamper


def exchange(folder: Path) -> None:
    one, two = sorted(path for path in (folder / "records").iterdir() if path.name != "log")[:2]
    one.rename(folder / "x")
    two.rename(one)
    (folder / "x").rename(two)


def other_key(folder: Path) -> None:
    (folder / "k").mkdir()
    keys.create_record_key(folder / "k")
    shutil.copy(folder / "k/record.pub", folder / "record.pub")


TAMPERING: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the plan": (alter("plan.json"), "{record}: ./plan.json: FAILED"),
    "a bit of the events": (alter("events.jsonl"), "{record}: ./events.jsonl: FAILED"),
    "a bit of the notebook": (alter("record.ipynb"), "{record}: ./record.ipynb: FAILED"),
    "a bit of the statement": (alter("statement.dsse.json"), "{record}/statement.dsse.json: FAILED"),
    "a file removed": (lambda top: (first(top) / "plan.json").unlink(), "{record}: ./plan.json: FAILED open"),
    "a file added": (lambda top: (first(top) / "more").touch(), "{record}: more is not of the record"),
    "a hidden file added": (lambda top: (first(top) / ".more").touch(), "{record}: .more is not of the record"),
    "a record removed": (lambda top: shutil.rmtree(first(top)), "{record}/statement.dsse.json: FAILED open"),
    "a record copied": (lambda top: shutil.copytree(first(top), top / "records/copy"), "copy is not in the log"),
    "two records exchanged": (exchange, "{record}/statement.dsse.json: FAILED"),
    "the log cut": (lines(lambda all_: all_[:-1]), "log/entries is not what the checkpoint says"),
    "the log turned": (lines(lambda all_: all_[::-1]), "log/entries is not what the checkpoint says"),
    "the checkpoint changed": (
        lambda top: (path := top / "records/log/checkpoint").write_text(path.read_text().replace("\n3\n", "\n2\n")),
        "log/checkpoint:",
    ),
    "the key replaced": (other_key, "record.pub is not the key"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_a_stranger_finds_what_was_altered(exported: Path, fingerprint: str, what: str) -> None:
    tamper, expected = TAMPERING[what]
    name = first(exported).name
    tamper(exported)
    done = strangers(exported, fingerprint)
    assert done.returncode == 1
    assert f"FOUND: {expected.format(record=name)}" in done.stdout
    # And so does our own verifier, of the same folder.
    words = ["audit", "verify", "--key", fingerprint, str(exported / "records")]
    ours = CliRunner().invoke(cli, words, standalone_mode=False)
    assert ours.return_value == 1 or isinstance(ours.exception, AuditError)


def test_the_pages_hold_all_and_run_nothing_but_the_filter(site: Site, tmp_path: Path) -> None:
    path = made(site, HOSTILE, user=HOSTILE)
    export_records(site, tmp_path / "out")
    index = (tmp_path / "out/index.html").read_text()
    page = (tmp_path / f"out/pages/{path.name}.html").read_text()
    assert index.count("<script>") == index.count("</script>") == 1
    assert "script-src 'sha256-" in index
    assert "<script" not in page
    assert "script-src" not in page
    for text in (index, page):
        assert "default-src 'none'" in text
        assert "alert(1)&lt;/script&gt;" in text
        assert not re.search(r"(?:src|href)=[\"']?(?:https?:|//)", text)
        assert "\x1b" not in text
    assert f"pages/{path.name}.html" in index
    (row,) = csv.DictReader(io.StringIO((tmp_path / "out/records.csv").read_text()))
    assert row["who"].startswith("'=cmd")
    assert row["to"].startswith("'=cmd")


def test_an_export_replaces_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(ExistsError):
        export_records(site, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_query_says_who_did_what_from_what_to_what(site: Site) -> None:
    made(site)
    refused = Record.begin(site.records, "push apply", facts={"user": "bob", "parameters": {"channel": "web/stable"}})
    refused.end("refused", 3, key=site.keys / "record.key")
    done, other = query(site.records)
    told = ("who", "what", "object", "from", "to", "outcome")
    assert [done[name] for name in told] == [
        "ada", "71-push-snapshot", "desktop/stable", "desktop-1", "desktop-2", "completed",
    ]  # fmt: skip
    assert [other[name] for name in told] == ["bob", "push apply", "web/stable", "", "", "refused"]
    assert done["duration_s"] >= 0
    frame = frames.audit(site)
    assert frame["who"].tolist() == ["ada", "bob"]
    assert frame["exit_code"].tolist() == [0, 3]
    assert str(frame["began_at"].dtype) == "datetime64[ns, UTC]"
    shutil.rmtree(site.records)
    site.records.mkdir()
    assert frames.audit(site).columns.tolist() == frame.columns.tolist()


def test_diff_names_what_differs_in_two_runs(site: Site) -> None:
    one, two = made(site, output="a\nb\n"), made(site, "desktop-3", output="a\nc\x1b[2J\n")
    found = {(item.where, item.before, item.after) for item in differences(one, two)}
    assert ("parameters.snapshot", "desktop-2", "desktop-3") in found
    assert ("plan.facts.to", "desktop-2", "desktop-3") in found
    assert {("cell 0 output", "b", ""), ("cell 0 output", "", "c\\x1b[2J")} <= found
    assert not {item.where for item in differences(one, one)}
    other = Record.begin(site.records, "take", facts={})
    with pytest.raises(UsageError, match="is a run of"):
        differences(one, other.path)


@dataclass(frozen=True)
class Pruned:
    kept: Path
    record: str


@pytest.fixture
def pruned(site: Site) -> Pruned:
    path = made(site)
    outcome = service.perform(site, PruneRecords(before=TOMORROW), service.AT_ONCE)
    assert outcome.result["pruned"] == 1
    return Pruned(path, outcome.record)


def test_what_was_pruned_is_still_proven(site: Site, pruned: Pruned, fingerprint: str, tmp_path: Path) -> None:
    assert [path.name for path in pruned.kept.iterdir()] == ["statement.dsse.json"]
    public = (site.keys / "record.pub").read_text()
    assert verify_records(site.records, public) == []
    (one, _) = list_records(site.records)
    assert (one.pruned, one.user, one.state, one.changes) == (True, "ada", "completed", "desktop/stable to desktop-2")
    export_records(site, tmp_path / "out")
    assert strangers(tmp_path / "out", fingerprint).returncode == 0
    shown = CliRunner().invoke(cli, ["--site", str(site.root), "audit", "verify"])
    assert "of 1 records only the statements are left" in shown.output


def test_only_what_a_record_says_was_pruned_may_be_missing(site: Site, pruned: Pruned, fingerprint: str) -> None:
    other = made(site)
    for child in other.iterdir():
        if child.name != "statement.dsse.json":
            child.unlink()
    public = (site.keys / "record.pub").read_text()
    assert {finding.record for finding in verify_records(site.records, public)} == {other.name}
    shutil.rmtree(other)
    (site.records / pruned.record / "pruned").write_bytes(b"")
    assert {pruned.kept.name, pruned.record} <= {finding.record for finding in verify_records(site.records, public)}


def test_an_altered_record_is_not_pruned(site: Site) -> None:
    path = made(site)
    (path / "plan.json").write_bytes(b"{}")
    with pytest.raises(RefusedError, match="pruning it would hide that"):
        service.perform(site, PruneRecords(before=TOMORROW), service.AT_ONCE)
    assert (path / "plan.json").exists()


def test_pruning_needs_a_look_and_leaves_what_is_young(site: Site) -> None:
    made(site)
    with pytest.raises(RefusedError, match="somebody must have looked"):
        service.perform(site, PruneRecords(before=TOMORROW), service.AUTO)
    with pytest.raises(ConflictError):
        service.perform(site, PruneRecords(before=TOMORROW), "sha256:0")
    assert not service.plan(site, PruneRecords(before="2020-01-01")).changes
    with pytest.raises(UsageError, match="expected a day"):
        service.plan(site, PruneRecords(before="yesterday"))


def test_a_prune_that_was_killed_is_done_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = made(site), made(site)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("statelesskit.audit.pruning.prune", killed)
    with pytest.raises(KeyboardInterrupt):
        service.perform(site, PruneRecords(before=TOMORROW), service.AT_ONCE)
    monkeypatch.undo()
    monkeypatch.setattr("statelesskit.audit.verify.is_at_work", lambda path: False)
    (one / "events.jsonl").unlink()  # as far as it came
    public = (site.keys / "record.pub").read_text()
    assert verify_records(site.records, public) == []
    service.perform(site, PruneRecords(before=TOMORROW), service.AT_ONCE)
    assert [*one.iterdir()] == [one / "statement.dsse.json"]
    assert [*two.iterdir()] == [two / "statement.dsse.json"]
    assert verify_records(site.records, public) == []


@pytest.mark.browser
def test_the_list_is_filtered_in_a_browser_without_network(site: Site, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    made(site)
    made(site, HOSTILE, user="bob")
    export_records(site, tmp_path / "out")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        said: list[str] = []
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: said.append(message.text))
        page.goto((tmp_path / "out/index.html").as_uri())
        assert page.locator("tbody tr:visible").count() == 2
        page.get_by_label("who").select_option("bob")
        assert page.locator("tbody tr:visible").count() == 1
        page.get_by_label("any text").fill("desktop-2")
        assert page.locator("tbody tr:visible").count() == 0
        assert page.locator("#shown").inner_text() == "0"
        page.get_by_label("any text").fill("")
        page.locator("tbody tr:visible a").click()
        assert "applied" in page.content()
        browser.close()
    assert said == []
