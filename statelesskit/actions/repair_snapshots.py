"""Give snapshots back what they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site


@dataclass(frozen=True)
class RepairSnapshots(Action):
    """Verify snapshots, and fetch what is missing or damaged from another place."""

    verb: ClassVar[str] = "snapshot repair"
    title: ClassVar[str] = "Repair snapshots"
    button: ClassVar[str] = "Repair"

    place: str = parameter("another site's folder, a store's folder, or an exported tree", flag="--repair-from")
    snapshot: str = parameter("the snapshot; all, if none is named", default="", choices=choices.snapshots)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return ["store/repair"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.snapshot import list_snapshots, load
        from statelesskit.snapshot.source import open_source
        from statelesskit.snapshot.whole import is_partial

        place = Path(self.place).absolute()
        source = open_source(place)
        snapshots = [load(site, self.snapshot)] if self.snapshot else list_snapshots(site)
        partial = [one.name for one in snapshots if is_partial(site, one.name)]
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Verify {self.snapshot or 'all snapshots'}, and fetch what is lost from {source.kind} at {place}.",
            rows=[
                {"what": "snapshots", "is": len(snapshots)},
                {"what": "known to be partial", "is": " ".join(partial) or "none"},
                {"what": "from", "is": f"{source.kind} at {place}"},
            ],
            facts={"place": str(place), "snapshots": {one.name: one.digest for one in snapshots}},
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.snapshot import load
        from statelesskit.snapshot.repair import repair
        from statelesskit.snapshot.source import open_source

        snapshots = [load(site, name) for name in plan.facts["snapshots"]]
        done = repair(site, snapshots, open_source(Path(plan.facts["place"])), work.progress)
        return {
            "manifests_restored": done.manifests,
            "objects_fetched": done.objects,
            "packs_set_aside": [path.name for path in done.set_aside],
            "findings": [{"snapshot": name, **finding.as_json()} for name, finding in done.left],
        }

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [check("findings left", 0, len(result["findings"]))]
