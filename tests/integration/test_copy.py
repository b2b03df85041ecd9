"""A snapshot goes from one site to another whole, or not at all; and the receiver trusts nothing that comes."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from statelesskit import fs
from statelesskit.audit.keys import create_record_key
from statelesskit.config import FOLDERS, TEMPLATE, Site, load_site
from statelesskit.errors import (
    ConfigError,
    DamagedError,
    FormatError,
    NotFoundError,
    RefusedError,
    StatelessError,
    UsageError,
)
from statelesskit.manifest import HEADER, Entry, Manifest
from statelesskit.snapshot import Snapshot, list_snapshots, load, receiving, set_state
from statelesskit.snapshot.deleted import note_deletion
from statelesskit.snapshot.description import ABOUT, MANIFEST, change
from statelesskit.snapshot.manifest_file import manifest_text
from statelesskit.snapshot.receiving import receive
from statelesskit.snapshot.sending import Target, parse_target, send
from statelesskit.snapshot.taking import take
from statelesskit.snapshot.verify import verify_all
from statelesskit.snapshot.wire import LENGTH, Wire
from statelesskit.store import LARGE, Store
from tests.torture import add_prototype, scratch, statelesskit

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.root
NOISE = random.Random(9)


def new_site(root: Path) -> Site:
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True, mode=mode)
    (root / "site.toml").write_text(TEMPLATE.format(format=1, name="other", base_dn="ou=other", port=1))
    create_record_key(root / "keys")
    return load_site(root)


@pytest.fixture
def other(tmp_path: Path) -> Site:
    return new_site(tmp_path / "other")


@pytest.fixture
def tree(site: Site) -> Path:
    top = add_prototype(site)
    top.mkdir()
    for number in range(50):
        (top / f"{number}").write_bytes(NOISE.randbytes(2000))
    (top / "large").write_bytes(NOISE.randbytes(LARGE + 100))
    (top / "empty").touch()
    return top


@pytest.fixture
def snapshot(site: Site, tree: Path) -> Snapshot:
    return take(site, "desktop", note="the first")[0]


def copied(site: Site, name: str, to: Site | str, expected: int = 0) -> dict[str, object]:
    place = to if isinstance(to, str) else to.root
    argv = statelesskit(site, "snapshot", "copy", name, place, "--json")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stderr
    return json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def clean(site: Site) -> bool:
    return not list(verify_all(site, list_snapshots(site), everything=True))


def leftovers(site: Site) -> list[Path]:
    return [path for folder in (site.snapshots, site.store / "packs") for path in folder.glob(f".*{fs.PARTIAL}*")]


def test_it_arrives_whole_and_only_what_is_missing_is_moved(
    site: Site, other: Site, tree: Path, snapshot: Snapshot
) -> None:
    change(site.snapshots / snapshot.name, **{"of a newer version": [1]})
    set_state(site, snapshot.name, "released")
    result = copied(site, snapshot.name, other)
    assert (result["objects"], result["bytes"], result["was_there"]) == (52, 50 * 2000 + LARGE + 100, False)
    assert (site.records / str(result["record"])).is_dir()
    assert (other.records / str(result["record_there"])).is_dir()
    there = load(other, snapshot.name)
    assert there == snapshot  # its first there too, and staged
    assert json.loads((other.snapshots / snapshot.name / ABOUT).read_text())["of a newer version"] == [1]
    assert manifest_text(other, there) == manifest_text(site, snapshot)
    assert clean(other)
    assert leftovers(other) == []

    again = copied(site, snapshot.name, other)
    assert (again["objects"], again["was_there"]) == (0, True)

    (tree / "0").write_text("changed")
    take(site, "desktop")
    third, _ = take(site, "desktop")
    result = copied(site, third.name, other)
    assert result["objects"] == 1
    there = load(other, third.name)
    assert (there.sequence, there.parent, there.digest) == (2, "", third.digest)
    assert clean(other)


def test_who_may_not_be_copied(site: Site, other: Site, snapshot: Snapshot, tree: Path) -> None:
    with pytest.raises(UsageError, match="this site itself"):
        parse_target(str(site.root / "."), site)
    with pytest.raises(NotFoundError):
        parse_target(str(tree), site)
    for wrong in (
        "ssh:-oProxyCommand=x:/srv",
        "ssh:host",
        "ssh:host:relative",
        "ssh::/srv",
        "ssh:a b:/srv",
        "ssh:h:/\0",
    ):
        with pytest.raises(UsageError):
            parse_target(wrong, site)
    assert str(parse_target("ssh:root@a.example:/srv/stateless", site)) == "ssh:root@a.example:/srv/stateless"
    set_state(site, snapshot.name, "revoked")
    assert "revoked" in str(copied(site, snapshot.name, other, 3)["error"])
    assert list_snapshots(other) == []


def test_another_snapshot_of_that_name_is_refused(site: Site, other: Site, snapshot: Snapshot, tree: Path) -> None:
    copied(site, snapshot.name, other)
    about = other.snapshots / snapshot.name / ABOUT
    about.write_text(json.dumps(json.loads(about.read_text()) | {"digest": "sha256:" + "0" * 64}))
    assert "there is, or was, another" in str(copied(site, snapshot.name, other, 3)["error"])


def test_a_damaged_one_stays_here(site: Site, other: Site, snapshot: Snapshot) -> None:
    """Whether it is known, or only seen while it is sent."""
    for path in (site.store / "packs").iterdir():
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
    assert "is damaged" in str(copied(site, snapshot.name, other, 9)["error"])
    assert list(verify_all(site, [snapshot]))
    assert "is partial" in str(copied(site, snapshot.name, other, 9)["error"])
    assert list_snapshots(other) == []
    assert leftovers(other) == []


def test_one_whose_description_was_altered_stays_here(site: Site, other: Site, snapshot: Snapshot) -> None:
    about = site.snapshots / snapshot.name / ABOUT
    about.write_text(about.read_text().replace("the first", "another"))
    assert "was altered" in str(copied(site, snapshot.name, other, 9)["error"])
    assert list_snapshots(other) == []


def test_what_the_other_side_says_is_passed_on(site: Site, snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no site"):
        send(site, snapshot, Target(str(tmp_path / "none")))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "site.toml").write_text("nonsense")
    with pytest.raises(StatelessError, match=r"site\.toml"):
        send(site, snapshot, Target(str(broken)))
    with pytest.raises(ConfigError):
        parse_target(str(broken), site)


def test_through_ssh(site: Site, other: Site, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words for the other host pass one more shell; here a shell stands in for ssh and the host."""
    target = Target(str(other.root), "host.example")
    argv = target.argv(snapshot)
    assert argv[:1] == ["ssh"]
    assert argv[-2] == "host.example"
    there = f'statelesskit() {{ {sys.executable} -m statelesskit "$@"; }}; {argv[-1]}'
    monkeypatch.setattr(Target, "argv", lambda self, snapshot: ["/bin/sh", "-c", there])
    assert send(site, snapshot, target)["digest"] == snapshot.digest
    assert clean(other)


# --- what a hostile sender may say ------------------------------------------------------------


class Sender:
    """Says what it is told to, as if it came from another site."""

    def __init__(self, about: dict[str, object], text: bytes, objects: dict[bytes, bytes]) -> None:
        self.about, self.manifest, self.objects = about, zstd.compress(text), objects

    def stream(self) -> bytes:
        line = json.dumps({"about": self.about, "manifest_bytes": len(self.manifest)}).encode() + b"\n"
        parts = [
            digest + LENGTH.pack(len(content)) + content + LENGTH.pack(0) for digest, content in self.objects.items()
        ]
        return line + self.manifest + b"".join(parts)


def sha(content: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(content).digest()


CONTENT = b"content of the file"
NAME = "desktop-20261124T000000Z"
ENTRIES = [Entry(b"", "dir", mode=0o755), Entry(b"f", "file", sha256=sha(CONTENT).hex(), size=len(CONTENT))]


def sender(entries: list[Entry], **about: object) -> Sender:
    manifest = Manifest.of(entries)
    text = HEADER + b"".join(manifest.lines)
    facts = {
        "name": NAME, "prototype": "desktop", "sequence": 7, "taken_at": "2026-11-24T00:00:00+00:00", "taken_by": "x",
        "parent": "", "digest": manifest.digest, "entries": 9, "files": 9, "bytes": 9, "state": "released", "note": "",
    }  # fmt: skip
    return Sender(facts | about, text, {sha(CONTENT): CONTENT})


def received(other: Site, said: Sender) -> object:
    digest = str(said.about.get("digest"))
    return receive(other, NAME, digest, Wire(io.BytesIO(said.stream()), io.BytesIO()))


def test_an_honest_sender_is_heard_and_its_counts_are_not_believed(other: Site) -> None:
    received(other, sender(ENTRIES))
    there = load(other, NAME)
    assert (there.entries, there.files, there.bytes, there.sequence, there.state) == (2, 1, len(CONTENT), 1, "staged")
    assert clean(other)


def wrong_object(said: Sender) -> None:
    said.objects = {sha(CONTENT): b"something else here"}


def unasked_object(said: Sender) -> None:
    said.objects = {sha(b"x"): b"x"}


def endless_object(said: Sender) -> None:
    said.objects = {sha(CONTENT): CONTENT + b"x" * 10_000_000}


def short_object(said: Sender) -> None:
    said.objects = {sha(CONTENT): CONTENT[:-1]}


def no_object(said: Sender) -> None:
    said.objects = {}


def cut_manifest(said: Sender) -> None:
    said.manifest = said.manifest[:-1]


def another_manifest(said: Sender) -> None:
    said.manifest = zstd.compress(HEADER + ENTRIES[0].encode())


@pytest.mark.parametrize(
    "spoil", [wrong_object, unasked_object, endless_object, short_object, no_object, cut_manifest, another_manifest]
)
def test_what_is_not_what_it_should_be_is_refused(other: Site, spoil: Callable[[Sender], None]) -> None:
    said = sender(ENTRIES)
    spoil(said)
    with pytest.raises(DamagedError):
        received(other, said)
    assert list_snapshots(other) == []
    assert leftovers(other) == []
    assert list((other.store / "packs").glob("*")) == []


FILE = ENTRIES[1]


@pytest.mark.parametrize(
    "entries",
    [
        [ENTRIES[0], Entry(b"../f", "file", sha256=FILE.sha256, size=FILE.size)],
        [ENTRIES[0], Entry(b"/f", "file", sha256=FILE.sha256, size=FILE.size)],
        [ENTRIES[0], FILE, FILE],
        [ENTRIES[0], Entry(b"a", "symlink", target=b"/etc"), Entry(b"a/f", "file", sha256=FILE.sha256, size=FILE.size)],
        [ENTRIES[0], FILE, Entry(b"g", "file", sha256=FILE.sha256, size=FILE.size + 1)],
        [],
    ],
)
def test_a_manifest_made_by_an_attacker_is_refused(other: Site, entries: list[Entry]) -> None:
    with pytest.raises(FormatError):
        received(other, sender(entries))
    assert list_snapshots(other) == []


@pytest.mark.parametrize(
    "about",
    [
        {"name": "other-20261124T000000Z"}, {"name": "../../x"}, {"prototype": "other"}, {"prototype": "../x"},
        {"checksum": "sha256:" + "0" * 64}, {"taken_at": "never"}, {"note": None}, {"sequence": "1"},
        {"state": 5}, {"digest": "sha256:" + "1" * 64},
    ],
)  # fmt: skip
def test_a_description_that_is_wrong_is_refused(other: Site, about: dict[str, object]) -> None:
    said = sender(ENTRIES)
    digest = str(said.about["digest"])
    said.about |= about
    with pytest.raises(FormatError):
        receive(other, NAME, digest, Wire(io.BytesIO(said.stream()), io.BytesIO()))
    assert [path.name for path in other.snapshots.iterdir()] == []


@pytest.mark.parametrize("stream", [b"", b"\n", b"[]\n", b"{}\n", b"[" * 2_000_000, b'{"about":1}\n', b"\xff\n"])
def test_garbage_is_refused(other: Site, stream: bytes) -> None:
    with pytest.raises(FormatError):
        receive(other, NAME, "sha256:" + "0" * 64, Wire(io.BytesIO(stream), io.BytesIO()))


def test_a_revoked_one_is_refused_by_the_receiver_too(other: Site) -> None:
    with pytest.raises(RefusedError, match="revoked"):
        received(other, sender(ENTRIES, state="revoked"))


def test_what_was_collected_meanwhile_is_asked_for_again(other: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    said = sender(ENTRIES)
    stream = said.stream() + sha(CONTENT) + LENGTH.pack(len(CONTENT)) + CONTENT + LENGTH.pack(0)
    real, calls = receiving.publish, iter(range(100))

    def after_a_collection(*args: object) -> Snapshot:
        if next(calls) == 0:
            for path in (other.store / "packs").glob("*.pack"):
                path.unlink()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(receiving, "publish", after_a_collection)
    receive(other, NAME, str(said.about["digest"]), Wire(io.BytesIO(stream), io.BytesIO()))
    assert next(calls) == 2
    assert clean(other)


def test_a_damaged_object_there_is_asked_for_and_heals(site: Site, other: Site, tree: Path, snapshot: Snapshot) -> None:
    copied(site, snapshot.name, other)
    for path in (other.store / "packs").iterdir():
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
    assert not clean(other)
    assert Store(other.store).listed_damaged()
    (tree / "new").write_text("new")
    second, _ = take(site, "desktop")
    assert int(str(copied(site, second.name, other)["objects"])) > 1
    assert Store(other.store).listed_damaged() == frozenset()
    assert {name for name, _ in verify_all(other, list_snapshots(other))} == {""}  # only the pack is still damaged


def test_a_deleted_name_comes_back_only_as_what_it_was(site: Site, other: Site, snapshot: Snapshot) -> None:
    copied(site, snapshot.name, other)
    there = load(other, snapshot.name)
    note_deletion(other, there, deleted_at="now", deleted_by="x", record="")
    shutil.rmtree(other.snapshots / snapshot.name)
    assert copied(site, snapshot.name, other)["objects"] == 0
    assert load(other, snapshot.name).sequence == 2
    shutil.rmtree(other.snapshots / snapshot.name)
    note_deletion(other, replace(there, digest="sha256:" + "0" * 64), deleted_at="now", deleted_by="x", record="")
    assert "there is, or was, another" in str(copied(site, snapshot.name, other, 3)["error"])


# --- what dies, and full disks ----------------------------------------------------------------


def test_killed_at_any_moment_there_is_all_or_nothing(
    site: Site, other: Site, snapshot: Snapshot, tmp_path: Path
) -> None:
    argv = statelesskit(site, "snapshot", "copy", snapshot.name, other.root)
    began = time.monotonic()
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    whole = time.monotonic() - began
    for turn in range(8):
        shutil.rmtree(other.root)
        new_site(other.root)
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(whole * (0.3 + 0.09 * turn))
        os.killpg(process.pid, 9)  # both sides at once
        process.wait()
        assert clean(other)
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
        assert [one.name for one in list_snapshots(other)] == [snapshot.name]
        assert clean(other)
        assert leftovers(other) == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with scratch() as place:
        (place / "site").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", place / "site"], check=True)
        yield place / "site"


def test_a_full_disk_there_is_said_here(site: Site, snapshot: Snapshot, small_disk: Path) -> None:
    other = new_site(small_disk)
    assert "no space left" in str(copied(site, snapshot.name, other, 8)["error"])
    assert list_snapshots(other) == []
    assert leftovers(other) == []
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    copied(site, snapshot.name, other)
    assert clean(other)
    assert (other.snapshots / snapshot.name / MANIFEST).exists()
