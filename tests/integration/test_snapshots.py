"""Snapshots on disk: their names and order, what dies while one is taken, and what verify finds."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.errors import ConfigError, DamagedError, NoSpaceError, NotFoundError
from statelesskit.prototype.prepare import DEFAULTS, FILE, write_rules
from statelesskit.snapshot import description, list_snapshots, load, load_manifest, set_state
from statelesskit.snapshot.description import ABOUT, MANIFEST
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify
from statelesskit.store import Store
from tests.torture import add_prototype, scratch, statelesskit
from tests.witness import look

pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


def leftovers(site: Site) -> list[Path]:
    return [path for folder in (site.snapshots, site.store / "packs") for path in folder.glob(f".*{fs.PARTIAL}*")]


# --- snapshots --------------------------------------------------------------------------------


@pytest.fixture
def desktop(site: Site) -> Path:
    top = add_prototype(site)
    top.mkdir()
    for number in range(30):
        (top / f"folder{number}").mkdir()
        for other in range(10):
            (top / f"folder{number}/{other}").write_text(f"{number} {other}" * 50)
    return top


def test_an_unchanged_tree_has_the_same_digest_and_another_name(site: Site, desktop: Path) -> None:
    first, _ = take(site, "desktop")
    second, result = take(site, "desktop", note="again")
    assert first.name != second.name
    assert first.digest == second.digest == load_manifest(site, second).digest
    assert (result.new_bytes, second.parent, second.note, second.sequence) == (0, first.name, "again", 2)
    (desktop / "folder0/0").chmod(0o600)
    third, _ = take(site, "desktop")
    assert third.digest != first.digest
    assert list_snapshots(site) == [first, second, third]
    assert list_snapshots(site, "desk") == []
    assert load(site, third.name) == third


def test_the_order_is_the_sequence_whatever_the_clock_says(
    site: Site, desktop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([5, 5, 5, 2, 7])

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 11, 23, 7, 30, next(times), tzinfo=UTC)

    monkeypatch.setattr("statelesskit.snapshot.publish.datetime", Clock)
    names = [take(site, "desktop")[0].name for _ in range(5)]
    base = "desktop-20261123T0730"
    assert names == [f"{base}05Z", f"{base}05Z-2", f"{base}05Z-3", f"{base}02Z", f"{base}07Z"]
    assert [found.name for found in list_snapshots(site)] == names


def test_a_prototype_whose_tree_is_gone_is_named(site: Site) -> None:
    add_prototype(site)
    with pytest.raises(NotFoundError, match="desktop"):
        take(site, "desktop")
    assert list(site.snapshots.iterdir()) == []


def test_leftovers_of_a_prototype_with_a_like_name_stay(site: Site, desktop: Path) -> None:
    """ "desktop.partial-x" is a good name for a prototype, and a take of it may be going on."""
    other = site.snapshots / f".desktop{fs.PARTIAL}x{fs.PARTIAL}01234567"
    dead = site.snapshots / f".desktop{fs.PARTIAL}01234567"
    other.mkdir()
    dead.mkdir()
    take(site, "desktop")
    assert other.exists()
    assert not dead.exists()


# --- what dies --------------------------------------------------------------------------------


def check_clean(site: Site) -> None:
    for found in list_snapshots(site):
        assert list(verify(site, found)) == []


def test_kill_9_at_any_moment_leaves_nothing_half_made(site: Site, desktop: Path) -> None:
    noise = random.Random(9)
    for number in range(8):
        (desktop / f"large{number}").write_bytes(noise.randbytes(3 * 2**20))
    began = time.monotonic()
    take(site, "desktop")
    whole = time.monotonic() - began
    complete, left = 1, 0
    for _ in range(16):
        (desktop / "changes").write_bytes(noise.randbytes(8 * 2**20))
        argv = statelesskit(site, "snapshot", "take", "desktop")
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            before = set(leftovers(site))
            while set(leftovers(site)) <= before and process.poll() is None:
                time.sleep(0.002)  # until it has begun to write
            time.sleep(0.6 * whole * noise.random())
        finally:
            process.kill()
            process.wait()
        left += bool(leftovers(site))
        check_clean(site)
        complete = max(complete, len(list_snapshots(site)))
    assert left > 1, "the moments were not in the middle"
    last, _ = take(site, "desktop")
    check_clean(site)
    assert leftovers(site) == []
    sequences = [found.sequence for found in list_snapshots(site)]
    assert sequences == list(range(1, len(sequences) + 1))
    assert last.sequence == complete + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_cleanly_and_at_once(site: Site, desktop: Path, number: signal.Signals) -> None:
    (desktop / "zeros").touch()
    os.truncate(desktop / "zeros", 2**36)  # takes a minute to read, and no space
    argv = statelesskit(site, "snapshot", "take", "desktop")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list((site.store / "packs").glob(f".*{fs.PARTIAL}*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 143, err
    assert b"Traceback" not in err
    assert leftovers(site) == []
    assert list((site.store / "packs").iterdir()) == []
    assert list_snapshots(site) == []
    os.truncate(desktop / "zeros", 0)
    take(site, "desktop")
    check_clean(site)


def test_a_full_disk_leaves_nothing_and_works_again_with_space(place: Path) -> None:
    root = place / "site"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", root], check=True)
    for name, mode in FOLDERS.items():
        (root / name).mkdir(mode=mode)
    (root / "site.toml").write_text(TEMPLATE.format(format=1, name="t", base_dn="ou=stateless", port=1))
    site = load_site(root)
    top = place / "elsewhere"
    top.mkdir()
    folder = add_prototype(site).parent
    about = json.loads((folder / "prototype.json").read_text())
    (folder / "prototype.json").write_text(json.dumps(about | {"source": f"at:{top}", "tree": str(top)}))
    (top / "small").write_text("small")
    first, _ = take(site, "desktop")
    used = fs.free_bytes(root)
    for number in range(20):
        (top / f"noise{number}").write_bytes(random.Random(number).randbytes(2**20))
    (top / "large").write_bytes(random.Random(1).randbytes(9 * 2**20))
    with pytest.raises(NoSpaceError) as raised:
        take(site, "desktop")
    assert raised.value.exit_code == 8
    assert str(root) in str(raised.value)
    assert leftovers(site) == []
    assert fs.free_bytes(root) >= used - 16384
    check_clean(site)
    done = subprocess.run(
        statelesskit(site, "snapshot", "take", "desktop"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 8, done.stderr
    assert "free some space" in done.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", root], check=True)
    second, _ = take(site, "desktop")
    assert (second.sequence, second.parent) == (2, first.name)
    check_clean(site)


# --- verify -----------------------------------------------------------------------------------


def verified(site: Site) -> subprocess.CompletedProcess[str]:
    argv = statelesskit(site, "snapshot", "verify", "--json")
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def flip(path: Path, place: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def pack_of(site: Site, sha256: str) -> Path:
    place = Store(site.store).place(bytes.fromhex(sha256))
    assert place
    return place[0].path


def test_verify_names_what_is_damaged(site: Site, desktop: Path) -> None:
    (desktop / "noise").write_bytes(random.Random(4).randbytes(500_000))
    found, _ = take(site, "desktop")
    done = verified(site)
    assert (done.returncode, done.stdout) == (0, "")
    folder = site.snapshots / found.name
    pack = pack_of(site, load_manifest(site, found).find(b"noise").sha256)
    whole = {path: path.read_bytes() for path in (pack, folder / MANIFEST, folder / ABOUT)}

    def restore() -> None:
        for path, data in whole.items():
            path.write_bytes(data)

    flip(pack, len(whole[pack]) // 2)
    done = verified(site)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert {row["snapshot"] for row in rows} == {"", found.name}
    assert "noise" in {row["path"] for row in rows}
    assert str(pack) in next(row["finding"] for row in rows if not row["path"])

    restore()
    flip(pack, -3)  # in the tables: nothing in it can be found any more
    rows = [json.loads(line) for line in verified(site).stdout.splitlines()]
    assert "noise" in {row["path"] for row in rows}
    assert str(pack) in next(row["finding"] for row in rows if not row["path"])

    restore()
    pack.unlink()
    rows = [json.loads(line) for line in verified(site).stdout.splitlines()]
    assert "noise" in {row["path"] for row in rows}
    assert all("not in the store" in row["finding"] for row in rows)

    restore()
    manifest = folder / MANIFEST
    for spoil in (
        lambda: flip(manifest, len(whole[manifest]) // 2),
        lambda: manifest.write_bytes(b""),
        manifest.unlink,
    ):
        spoil()
        done = verified(site)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 1
        assert str(manifest) in rows[0]["finding"]

    restore()
    (folder / MANIFEST).write_bytes(whole[manifest] + b"\0")
    assert verified(site).returncode == 1

    restore()
    about = json.loads(whole[folder / ABOUT])
    (folder / ABOUT).write_text(json.dumps(about | {"files": about["files"] + 1}))
    rows = verified(site).stdout
    assert "counts other" in rows
    assert "checksum" in rows
    assert verified(site).returncode == 1
    restore()
    assert verified(site).returncode == 0


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"[]", b"null", b'{"format":1}', b'{"format":2}', b"\xff", b"[" * 10_000, None],
)
def test_a_broken_description_is_named_and_hurts_no_other_prototype(
    site: Site, desktop: Path, broken: bytes | None
) -> None:
    found, _ = take(site, "desktop")
    (add_prototype(site, "kiosk")).mkdir()
    about = site.snapshots / found.name / ABOUT
    about.unlink() if broken is None else about.write_bytes(broken)
    for call in (
        lambda: load(site, found.name),
        lambda: list_snapshots(site),
        lambda: take(site, "desktop"),
    ):
        with pytest.raises(DamagedError, match=str(about)) as raised:
            call()
        assert raised.value.exit_code == 9
    assert leftovers(site) == []
    assert take(site, "kiosk")[0].sequence == 1


@pytest.mark.parametrize("field", ["name", "sequence", "taken_at", "bytes", "digest", "note", "state"])
def test_a_description_with_a_wrong_field_is_damaged(site: Site, desktop: Path, field: str) -> None:
    found, _ = take(site, "desktop")
    about = site.snapshots / found.name / ABOUT
    for wrong in (True, None, [], 1.5, {}):
        about.write_text(json.dumps({"format": 1, **found.as_json(), field: wrong}))
        with pytest.raises(DamagedError):
            load(site, found.name)


def test_a_snapshot_under_another_name_is_named(site: Site, desktop: Path) -> None:
    found, _ = take(site, "desktop")
    other = site.snapshots / "desktop-20200101T000000Z"
    (site.snapshots / found.name).rename(other)
    with pytest.raises(DamagedError, match=found.name):
        list_snapshots(site)


def test_unknown_fields_stay(site: Site, desktop: Path) -> None:
    found, _ = take(site, "desktop")
    about = json.loads((site.snapshots / found.name / ABOUT).read_text())
    description.write(site.snapshots / found.name, about | {"of a newer version": [1]})
    before, after = set_state(site, found.name, "tested")
    assert (before.state, after.state) == ("staged", "tested")
    assert json.loads((site.snapshots / found.name / ABOUT).read_text())["of a newer version"] == [1]
    assert list(verify(site, after)) == []


def test_what_was_altered_in_a_description_shows_and_no_later_change_hides_it(site: Site, desktop: Path) -> None:
    found, _ = take(site, "desktop", note="of the nightly build")
    about = site.snapshots / found.name / ABOUT
    whole = about.read_text()
    for old, new in (
        ("nightly", "mightly"),
        ('"sequence": 1', '"sequence": 3'),
        ('"state": "staged"', '"state": "tested"'),
    ):
        about.write_text(whole.replace(old, new))
        (finding,) = verify(site, load(site, found.name))
        assert f"{about} was altered" in finding.finding
    set_state(site, found.name, "released")
    (finding,) = verify(site, load(site, found.name))
    assert "was altered" in finding.finding


def test_a_description_of_an_older_version_gets_its_checksum_when_it_changes(site: Site, desktop: Path) -> None:
    found, _ = take(site, "desktop")
    about = site.snapshots / found.name / ABOUT
    about.write_text(
        json.dumps({name: value for name, value in json.loads(about.read_text()).items() if name != "checksum"})
    )
    (finding,) = verify(site, load(site, found.name))
    assert "no checksum" in finding.finding
    set_state(site, found.name, "tested")
    assert list(verify(site, load(site, found.name))) == []


# --- what is never in one ---------------------------------------------------------------------


def test_what_is_one_machines_own_is_left_out_and_the_prototype_stays(site: Site, desktop: Path) -> None:
    for path, content in (
        ("etc/ssh/ssh_host_rsa_key", "secret"),
        ("etc/ssh/ssh_host_rsa_key.pub", "public"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("var/lib/apt/lists/partial/x", "list"),
        ("home/u/kept", "kept"),
    ):
        (desktop / path).parent.mkdir(parents=True, exist_ok=True)
        (desktop / path).write_text(content)
    (desktop / "etc/machine-id").chmod(0o444)
    os.link(desktop / "etc/ssh/ssh_host_rsa_key", desktop / "home/u/another name")
    before = look(desktop, times_of_reading=True)
    first, told = take(site, "desktop")
    assert {finding.path for finding in told.findings} == {b"etc/machine-id", b"etc/ssh/ssh_host_rsa_key"}
    assert all("prototype prepare --defaults" in finding.finding for finding in told.findings)
    write_rules(site, "desktop", DEFAULTS)
    for _ in range(2):  # the second one from memory
        second, told = take(site, "desktop")
        assert told.findings == []
        lost = {entry.path for entry in load_manifest(site, first).entries()}
        lost -= {entry.path for entry in load_manifest(site, second).entries()}
        assert lost == {
            b"etc/ssh/ssh_host_rsa_key",
            b"etc/ssh/ssh_host_rsa_key.pub",
            b"var/lib/apt/lists/partial",
            b"var/lib/apt/lists/partial/x",
        }
        emptied = load_manifest(site, second).find(b"etc/machine-id")
        assert (emptied.size, emptied.mode) == (0, 0o444)
        assert load_manifest(site, second).find(b"home/u/another name").type == "file"
        assert list(verify(site, second)) == []
        assert second.bytes == sum(entry.size for entry in load_manifest(site, second).entries())
    assert look(desktop, times_of_reading=True) == before
    (desktop / FILE).write_text("")
    (site.prototypes / "desktop" / FILE).write_text("leave = []")
    with pytest.raises(ConfigError):
        take(site, "desktop")
