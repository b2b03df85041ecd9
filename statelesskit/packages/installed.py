"""All packages of a tree, whichever manager keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from statelesskit.contents import Contents
from statelesskit.errors import RefusedError
from statelesskit.packages import apk, dpkg, rpm
from statelesskit.packages.model import Package
from statelesskit.tree import Finding

READERS = {"dpkg": dpkg.read, "apk": apk.read, "rpm": rpm.read}


@dataclass(frozen=True, slots=True)
class Installed:
    """What is installed, sorted; ``findings`` say what of the databases could not be understood."""

    packages: tuple[Package, ...]
    findings: tuple[Finding, ...]


def read_installed(contents: Contents) -> Installed:
    """Read every package database of a tree; one that is hostile or cut off is a finding.

    Raises:
        DamagedError: an object of a database is missing from the store, or damaged there.
    """
    packages: set[Package] = set()
    findings: list[Finding] = []
    for manager, read in READERS.items():
        try:
            packages.update(read(contents, findings))
        except RefusedError as error:
            findings.append(Finding(b"", f"{manager}: {error.message}"))
    return Installed(tuple(sorted(packages)), tuple(findings))
