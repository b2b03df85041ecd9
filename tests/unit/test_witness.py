"""Copies of the checkpoint elsewhere: told after each run, never in a run's way, and missed by the doctor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from statelesskit import doctor, service
from statelesskit.actions.prune_records import PruneRecords
from statelesskit.audit import keys
from statelesskit.audit.checkpoint import Checkpoint
from statelesskit.audit.records import Record
from statelesskit.config import Site, load_site
from statelesskit.errors import ConfigError, RefusedError
from statelesskit.witness import tell_witness, told

OLD = PruneRecords(before="2020-01-01")


@pytest.fixture(autouse=True)
def public(site: Site) -> str:
    keys.create_record_key(site.keys)
    return (site.keys / "record.pub").read_text()


def witnessed(site: Site, tmp_path: Path) -> Site:
    return replace(site, witness=("sh", "-c", f"cat > {tmp_path}/seen"))


def test_the_witness_sees_the_checkpoint_of_each_run(site: Site, public: str, tmp_path: Path) -> None:
    site = witnessed(site, tmp_path)
    for size in (1, 2):
        service.perform(site, OLD, service.AT_ONCE)
        assert Checkpoint.verify((tmp_path / "seen").read_bytes(), public).size == size
    with pytest.raises(RefusedError):
        service.perform(site, OLD, "")
    assert Checkpoint.verify((tmp_path / "seen").read_bytes(), public).size == 3
    assert doctor._witness(site).state == "ok"
    assert "3 of 3" in doctor._witness(site).found


@pytest.mark.parametrize("command", [("sh", "-c", "echo no room >&2; exit 3"), ("no-such-program",)])
def test_a_witness_that_fails_stops_no_run_and_is_told(site: Site, command: tuple[str, ...]) -> None:
    outcome = service.perform(replace(site, witness=command), OLD, service.AT_ONCE)
    assert (site.records / outcome.record / "statement.dsse.json").exists()
    found = told(site)
    assert found is not None
    assert found.size == 0
    assert found.error
    assert doctor._witness(replace(site, witness=command)).state == "wrong"


def test_without_a_copy_elsewhere_the_doctor_warns(site: Site) -> None:
    assert "no run has ended yet" in doctor._witness(site).found
    Record.begin(site.records, "push", facts={}).end("completed", 0, key=site.keys / "record.key")
    assert tell_witness(site) is None
    found = doctor._witness(site)
    assert found.state == "warning"
    assert "[audit] witness" in found.fix
    (site.records / "log/checkpoint").write_text("x")
    assert doctor._witness(site).state == "wrong"


def test_the_command_is_read_from_the_configuration(site: Site) -> None:
    path = site.root / "site.toml"
    text = path.read_text()
    assert load_site(site.root).witness == ()
    path.write_text(text.replace("witness = []", 'witness = ["ssh", "a@b", "cat > c"]'))
    assert load_site(site.root).witness == ("ssh", "a@b", "cat > c")
    path.write_text(text.replace("witness = []", 'witness = "ssh"'))
    with pytest.raises(ConfigError, match="expected a command"):
        load_site(site.root)
