"""Archives and images made by hand, and trees to make them of."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from statelesskit.config import Site
from statelesskit.manifest import Manifest
from statelesskit.snapshot import Snapshot, load_manifest
from statelesskit.snapshot.taking import take
from tests import torture
from tests.torture import add_prototype
from tests.witness import Facts


def taken(site: Site, build: Any) -> tuple[Snapshot, Manifest, Path]:
    top = add_prototype(site)
    build(top)
    snapshot, result = take(site, "desktop")
    assert result.findings == []
    return snapshot, load_manifest(site, snapshot), top


def ordinary(top: Path) -> None:
    """All of the torture tree that a program of 4 KiB paths can hold."""
    top.mkdir()
    for part in ("types", "modes_and_owners", "contents", "names", "attributes", "hard_links", "times"):
        getattr(torture, f"_{part}")(top)
    os.setxattr(top / "attributes/file", "user.50%=half%25", b"a name that must be quoted")


def small(top: Path) -> None:
    (top / "bin").mkdir(parents=True)
    (top / "bin/dash").write_bytes(Path("/bin/dash").read_bytes())
    (top / "bin/sh").symlink_to("/bin/dash")
    (top / "etc").mkdir()
    (top / "etc/hostname").write_text("x")
    os.truncate(top / "etc/hostname", 100_000)
    os.link(top / "etc/hostname", top / "etc/name")


def differences(expected: Facts, found: Facts) -> dict[bytes, set[str]]:
    """Return for each path the facts that differ; a path that is missing differs in all."""
    differ = {path: {"extra"} for path in found.keys() - expected.keys()}
    for path, facts in expected.items():
        others = found.get(path, {})
        if keys := {key for key in facts.keys() | others.keys() if facts.get(key) != others.get(key)}:
            differ[path] = keys
    return differ


def nothing_left(site: Site) -> bool:
    """No snapshot, nothing unfinished, and no pack."""
    return [path for folder in (site.snapshots, site.store) for path in folder.rglob("*") if path.is_file()] == []


Made = tuple[str, bytes | None, dict[str, Any]]


def archive(folder: Path, *members: Made, form: int = tarfile.PAX_FORMAT) -> Path:
    path = folder / "made.tar"
    with tarfile.open(path, "w", format=form) as out:
        for name, content, fields in members:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            if content is not None:
                info.size = len(content)
            out.addfile(info, io.BytesIO(content or b""))
    return path


def pax(**records: str) -> dict[str, Any]:
    return {"pax_headers": {name.replace("__", "."): value for name, value in records.items()}}


LINK, SYMLINK, DIR = {"type": tarfile.LNKTYPE}, {"type": tarfile.SYMTYPE}, {"type": tarfile.DIRTYPE}


class Layout:
    """An image made by hand."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "blobs/sha256").mkdir(parents=True)
        self.layers: list[dict[str, Any]] = []
        self.diff_ids: list[str] = []

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.top / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, *members: Made) -> dict[str, Any]:
        data = archive(self.top, *members).read_bytes()
        (self.top / "made.tar").unlink()
        self.diff_ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        self.layers.append(self.blob(gzip.compress(data), "application/vnd.docker.image.rootfs.diff.tar.gzip"))
        return self.layers[-1]

    def finish(self, name: str = "x") -> Path:
        rootfs = {"type": "layers", "diff_ids": self.diff_ids}
        config = self.blob(json.dumps({"rootfs": rootfs}).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = {"schemaVersion": 2, "config": config, "layers": self.layers}
        image = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        image["annotations"] = {"org.opencontainers.image.ref.name": name}
        (self.top / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [image]}))
        (self.top / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        return self.top
