"""Write a snapshot as an OCI image layout of one layer, and prove by reading it that it holds the manifest.

Image-spec 1.1: ``oci-layout``, ``index.json`` with one image named after the snapshot, and
``blobs/sha256/…``. The layer is gzip, not zstd, as umoci 0.4 and other tools of Debian 12 read nothing else. It
holds no GNU sparse files, which the specification advises against: holes are there as zeros and a keyword names
them, so an import restores them. A layer can't hold names that begin with ``.wh.``: they would take files away.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any

from statelesskit import fs
from statelesskit.archive.gather import Gathering, hashed
from statelesskit.archive.layout import DIGEST, REF_NAME, open_layout
from statelesskit.archive.write import write_tar
from statelesskit.contents import Contents
from statelesskit.errors import DamagedError, ExistsError, RefusedError, StatelessError
from statelesskit.export.tar import compressed, losses_elsewhere
from statelesskit.export.tree import check_target
from statelesskit.manifest import Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.snapshot import Snapshot
from statelesskit.store import Store
from statelesskit.tree import Finding

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
SNAPSHOT, PROTOTYPE = "statelesskit.snapshot", "statelesskit.prototype"
PROGRAMS = (b"bin/sh", b"usr/bin/env", b"usr/lib/systemd/systemd", b"sbin/init")  # one that tells the architecture
PROGRAM_MAX = 2**26
# elf(5): e_machine, and whether it is little-endian, to the names of Go that the specification wants.
MACHINES = {
    (3, True): "386",
    (21, True): "ppc64le",
    (22, False): "s390x",
    (40, True): "arm",
    (62, True): "amd64",
    (183, True): "arm64",
    (243, True): "riscv64",
    (258, True): "loong64",
}


def losses(manifest: Manifest) -> list[Finding]:
    """Return what other tools than this one do not get out of the image as it was."""
    found = losses_elsewhere(manifest)
    for entry in manifest.entries():
        if entry.holes:
            found.append(Finding(entry.path, "other tools fill its holes"))
        if any(not value for _, value in entry.xattrs):
            found.append(Finding(entry.path, "it has an empty attribute, which tools written in Go leave out"))
    return sorted(found, key=lambda finding: finding.path)


def export_oci(
    snapshot: Snapshot, manifest: Manifest, store: Store, target: Path, *, progress: Progress = SILENT
) -> list[Finding]:
    """Write the layout as the folder ``target``, which must be free. The same snapshot gives the same bytes.

    Returns:
        What other tools do not read, as :func:`losses`.

    Raises:
        RefusedError: the tree holds names that a layer can't.
        ExistsError, NotFoundError, NoSpaceError, DamagedError: as for a tree; nothing is left.
    """
    check_target(target)
    hidden = [entry.path for entry in manifest.entries() if entry.path.rpartition(b"/")[2].startswith(b".wh.")]
    if hidden:
        raise RefusedError(
            f"an image can't hold {printable(os.fsdecode(hidden[0]))}: a name that begins with .wh. takes a file away"
            + (f"; there are {len(hidden)} of them" if len(hidden) > 1 else ""),
            hint="export a tar archive, or rename it in the prototype and take a new snapshot",
        )
    try:
        with fs.new_folder(target) as folder:
            _write_layout(folder, snapshot, manifest, store, progress)
            _check(folder, snapshot, manifest, progress)
            progress.stage("writing to disk")
            fs.sync_filesystem(folder)
    except FileExistsError as error:
        raise ExistsError(f"{target} is already there", hint="name another place") from error
    return losses(manifest)


def _write_layout(folder: Path, snapshot: Snapshot, manifest: Manifest, store: Store, progress: Progress) -> None:
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer, diff_id = _write_layer(blobs, manifest, store, progress)
    labels = {SNAPSHOT: snapshot.name, PROTOTYPE: snapshot.prototype, DIGEST: manifest.digest}
    created = snapshot.taken_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    config = _write_json(
        blobs,
        CONFIG_TYPE,
        {
            "created": created,
            "architecture": _architecture(Contents(manifest, store)),
            "os": "linux",
            "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": "statelesskit export oci", "comment": snapshot.name}],
        },
    )
    image = _write_json(
        blobs,
        MANIFEST_TYPE,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config,
            "layers": [layer],
            "annotations": {**labels, "org.opencontainers.image.created": created},
        },
    )
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**image, "annotations": {REF_NAME: snapshot.name}}],
    }
    (folder / "index.json").write_bytes(fs.canonical_json(index))
    (folder / "oci-layout").write_bytes(fs.canonical_json({"imageLayoutVersion": "1.0.0"}))


def _write_layer(blobs: Path, manifest: Manifest, store: Store, progress: Progress) -> tuple[dict[str, Any], str]:
    """Write the layer; return its descriptor and the digest of the archive in it."""
    total = hashlib.sha256()
    temporary = blobs / "layer"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with compressed(fd, "gzip") as write:

            def see(data: bytes) -> None:
                total.update(data)
                write(data)

            write_tar(manifest, store, see, sparse=False, comment=False, progress=progress)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    temporary.rename(blobs / digest)
    return {"mediaType": LAYER_TYPE, "digest": f"sha256:{digest}", "size": size}, "sha256:" + total.hexdigest()


def _write_json(blobs: Path, media_type: str, value: dict[str, Any]) -> dict[str, Any]:
    data = fs.canonical_json(value)
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _architecture(contents: Contents) -> str:
    """Return what the tree's programs are built for, in Go's words; "unknown" if there are none."""
    for path in PROGRAMS:
        with suppress(StatelessError):
            head = (contents.read(path, PROGRAM_MAX) or b"")[:20]
            if head.startswith(b"\x7fELF") and len(head) == 20:
                little = head[5] == 1
                (machine,) = struct.unpack("<H" if little else ">H", head[18:20])
                return MACHINES.get((machine, little), "unknown")
    return "unknown"


def _check(folder: Path, snapshot: Snapshot, manifest: Manifest, progress: Progress) -> None:
    layout = open_layout(folder)
    gathering = Gathering(hashed, progress)
    layout.gather(layout.image(snapshot.name), gathering, progress)
    if (found := gathering.manifest().digest) != manifest.digest:
        raise DamagedError(f"the image came out with the digest {found}, expected {manifest.digest}")
