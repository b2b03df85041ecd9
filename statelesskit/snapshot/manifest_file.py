"""The manifest at rest, ``snapshots/NAME/manifest.jsonl.zst``, checked whenever it is read."""

from __future__ import annotations

import hashlib
import sys

from statelesskit.config import Site
from statelesskit.errors import DamagedError
from statelesskit.manifest import Manifest
from statelesskit.snapshot.registry import Snapshot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MANIFEST = "manifest.jsonl.zst"
MANIFEST_MAX = 4 * 1024**3  # bytes, decompressed; more than ten million files need


def load_manifest(site: Site, snapshot: Snapshot) -> Manifest:
    """Read a snapshot's manifest and check every entry of it. Raises as :func:`manifest_text`."""
    return Manifest.parse(manifest_text(site, snapshot))


def manifest_text(site: Site, snapshot: Snapshot) -> bytes:
    """Read a snapshot's manifest as it stands, and check that it is the one the snapshot is named for.

    Raises:
        DamagedError: it is missing, cut off, or its digest is another.
    """
    path = site.snapshots / snapshot.name / MANIFEST
    try:
        decompressor = zstd.ZstdDecompressor()
        text = decompressor.decompress(path.read_bytes(), max_length=MANIFEST_MAX)
    except (OSError, zstd.ZstdError) as error:
        raise DamagedError(f"the manifest {path} cannot be read: {error}") from error
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    if digest != snapshot.digest or not decompressor.eof or decompressor.unused_data:
        raise DamagedError(f"the manifest {path} is damaged: its digest is {digest}, expected {snapshot.digest}")
    return text
