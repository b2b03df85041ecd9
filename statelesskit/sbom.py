"""The bill of materials of a snapshot, as CycloneDX JSON: the same bytes whenever it is made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from statelesskit import __version__
from statelesskit.inventory import Inventory
from statelesskit.packages import Package
from statelesskit.snapshot import Snapshot

if TYPE_CHECKING:
    from packageurl import PackageURL

FORMATS = ("cyclonedx-json",)
# By package manager: the type of its package URLs, and whose packages they are if os-release does not say.
_PURL = {"dpkg": ("deb", "debian"), "apk": ("apk", "alpine"), "rpm": ("rpm", "fedora")}
_WORD = re.compile(r"[a-z0-9._-]+", re.ASCII)  # what os-release(5) allows in ID and VERSION_ID


def cyclonedx(snapshot: Snapshot, inventory: Inventory) -> str:
    """Return a snapshot's packages and kernels as CycloneDX 1.6, in JSON.

    Serial number and time are the snapshot's own, so that equal snapshots are seen to be equal.
    """
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    release = inventory.os_release
    root = Component(
        name=snapshot.name,
        version=snapshot.digest,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=snapshot.name,
        description=release.get("PRETTY_NAME") or None,
    )
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"statelesskit:{snapshot.name}:{snapshot.digest}"))
    bom.metadata.timestamp = snapshot.taken_at
    bom.metadata.component = root
    bom.metadata.tools.components.add(
        Component(name="statelesskit", version=__version__, type=ComponentType.APPLICATION)
    )
    # What could not be understood must not look as if it were not there.
    bom.metadata.properties.update(
        Property(name="statelesskit:finding", value=finding.finding) for finding in inventory.findings
    )
    components = {}
    for package in inventory.packages:
        purl = package_url(package, release)
        components[purl.to_string()] = Component(
            name=package.name,
            version=package.version,
            type=ComponentType.LIBRARY,
            purl=purl,
            bom_ref=purl.to_string(),
            properties=[
                Property(name="statelesskit:source", value=package.source),
                Property(name="statelesskit:source-version", value=package.source_version),
            ],
        )
    for kernel in inventory.kernels:
        reference = f"kernel:{kernel.version}"
        components[reference] = Component(
            name="kernel", version=kernel.version, type=ComponentType.OPERATING_SYSTEM, bom_ref=reference
        )
    bom.components.update(components.values())
    bom.register_dependency(root, components.values())
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text + "\n"


def package_url(package: Package, os_release: dict[str, str]) -> PackageURL:
    """Return a package's URL, as the package-url specification has it for each manager."""
    from packageurl import PackageURL

    kind, vendor = _PURL[package.manager]
    identity, number = (os_release.get(name, "") for name in ("ID", "VERSION_ID"))
    epoch, colon, version = package.version.partition(":")
    apart = package.manager == "rpm" and colon  # only there the epoch stands beside the version
    return PackageURL(
        type=kind,
        namespace=identity if _WORD.fullmatch(identity) else vendor,
        name=package.name,
        version=version if apart else package.version,
        qualifiers={
            "arch": package.arch,
            "epoch": epoch if apart else "",
            "distro": f"{identity}-{number}" if _WORD.fullmatch(identity) and _WORD.fullmatch(number) else "",
        },
    )
