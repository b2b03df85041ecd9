"""A package, and what every reader of a database holds it to."""

from __future__ import annotations

from dataclasses import dataclass

DATABASE_MAX = 512 * 1024 * 1024  # bytes; ten times the largest in use
TEXT_MAX = 1000  # characters in one field


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One installed package.

    Attributes:
        manager: ``dpkg``, ``apk`` or ``rpm``; says which rules order the versions.
        version: as the manager writes it; with rpm ``[EPOCH:]VERSION-RELEASE``.
        source, source_version: what it was built from; its own name and version if nothing else is said.
    """

    manager: str
    name: str
    arch: str
    version: str
    source: str
    source_version: str

    @property
    def plausible(self) -> bool:
        """Whether it can be a package at all, in a database that may be garbage."""
        texts = (self.name, self.arch, self.version, self.source, self.source_version)
        return bool(self.name and self.version) and max(map(len, texts)) <= TEXT_MAX
