from __future__ import annotations

import multiprocessing
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from statelesskit.audit import keys
from statelesskit.errors import DamagedError, EnvironmentLacksError, UsageError


def test_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    fingerprint = keys.create_record_key(tmp_path)
    printed = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "record.pub"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert printed == ["256", fingerprint, "statelesskit-records", "(ED25519)"]


def test_key_is_private_and_made_once(tmp_path: Path) -> None:
    fingerprint = keys.create_record_key(tmp_path)
    private = tmp_path / "record.key"
    before = private.read_bytes()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert before.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert keys.create_record_key(tmp_path) == fingerprint
    assert private.read_bytes() == before


def test_half_made_key_is_completed(tmp_path: Path) -> None:
    fingerprint = keys.create_record_key(tmp_path)
    public = (tmp_path / "record.pub").read_bytes()
    (tmp_path / "record.pub").unlink()
    assert keys.create_record_key(tmp_path) == fingerprint
    assert (tmp_path / "record.pub").read_bytes() == public


def test_foreign_public_half_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    keys.create_record_key(tmp_path)
    keys.create_record_key(tmp_path / "other")
    (tmp_path / "other" / "record.pub").replace(tmp_path / "record.pub")
    with pytest.raises(DamagedError, match="not the public half"):
        keys.create_record_key(tmp_path)


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 %%%", "ssh-ed25519 AAAA", "ssh-rsa AAAA x", "é \x1b"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no Ed25519 public key"):
        keys.fingerprint(text)


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_damaged_private_key_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "record.key").write_bytes(damage)
    with pytest.raises(DamagedError, match="holds no private key"):
        keys.load_private(tmp_path / "record.key")


def test_private_key_of_another_kind_is_named(tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-m", "PKCS8", "-N", "", "-f", tmp_path / "record.key"], check=True
    )
    with pytest.raises(DamagedError, match="another kind"):
        keys.load_private(tmp_path / "record.key")


def test_missing_private_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacksError, match="no record key"):
        keys.load_private(tmp_path / "record.key")


def test_several_who_make_the_key_at_once_make_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(keys.create_record_key, [tmp_path] * 8))) == 1


def test_cryptography_is_loaded_only_when_it_is_needed() -> None:
    code = "import sys, statelesskit.audit.show, statelesskit.audit.verify; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"cryptography", "securesystemslib", "pandas"} & set(loaded)
