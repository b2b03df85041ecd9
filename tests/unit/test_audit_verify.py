from __future__ import annotations

import base64
import copy
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from statelesskit.audit import events, keys
from statelesskit.audit.cells import cell_digests
from statelesskit.audit.records import Record
from statelesskit.audit.verify import Finding, verify_record, verify_records
from statelesskit.errors import EnvironmentLacksError, UsageError
from statelesskit.fs import canonical_json

SPAWN = multiprocessing.get_context("spawn")
NOTEBOOK: dict[str, Any] = {
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Push\n", "it"]},
        {
            "cell_type": "code",
            "execution_count": 1,
            "id": "b",
            "metadata": {"papermill": {"status": "completed"}},
            "outputs": [{"name": "stdout", "output_type": "stream", "text": ["one\n", "two"]}],
            "source": "push()",
        },
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.create_record_key(tmp_path)
    return tmp_path / "record.key"


@pytest.fixture
def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


def begun(records: Path) -> Record:
    record = Record.begin(records, "20-push", facts={"parameters": {"channel": "desktop/stable"}})
    record.attach("plan.json", b'{"rows":[]}')
    for digests in cell_digests(NOTEBOOK):
        record.event("cell", **digests)
    record.attach("record.ipynb", json.dumps(NOTEBOOK).encode())
    return record


@pytest.fixture
def sealed(records: Path, key: Path) -> Path:
    record = begun(records)
    record.end("completed", 0, key=key, changes="desktop/stable from a to b")
    return record.path


def found(path: Path, public: str) -> list[tuple[str, str]]:
    return [(finding.file, finding.finding) for finding in verify_record(path, public)]


def test_sealed_record_is_clean(sealed: Path, public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(sealed, public) == []
    assert verify_records(sealed.parent, public) == []
    monkeypatch.chdir(sealed)
    assert found(Path(), public) == []


def test_every_flipped_byte_is_found_in_its_file(sealed: Path, public: str) -> None:
    flips = 0
    for file in sorted(sealed.iterdir()):
        data = file.read_bytes()
        with file.open("r+b", buffering=0) as raw:
            for at, byte in enumerate(data):
                # 0x20 turns small letters into capitals, which hex and base64 decoders may not mind.
                for flip in (0x01, 0x20):
                    os.pwrite(raw.fileno(), bytes([byte ^ flip]), at)
                    findings = found(sealed, public)
                    assert findings, f"byte {at} of {file.name}"
                    assert {name for name, _ in findings} == {file.name}, f"byte {at} of {file.name}: {findings}"
                    flips += 1
                os.pwrite(raw.fileno(), bytes([byte]), at)
    assert flips > 4000
    assert found(sealed, public) == []


def test_every_cut_and_every_added_byte_is_found(sealed: Path, public: str) -> None:
    for file in sorted(sealed.iterdir()):
        data = file.read_bytes()
        for other in (data[:-1], data[:-2], data[: len(data) // 2], b"", data + b"\n", data + b" ", b"\n" + data):
            file.write_bytes(other)
            assert {name for name, _ in found(sealed, public)} == {file.name}
        file.write_bytes(data)


def test_every_missing_file_is_named(sealed: Path, public: str) -> None:
    for file in sorted(sealed.iterdir()):
        data = file.read_bytes()
        file.unlink()
        ((name, finding),) = found(sealed, public)
        assert name == file.name
        assert finding.startswith("is missing")
        file.write_bytes(data)


def test_added_files_are_named_whatever_they_are(sealed: Path, public: str) -> None:
    (sealed / "extra").write_bytes(b"")
    (sealed / "\x1b[31m").write_bytes(b"")
    os.mkfifo(sealed / "fifo")
    (sealed / "folder").mkdir()
    (sealed / "link").symlink_to("/etc/passwd")
    Path(os.fsdecode(bytes(sealed) + b"/\xff")).write_bytes(b"")
    assert [name for name, _ in found(sealed, public)] == ["\\x1b[31m", "extra", "fifo", "folder", "link", "\\udcff"]


@pytest.mark.parametrize("name", ["plan.json", "events.jsonl", "statement.dsse.json"])
def test_no_file_is_followed_or_waited_for(sealed: Path, public: str, name: str) -> None:
    file, elsewhere = sealed / name, sealed.parent.parent / "elsewhere"
    file.rename(elsewhere)
    for kind, make in {
        "a symbolic link": lambda: file.symlink_to(elsewhere),
        "a FIFO": lambda: os.mkfifo(file),
        "a folder": file.mkdir,
    }.items():
        make()
        assert found(sealed, public) == [(name, f"is {kind}, not a file")]
        file.rmdir() if kind == "a folder" else file.unlink()


@pytest.mark.parametrize(
    ("where", "value", "finding"),
    [
        (("cells", 1, "outputs", 0, "text"), "another", "cell 1: output altered"),
        (("cells", 1, "outputs"), [], "cell 1: output altered"),
        (("cells", 0, "source"), "another", "cell 0: source altered"),
        (("cells",), NOTEBOOK["cells"][:1], "cell 1: missing"),
        (("cells", 1, "metadata"), {}, "altered, but in no recorded cell's source or output"),
        (("cells",), 3, "is no notebook any more"),
        (("cells",), [3], "is no notebook any more"),
        (("cells", 1, "outputs"), [[]], "is no notebook any more"),
    ],
)
def test_altered_cell_is_named(sealed: Path, public: str, where: tuple[Any, ...], value: Any, finding: str) -> None:
    notebook: Any = copy.deepcopy(NOTEBOOK)
    inner = notebook
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    (sealed / "record.ipynb").write_text(json.dumps(notebook))
    assert found(sealed, public) == [("record.ipynb", finding)]


def test_cell_digests_are_equal_in_memory_and_in_the_file() -> None:
    data = {"text/plain": "a\nb", "application/json": ["a", "b"], "image/svg+xml": "<svg>\n</svg>"}
    outputs = [
        nbformat.v4.new_output("stream", text="one\ntwo\n"),
        nbformat.v4.new_output("display_data", data),
        nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["a", "b"]),
    ]
    memory = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a = 1\nb = 2", outputs=outputs)])
    assert cell_digests(memory) == cell_digests(json.loads(nbformat.writes(memory)))
    with pytest.raises(ValueError, match="no notebook"):
        cell_digests({"cells": [None]})


def tampered_logs(lines: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    for at in range(len(lines)):
        yield f"line {at + 1} removed", lines[:at] + lines[at + 1 :]
        yield f"line {at + 1} repeated", lines[: at + 1] + lines[at:]
        yield f"cut after line {at}", lines[:at]
    for at in range(len(lines) - 1):
        yield f"lines {at + 1} and {at + 2} exchanged", [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


def test_every_tampered_log_is_named(sealed: Path, public: str) -> None:
    log = sealed / "events.jsonl"
    for what, lines in tampered_logs(log.read_bytes().splitlines(keepends=True)):
        log.write_bytes(b"".join(lines))
        findings = found(sealed, public)
        assert {name for name, _ in findings} == {"events.jsonl"}, (what, findings)


def test_cut_log_tells_how_many_events_were_signed(sealed: Path, public: str) -> None:
    log = sealed / "events.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert found(sealed, public) == [("events.jsonl", "was cut or added to: 5 events, 6 were signed")]


def test_log_written_anew_is_found(sealed: Path, public: str, key: Path) -> None:
    forged = Record(sealed.parent / "forged", "")
    forged.path.mkdir()
    for name in ("plan.json", "record.ipynb"):
        (forged.path / name).write_bytes((sealed / name).read_bytes())
    for event in events.read(sealed / "events.jsonl")[0]:
        facts = {**event.facts, "channel": "another"} if event.kind == "begin" else event.facts
        events.append(forged.path / "events.jsonl", event.kind, facts)
    (forged.path / "events.jsonl").replace(sealed / "events.jsonl")
    assert found(sealed, public) == [
        ("events.jsonl", "is not what was signed: the last event was altered, or all of them were written anew")
    ]


def test_statement_of_another_record(sealed: Path, public: str, key: Path) -> None:
    other = begun(sealed.parent)
    other.end("failed", 1, key=key)
    shutil.copy(other.path / "statement.dsse.json", sealed / "statement.dsse.json")
    assert found(sealed, public) == [("statement.dsse.json", f"is the statement of another record, {other.path.name}")]


def test_renamed_folder(sealed: Path, public: str) -> None:
    renamed = sealed.rename(sealed.with_name("20200101T000000Z-20-push-00000000"))
    assert found(renamed, public) == [("", f"the folder was renamed; it was {sealed.name}")]
    assert verify_record(renamed, public)[0].record == renamed.name


def test_other_key(sealed: Path, public: str, key: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    theirs = keys.create_record_key(tmp_path / "other")
    other = (tmp_path / "other" / "record.pub").read_text()
    ((file, finding),) = found(sealed, other)
    assert (file, finding) == (
        "statement.dsse.json",
        f"is signed with the key {keys.fingerprint(public)}, expected {theirs}",
    )


def test_signature_by_another_key_that_claims_to_be_ours(sealed: Path, public: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    theirs = keys.create_record_key(tmp_path / "other")
    (sealed / "statement.dsse.json").unlink()
    Record.join(sealed).seal(tmp_path / "other" / "record.key")
    statement = sealed / "statement.dsse.json"
    ours = statement.read_bytes().replace(theirs.encode(), keys.fingerprint(public).encode())
    statement.write_bytes(ours)
    ((file, finding),) = found(sealed, public)
    assert file == "statement.dsse.json"
    assert finding.startswith("the signature does not match")


def test_key_that_is_none_is_the_callers_fault(sealed: Path) -> None:
    with pytest.raises(UsageError):
        verify_record(sealed, "ssh-rsa AAAA")


def respelt(statement: bytes) -> Iterator[bytes]:
    envelope = json.loads(statement)
    yield json.dumps(envelope, indent=1).encode()
    yield canonical_json({**envelope, "note": "hello"}) + b"\n"
    (signature,) = envelope["signatures"]
    yield canonical_json({**envelope, "signatures": [{**signature, "note": "hello"}]}) + b"\n"
    yield canonical_json({**envelope, "signatures": [signature, {**signature, "keyid": "x"}]}) + b"\n"
    yield canonical_json({**envelope, "signatures": [signature, signature]}) + b"\n"
    yield canonical_json({**envelope, "signatures": []}) + b"\n"
    yield canonical_json({**envelope, "payloadType": "text/plain"}) + b"\n"
    payload = json.loads(base64.b64decode(envelope["payload"]))
    yield canonical_json({**envelope, "payload": base64.b64encode(json.dumps(payload).encode()).decode()}) + b"\n"
    yield statement.replace(b"=", b"", 1)


HOSTILE = [b"", b"null", b"[]", b"{}", b"3", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b'{"payload":3}', b"{" * 9]


def test_statement_has_one_spelling_only(sealed: Path, public: str) -> None:
    file = sealed / "statement.dsse.json"
    for other in (*respelt(file.read_bytes()), *HOSTILE):
        file.write_bytes(other)
        assert [name for name, _ in found(sealed, public)] == ["statement.dsse.json"]


def test_other_things_the_key_signed_are_no_statement(sealed: Path, public: str, key: Path) -> None:
    payloads = [b"", b"{}", b"[]", b'{"subject":[{"name":[],"digest":{"sha256":1}}],"predicate":{}}', *HOSTILE]
    payloads += [b'{"subject":[{"name":1,"digest":{"sha256":"1"}}],"predicate":{}}', b'{"subject":[],"predicate":[]}']
    private = keys.load_private(key)
    for payload in payloads:
        envelope = Envelope(payload, "application/vnd.in-toto+json", {})
        envelope.sign(CryptoSigner(private, keys.load_public(keys.public_line(private.public_key()))))
        (sealed / "statement.dsse.json").write_bytes(canonical_json(envelope.to_dict()) + b"\n")
        assert found(sealed, public) == [
            ("statement.dsse.json", "the key signed something else than a record's statement")
        ]


def test_hostile_files_of_every_name_are_findings(sealed: Path, public: str) -> None:
    for name in ("events.jsonl", "plan.json", "record.ipynb"):
        data = (sealed / name).read_bytes()
        for other in HOSTILE:
            (sealed / name).write_bytes(other)
            assert {file for file, _ in found(sealed, public)} == {name}
        (sealed / name).write_bytes(data)
    os.truncate(sealed / "events.jsonl", 1 << 30)
    os.truncate(sealed / "statement.dsse.json", 1 << 30)
    assert {file for file, _ in found(sealed, public)} == {"events.jsonl", "statement.dsse.json"}


def test_running_lost_and_unsealed_are_told_apart(records: Path, public: str, key: Path) -> None:
    record = begun(records)
    assert found(record.path, public) == [("statement.dsse.json", "is missing: the run still goes on")]
    with pytest.raises(EnvironmentLacksError):
        record.end("completed", 0, key=key.with_name("nothing"))
    ((file, finding),) = found(record.path, public)
    assert file == "statement.dsse.json"
    assert "not sealed" in finding
    record.seal(key)
    assert found(record.path, public) == []

    worker = SPAWN.Process(target=begun, args=(records,))
    worker.start()
    worker.join()
    (lost,) = set(records.iterdir()) - {record.path}
    assert found(lost, public) == [("statement.dsse.json", "is missing: the run vanished before its end")]
    (lost / "plan.json").write_bytes(b"")
    (lost / "record.ipynb").write_bytes(b"")  # may be newer than the log when the machine went down
    assert ("plan.json", "altered") in found(lost, public)
    assert len(found(lost, public)) == 2


def test_unsealed_record_is_held_against_its_own_end(records: Path, public: str, key: Path) -> None:
    record = begun(records)
    record.end("completed", 0, key=key)
    (record.path / "statement.dsse.json").unlink()
    (record.path / "plan.json").write_bytes(b"")
    (record.path / "extra").write_bytes(b"")
    assert [name for name, _ in found(record.path, public)] == ["statement.dsse.json", "extra", "plan.json"]


def test_what_cannot_be_sealed_does_not_hide_the_outcome(records: Path, public: str, key: Path) -> None:
    record = begun(records)
    (record.path / "link").symlink_to("/etc/passwd")
    record.end("completed", 0, key=key)
    assert [name for name, _ in found(record.path, public)] == ["link"]


def test_strange_things_among_the_records(sealed: Path, public: str) -> None:
    (sealed.parent / "stray").write_bytes(b"")
    (sealed.parent / "zlink").symlink_to(sealed)
    (sealed.parent / "zz").mkdir()
    assert verify_records(sealed.parent, public) == [
        Finding("stray", "", "is no record's folder: Not a directory"),
        Finding("zlink", "", "is a symbolic link, not a record's folder"),
        Finding("zz", "statement.dsse.json", "is missing: nothing here is sealed"),
        Finding("zz", "events.jsonl", "is missing"),
    ]
