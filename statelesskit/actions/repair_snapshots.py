"""Give snapshots back what they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site

SHOWN = 10  # findings that the error names; the record has all


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
        from statelesskit.snapshot import load
        from statelesskit.snapshot.redescribe import damaged
        from statelesskit.snapshot.registry import look_at_snapshots
        from statelesskit.snapshot.source import open_source
        from statelesskit.snapshot.whole import is_partial

        place = Path(self.place).absolute()
        source = open_source(place)
        broken = sorted(name for name in damaged(site) if self.snapshot in ("", name))
        if self.snapshot:
            snapshots = [] if broken else [load(site, self.snapshot)]
        else:
            snapshots = [one for one in look_at_snapshots(site)[0] if one.name not in broken]
        partial = [one.name for one in snapshots if is_partial(site, one.name)]
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Verify {self.snapshot or 'all snapshots'}, and fetch what is lost from {source.kind} at {place}.",
            rows=[
                {"what": "snapshots", "is": len(snapshots) + len(broken)},
                {"what": "known to be partial", "is": " ".join(partial) or "none"},
                {"what": "their description is damaged", "is": " ".join(broken) or "none"},
                {"what": "from", "is": f"{source.kind} at {place}"},
            ],
            facts={
                "place": str(place),
                "snapshots": {one.name: one.digest for one in snapshots},
                "descriptions_damaged": broken,
            },
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.snapshot import load
        from statelesskit.snapshot.redescribe import damaged, redescribe
        from statelesskit.snapshot.repair import repair
        from statelesskit.snapshot.source import open_source

        source = open_source(Path(plan.facts["place"]))
        broken = plan.facts["descriptions_damaged"]
        restored = {name: found for name in broken if (found := redescribe(site, name, source)) is not None}
        snapshots = [load(site, name) for name in (*plan.facts["snapshots"], *restored)]
        done = repair(site, snapshots, source, work.progress)
        lost = {name: fault for name, fault in damaged(site).items() if name in broken}
        return {
            "descriptions_restored": {name: {"not_proven": fields} for name, fields in restored.items()},
            "manifests_restored": done.manifests,
            "objects_fetched": done.objects,
            "packs_set_aside": [path.name for path in done.set_aside],
            "findings": [
                *({"snapshot": name, "path": "", "finding": fault} for name, fault in lost.items()),
                *({"snapshot": name, **finding.as_json()} for name, finding in done.left),
            ],
        }

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        left = [": ".join(filter(None, one.values())) for one in result["findings"]]
        more = [f"and {len(left) - SHOWN} more"] if len(left) > SHOWN else []
        return [check("findings left", "none", "; ".join([*left[:SHOWN], *more]) or "none")]
