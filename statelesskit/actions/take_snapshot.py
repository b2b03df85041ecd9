"""Take a snapshot of a prototype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.entered import enter
from statelesskit.actions.read_back import manifest_read_back
from statelesskit.config import Site
from statelesskit.fs import free_bytes


@dataclass(frozen=True)
class TakeSnapshot(Action):
    """Freeze a prototype's tree as it stands now."""

    verb: ClassVar[str] = "snapshot take"
    title: ClassVar[str] = "Take a snapshot"
    button: ClassVar[str] = "Take the snapshot"

    prototype: str = parameter("the prototype to freeze", choices=choices.prototypes, positional=True)
    note: str = parameter("what this snapshot is for", default="")

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return [f"prototype/{self.prototype}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.prototype import load
        from statelesskit.snapshot import list_snapshots

        prototype = load(site, self.prototype)
        before = list_snapshots(site, self.prototype)
        last = before[-1].name if before else ""
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Take a snapshot of {self.prototype}"
            + (f", the one after {last}" if last else ", its first")
            + ".",
            rows=[
                {"what": "prototype", "is": self.prototype},
                {"what": "tree", "is": str(prototype.tree)},
                {"what": "snapshots so far", "is": len(before)},
                {"what": "free in the store", "is": f"{free_bytes(site.store) / 1e9:.1f} GB"},
            ],
            facts={"prototype": self.prototype, "last": last, "tree": str(prototype.tree)},
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.snapshot.taking import take

        snapshot, taken = take(site, self.prototype, note=self.note, progress=work.progress)
        findings = [finding.as_json() for finding in taken.findings]
        return {
            "snapshot": snapshot.name,
            "digest": snapshot.digest,
            "files": snapshot.files,
            "bytes": snapshot.bytes,
            "new_bytes": taken.new_bytes,
            "findings": findings,
            "in_directory": enter(site),
        }

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return manifest_read_back(site, result["snapshot"], result["digest"])
