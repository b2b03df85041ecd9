"""See that a new snapshot can be read."""

from __future__ import annotations

from typing import Any

from statelesskit.action import check
from statelesskit.config import Site


def manifest_read_back(site: Site, name: str, digest: str) -> list[dict[str, Any]]:
    """Read a snapshot's manifest from the disk, and hold it against its digest."""
    from statelesskit.errors import DamagedError
    from statelesskit.snapshot import check_manifest, load

    try:
        check_manifest(site, load(site, name))
    except DamagedError as error:
        return [check("manifest read back", digest, error.message)]
    return [check("manifest read back", digest, digest)]
