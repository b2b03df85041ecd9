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


def put_loaders(site: Site) -> list[str]:
    """Copy what is installed and not published, or in another version; return the names of those copied."""
    copied = []
    for name, places in LOADERS.items():
        source = next((Path(place) for place in places if Path(place).is_file()), None)
        target = site.publish / "boot" / name
        if source and (not target.exists() or target.read_bytes() != source.read_bytes()):
            fs.write_file(target, source.read_bytes())
            copied.append(name)
    return copied


def missing_loaders(site: Site) -> list[str]:
    """Return the names of those that are not published."""
    return [name for name in LOADERS if not (site.publish / "boot" / name).exists()]
