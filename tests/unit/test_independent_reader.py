"""Another reader, made from the docstrings of the formats' modules alone: so they say all that is needed.

They are manifest.py, pack.py, snapshot/manifest_file.py and snapshot/description.py; the index is derived, and nobody
has to read it.

Everything above the line of dashes knows nothing of statelesskit; it uses the zstd program.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

from statelesskit.collect import free
from statelesskit.manifest import HEADER, Entry
from statelesskit.snapshot.registry import set_note
from statelesskit.store import Store, Writer
from statelesskit.take import take_tree
from tests.two_sites import TwoSites


def zstd(packed: bytes) -> bytes:
    return subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=True).stdout


def read_pack(path: Path) -> dict[str, bytes]:
    """Return the contents in a pack by their digests, one frame at a time."""
    data = path.read_bytes()
    count, flags, magic = struct.unpack("<IBI", data[-9:])
    assert (flags, magic) == (0, 0x8F92EAB1)
    seek = data[len(data) - 9 - 8 * count : -9]
    end = len(data) - 9 - 8 * count - 8
    assert struct.unpack("<II", data[end : end + 8]) == (0x184D2A5E, 8 * count + 9)
    packed_sha, tables_sha, objects, mark = struct.unpack("<32s32sQ8s", data[end - 80 : end])
    assert mark == b"SKPACK01"
    rows = data[end - 80 - 40 * objects : end - 80]
    end -= 80 + 40 * objects + 8
    assert struct.unpack("<II", data[end : end + 8]) == (0x184D2A51, len(rows) + 80)
    assert hashlib.sha256(data[:end]).digest() == packed_sha
    assert hashlib.sha256(rows + seek + packed_sha).digest() == tables_sha
    assert path.name == tables_sha.hex() + ".pack"
    stream, place = b"", 0
    for packed, size in struct.iter_unpack("<II", seek):
        assert size <= 4 * 2**20
        frame = zstd(data[place : place + packed])
        assert len(frame) == size
        stream, place = stream + frame, place + packed
    assert place == end
    assert stream == zstd(data)
    found, place = {}, 0
    for digest, size in struct.iter_unpack("<32sQ", rows):
        content = stream[place : place + size]
        assert hashlib.sha256(content).digest() == digest
        found[digest.hex()] = content
        place += size
    assert place == len(stream)
    return found


def read_snapshot(packed_manifest: bytes, packs: Path) -> tuple[str, dict[bytes, dict]]:
    """Return a snapshot's digest, and of each path what the manifest says, with ``content`` for files."""
    text = zstd(packed_manifest)
    assert text.isascii()
    assert text.endswith(b"\n")
    head, *lines = text[:-1].split(b"\n")
    assert json.loads(head) == {"flags": [], "format": "statelesskit-manifest", "version": 1}
    contents: dict[str, bytes] = {}
    for path in packs.glob("*.pack"):
        contents |= read_pack(path)
    found: dict[bytes, dict] = {}
    for line in lines:
        entry = json.loads(line)
        path = entry.pop("path").encode("utf-8", "surrogateescape")
        assert not found or path > max(found)
        if entry["type"] == "link":
            entry = found[entry["link_to"].encode("utf-8", "surrogateescape")]
        elif entry["type"] == "file":
            entry["content"] = contents[entry["sha256"]]
            assert len(entry["content"]) == entry["size"]
        found[path] = {"mode": 0, "uid": 0, "gid": 0, "mtime_ns": 0, "xattrs": {}, **entry}
    return hashlib.sha256(text).hexdigest(), found


def read_folder(folder: Path) -> tuple[dict, dict[bytes, dict]]:
    """Return what is said about a snapshot of a site, and what is in it."""
    about = json.loads((folder / "snapshot.json").read_bytes())
    fields = {name: value for name, value in about.items() if name != "checksum"}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    assert about["checksum"] == "sha256:" + hashlib.sha256(canonical).hexdigest()
    packed = (folder / "manifest.jsonl.zst").read_bytes()
    assert about["manifest_file"] == "sha256:" + hashlib.sha256(packed).hexdigest()
    digest, found = read_snapshot(packed, folder.parents[1] / "store/packs")
    assert about["digest"] == "sha256:" + digest
    assert about["entries"] == len(found)
    return about, found


# --------------------------------------------------------------------------------------------------


def test_another_reader_gets_everything_back(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    contents = {
        b"empty": b"",
        b"sub/many": b"abc" * 200_000,
        b"sub/\xff\n": b"odd",
        b"large": os.urandom(5 * 2**20),
        b"sub/equal": b"odd",
    }
    for path, content in contents.items():
        Path(os.fsdecode(os.fsencode(tree) + b"/" + path)).write_bytes(content)
    (tree / "link").symlink_to("sub")
    os.link(tree / "large", tree / "sub/hard")
    os.truncate(tree / "empty", 10_000)
    lines: list[bytes] = [HEADER]
    store = Store(tmp_path / "store")
    take_tree(tree, store, lines.append)
    with Writer(store, 1) as writer:
        writer.add(0, b"of another snapshot")
        writer.finish()
    packed = subprocess.run(["zstd", "-cq"], input=b"".join(lines), capture_output=True, check=True).stdout

    digest, found = read_snapshot(packed, store.packs)
    assert digest == hashlib.sha256(b"".join(lines)).hexdigest()
    assert set(found) == {b"", b"sub", b"link", b"sub/hard", *contents}
    contents |= {b"empty": bytes(10_000), b"sub/hard": contents[b"large"]}
    assert {path: found[path]["content"] for path in contents} == contents
    assert found[b"sub"]["mtime_ns"] == (tree / "sub").stat().st_mtime_ns
    assert found[b"link"]["target"] == "sub"
    assert found[b"empty"]["holes"] == [[0, 10_000]]
    assert Entry(b"", "dir", mode=found[b""]["mode"]).mode == tree.stat().st_mode & 0o7777


@pytest.mark.root
def test_another_reader_reads_a_site_also_after_packs_were_written_anew(tmp_path: Path) -> None:
    sites = TwoSites(tmp_path / "base")
    sites.take()
    sites.write("noise", os.urandom(3 * 2**20))
    name = sites.take().name
    set_note(sites.here, name, "a note with an ä")
    for repack in (False, True):
        free(sites.here, repack=repack)
        about, found = read_folder(sites.here.snapshots / name)
        assert (about["sequence"], about["note"]) == (2, "a note with an ä")
        files = {path: entry["content"] for path, entry in found.items() if "content" in entry}
        assert files == {
            path.encode(): (sites.tree / path).read_bytes() for path in ("a", "b/c", "etc/os-release", "noise")
        }
