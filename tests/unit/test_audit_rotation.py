"""The key of the records is rotated: who knows any of the keys follows to all, wherever the rotation died, and only
where each signed for the next."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from statelesskit import fs, service
from statelesskit.actions.rotate_key import RotateKey
from statelesskit.audit import handover, keys, log, sshsig
from statelesskit.audit.entering import enter_ended
from statelesskit.audit.handover import read_keys
from statelesskit.audit.records import Record
from statelesskit.audit.verify import verify_record, verify_records
from statelesskit.audit_folder import export_records
from statelesskit.cli import cli
from statelesskit.config import Site
from statelesskit.errors import AuditError, RefusedError
from statelesskit.witness import checkpoint_of

STEPS = ("hand-over written", "key in its place", "public key in its place", "checkpoint signed")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_MOMENT_S", 0)
    monkeypatch.setattr("statelesskit.audit.verify.is_at_work", lambda path: False)
    monkeypatch.setattr("statelesskit.audit_folder.is_at_work", lambda path: False)


@pytest.fixture(autouse=True)
def first(site: Site) -> str:
    """Return the fingerprint an auditor was told when the site was made."""
    return keys.create_record_key(site.keys)


def made(site: Site) -> Path:
    record = Record.begin(site.records, "push apply", facts={})
    record.end("completed", 0, key=site.keys / "record.key")
    return record.path


def rotated(site: Site) -> str:
    return str(service.perform(site, RotateKey(), service.AT_ONCE).result["fingerprint"])


def public(site: Site) -> str:
    return (site.keys / "record.pub").read_text()


@pytest.fixture
def three(site: Site, first: str) -> list[str]:
    """Rotate twice, with records before, between and after; return the fingerprints."""
    made(site)
    second = rotated(site)
    made(site)
    third = rotated(site)
    made(site)
    return [first, second, third]


def strangers(folder: Path, fingerprint: str) -> subprocess.CompletedProcess[str]:
    argv = ["sh", str(folder / "verify.sh"), fingerprint]
    return subprocess.run(argv, cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)


def ours(*words: str, at: Site | None = None) -> int:
    where = ["--site", str(at.root)] if at else []
    done = CliRunner().invoke(cli, [*where, "audit", "verify", *words], standalone_mode=False)
    if done.exception and not isinstance(done.exception, AuditError):
        raise done.exception
    return 1 if done.exception else int(done.return_value)


def test_who_knows_any_of_the_keys_follows_to_all(site: Site, three: list[str], tmp_path: Path) -> None:
    assert len(set(three)) == 3
    export_records(site, tmp_path / "out")
    for fingerprint in three:
        done = strangers(tmp_path / "out", fingerprint)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert ours("--fingerprint", fingerprint, str(tmp_path / "out/records")) == 0
    assert verify_records(site.records, public(site)) == []
    names = [line.split()[1].partition("/")[0] for line in (site.records / "log/entries").read_text().splitlines()]
    for name in names:  # each by itself too
        assert verify_record(site.records / name, public(site)) == []
    sealed = [json.loads((site.records / name / "statement.dsse.json").read_bytes()) for name in names]
    assert [three.index(one["signatures"][0]["keyid"]) for one in sealed] == [0, 1, 1, 2, 2]


def test_a_key_that_never_was_one_is_refused(site: Site, three: list[str], tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    other = keys.create_record_key(tmp_path / "k")
    export_records(site, tmp_path / "out")
    assert "nothing here can be believed" in strangers(tmp_path / "out", other).stdout
    assert ours("--fingerprint", other, str(tmp_path / "out/records")) == 1
    assert ours("--key", str(tmp_path / "k/record.pub"), str(tmp_path / "out/records")) == 1


def test_the_old_key_is_gone_and_listed(site: Site, three: list[str]) -> None:
    assert sorted(path.name for path in site.keys.iterdir() if not path.name.startswith(".")) == [
        "record.key", "record.pub",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, ["--site", str(site.root), "key", "list", "--json"])
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert [row["fingerprint"] for row in rows] == three
    assert [row["seals"] for row in rows] == ["1 to 1", "2 to 3", "4 to now"]
    assert keys.create_record_key(site.keys) == three[-1]


def test_checkpoints_kept_of_before_hold(site: Site, tmp_path: Path) -> None:
    made(site)
    kept = tmp_path / "kept"
    shutil.copy(site.records / "log/checkpoint", kept)
    rotated(site)
    assert checkpoint_of(site)[1].size == 2
    words = ["--site", str(site.root), "audit", "verify", "--checkpoint", str(kept)]
    assert CliRunner().invoke(cli, words, standalone_mode=False).return_value == 0


def test_what_a_replaced_key_signs_later_is_not_believed(site: Site, tmp_path: Path) -> None:
    made(site)
    stolen = tmp_path / "record.key"
    shutil.copy(site.keys / "record.key", stolen)
    rotated(site)
    forged = Record.begin(site.records, "push apply", facts={})
    forged.finish("completed", 0, key=stolen)
    entries = (site.records / "log/entries").read_bytes()
    found = verify_records(site.records, public(site))
    assert {(one.record, one.file) for one in found} == {(forged.name, "statement.dsse.json"), (forged.name, "")}
    # And a checkpoint of it, made with the stolen key.
    digest = hashlib.sha256((forged.path / "statement.dsse.json").read_bytes()).hexdigest()
    more = entries + log.Entry(digest, forged.name).encode() + b"\n"
    listed, _ = log.decode(more)
    origin = checkpoint_of(site)[1].origin
    note = log.Checkpoint(origin, len(listed), log.root_of(listed), hashlib.sha256(more).hexdigest()).sign(stolen)
    with pytest.raises(AuditError, match="was replaced after 1"):
        read_keys(site.records / "log", public(site)).checkpoint(note)
    (site.records / "log/entries").write_bytes(more)
    (site.records / "log/checkpoint").write_bytes(note)
    (site.records / "log/checkpoint.sig").write_bytes(sshsig.sign(note, log.NAMESPACE, stolen))
    assert {"checkpoint", "statement.dsse.json"} <= {one.file for one in verify_records(site.records, public(site))}


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """Return what alters the first hand-over and signs it with another key, which is all a forger has."""

    def tamper(records: Path, forger: Path) -> None:
        place = records / "log/handover-1"
        text = change((place / "handover").read_bytes())
        (place / "handover").write_bytes(text)
        for name in ("old.sig", "new.sig"):
            (place / name).write_bytes(sshsig.sign(text, handover.NAMESPACE, forger))

    return tamper


def forge_new_key(records: Path, forger: Path) -> None:
    old = handover.claimed(records / "log")[0]
    text = handover.Handover(old.origin, old.size, old.entries_sha256, old.old, forger.with_suffix(".pub").read_text())
    rewritten(lambda _: text.encode().replace(b"\n\n", b"\n"))(records, forger)


def flipped(name: str) -> Callable[[Path, Path], None]:
    def tamper(records: Path, forger: Path) -> None:
        path = records / "log/handover-1" / name
        data = path.read_bytes()
        path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])

    return tamper


def exchanged(records: Path, forger: Path) -> None:
    one, two = records / "log/handover-1", records / "log/handover-2"
    one.rename(records / "log/x")
    two.rename(one)
    (records / "log/x").rename(two)


TAMPERING: dict[str, Callable[[Path, Path], object]] = {
    "a bit of the hand-over": flipped("handover"),
    "a bit of the old key's signature": flipped("old.sig"),
    "a bit of the new key's signature": flipped("new.sig"),
    "another size, signed with another key": rewritten(lambda text: text.replace(b"entries 1 ", b"entries 2 ")),
    "another key put in": forge_new_key,
    "a hand-over removed": lambda records, _: shutil.rmtree(records / "log/handover-1"),
    "the last hand-over removed": lambda records, _: shutil.rmtree(records / "log/handover-2"),
    "two exchanged": exchanged,
    "a signature removed": lambda records, _: (records / "log/handover-1/old.sig").unlink(),
}


@pytest.mark.parametrize("known", [0, 1, 2])
@pytest.mark.parametrize("what", TAMPERING)
def test_an_altered_hand_over_is_found(site: Site, three: list[str], tmp_path: Path, what: str, known: int) -> None:
    (tmp_path / "k").mkdir()
    keys.create_record_key(tmp_path / "k")
    export_records(site, tmp_path / "out")
    TAMPERING[what](tmp_path / "out/records", tmp_path / "k/record.key")
    assert ours("--fingerprint", three[known], str(tmp_path / "out/records")) == 1
    assert strangers(tmp_path / "out", three[known]).returncode == 1


def test_a_key_replaced_without_a_hand_over_seals_nothing(site: Site, first: str, tmp_path: Path) -> None:
    made(site)
    for name in ("record.key", "record.pub"):
        (site.keys / name).unlink()
    keys.create_record_key(site.keys)
    record = Record.begin(site.records, "push apply", facts={})
    with pytest.raises(AuditError, match="is damaged"):
        record.end("completed", 0, key=site.keys / "record.key")
    assert ours("--fingerprint", first, at=site) == 1


@pytest.mark.parametrize("step", range(4))
def test_a_rotation_that_was_killed_is_completed_by_the_next_record(
    site: Site, first: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(site)
    writes = iter(range(99))

    def until(real: Callable[..., None]) -> Callable[..., None]:
        def primitive(*words: object) -> None:
            if next(writes) >= after:
                raise KeyboardInterrupt
            real(*words)

        return primitive

    # What rotating renames: the new key's file, the hand-over's three files and folder, the key, its public half,
    # the checkpoint and its signature.
    after = (5, 6, 7, 8)[step]
    with monkeypatch.context() as killed:
        killed.setattr(fs, "rename", until(fs.rename))
        with pytest.raises(KeyboardInterrupt), log.held(site.records, site.keys / "record.key") as writer:
            writer.hand_over()
    assert len(handover.claimed(site.records / "log")) == 1
    made(site)
    assert verify_records(site.records, public(site)) == []
    assert ours("--fingerprint", first, at=site) == 0
    assert keys.fingerprint(public(site)) != first
    assert not (site.keys / "record.next").exists()


@pytest.mark.parametrize("after", range(5))
def test_a_rotation_that_was_killed_early_did_not_happen(
    site: Site, first: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(site)
    writes = iter(range(99))
    real = fs.rename

    def rename(source: Path, target: Path) -> None:
        if next(writes) >= after:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as killed:
        killed.setattr(fs, "rename", rename)
        with pytest.raises(KeyboardInterrupt), log.held(site.records, site.keys / "record.key") as writer:
            writer.hand_over()
    made(site)
    assert keys.fingerprint(public(site)) == first
    assert verify_records(site.records, public(site)) == []
    second = rotated(site)
    assert verify_records(site.records, public(site)) == []
    assert keys.fingerprint(public(site)) == second


def test_what_was_sealed_and_not_entered_is_sealed_again(site: Site) -> None:
    made(site)
    old = site.keys / "old.key"
    shutil.copy(site.keys / "record.key", old)
    record = Record.begin(site.records, "push apply", facts={})
    rotated(site)
    record.finish("completed", 0, key=old)  # it had read the key just before that was replaced
    enter_ended(site.records, site.keys / "record.key")
    assert verify_records(site.records, public(site)) == []


def test_nothing_is_handed_over_before_anything_was_sealed(site: Site) -> None:
    with (
        pytest.raises(RefusedError, match="nothing to hand over"),
        log.held(site.records, site.keys / "record.key") as writer,
    ):
        writer.hand_over()
    with pytest.raises(RefusedError, match="a person"):
        service.perform(site, RotateKey(), service.AUTO)
