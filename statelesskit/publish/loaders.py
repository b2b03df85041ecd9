"""iPXE itself, for machines whose firmware has none: copied into the publication from Debian's package, if installed.

Firmware fetches these by TFTP, or by HTTP where it can; their names are those the DHCP snippets give out.
"""

from __future__ import annotations

from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site

LOADERS = {  # the name it is published by: where a package has it
    "undionly.kpxe": ("/usr/lib/ipxe/undionly.kpxe",),
    "ipxe.efi": ("/usr/lib/ipxe/snponly.efi", "/usr/lib/ipxe/ipxe.efi"),
    "ipxe-arm64.efi": ("/usr/lib/ipxe/snponly-arm64.efi", "/usr/lib/ipxe/ipxe-arm64.efi"),
}


def stale_loaders(site: Site) -> dict[str, Path]:
    """Return what is installed and not published, or in another version: by its name, where it is."""
    found = {}
    for name, places in LOADERS.items():
        source = next((Path(place) for place in places if Path(place).is_file()), None)
        target = site.publish / "boot" / name
        if source and not (target.exists() and target.read_bytes() == source.read_bytes()):
            found[name] = source
    return found


def put_loaders(site: Site) -> list[str]:
    """Copy those that are stale; return their names."""
    found = stale_loaders(site)
    for name, source in found.items():
        fs.write_file(site.publish / "boot" / name, source.read_bytes())
    return list(found)


def missing_loaders(site: Site) -> list[str]:
    """Return the names of those that are not published."""
    return [name for name in LOADERS if not (site.publish / "boot" / name).exists()]
