"""Put into a prototype what its clients report with."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site
from statelesskit.errors import StatelessError, UsageError
from statelesskit.names import check_name

# dpkg alone where all that is needed is there, so that no network is; what it prints is no answer of ours.
INSTALL = """\
exec >&2
cat >/tmp/client.deb
dpkg --install /tmp/client.deb && exit
apt-get update && apt-get install -y --no-install-recommends /tmp/client.deb
"""


@dataclass(frozen=True)
class InstallClient(Action):
    """Install the client package in a prototype, so that what boots its snapshots reports what it runs.

    What the package needs and the prototype lacks, which is Python, comes from where its apt points.
    """

    verb: ClassVar[str] = "prototype prepare client"
    title: ClassVar[str] = "Install the client package"
    button: ClassVar[str] = "Install it"

    name: str = parameter("the prototype", choices=choices.prototypes, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.prototypes(site)

    def objects(self) -> Sequence[str]:
        return [f"prototype/{check_name(self.name, 'prototype')}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.client_package import NAME, debian_package
        from statelesskit.prototype import load

        tree = load(site, self.name).tree
        if not (tree / "var/lib/dpkg/status").is_file():
            raise UsageError(
                f"{self.name} has no dpkg, so the Debian package cannot be installed in it",
                hint="without dpkg, put the package's files into it: statelesskit client package TARGET writes them",
            )
        digest, found = hashlib.sha256(debian_package()).hexdigest(), self._installed(site)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Install {NAME} in {self.name}.",
            rows=[{"prototype": self.name, "package": NAME, "installed": found or "no"}],
            facts={"prototype": self.name, "package": digest, "installed": found},
            changes=found != "this version",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.client_package import NAME, debian_package
        from statelesskit.prototype import load
        from statelesskit.prototype.sandbox import run_contained

        work.progress.stage(f"installing {NAME}")
        with tempfile.TemporaryFile() as package:
            package.write(debian_package())
            package.seek(0)
            code = run_contained(
                load(site, self.name).tree,
                ["sh", "-c", INSTALL],
                name=self.name,
                network=True,
                stdin=package.fileno(),
            )
        if code:
            raise StatelessError(
                f"{NAME} could not be installed in {self.name}: status {code}; what dpkg and apt said is above",
                hint=f"it needs python3: statelesskit prototype run {self.name} -- apt-get install -y python3",
            )
        return {"prototype": self.name, "package": NAME}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [check(f"the client package in {self.name}", "this version", self._installed(site))]

    def _installed(self, site: Site) -> str:
        """Say which client package is in the prototype: this version, another, or none."""
        from statelesskit.client_package import NAME, PROGRAM, program
        from statelesskit.prototype import load

        tree = load(site, self.name).tree
        known = (tree / "var/lib/dpkg/status").read_bytes()
        if f"\nPackage: {NAME}\nStatus: install ok installed\n".encode() not in b"\n" + known:
            return ""  # or unpacked alone, without what it needs
        return "this version" if (tree / PROGRAM).read_bytes() == program() else "another version"
