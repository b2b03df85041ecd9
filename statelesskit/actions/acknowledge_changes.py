"""Put one's name to changes of the directory that no record made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.config import Site
from statelesskit.directory.authorship import ACKNOWLEDGE

AT_ONCE = 10_000  # the record's event names each


@dataclass(frozen=True)
class AcknowledgeChanges(Action):
    """Say that the changes made past this tool are known, so that ``directory check`` names them no more."""

    verb: ClassVar[str] = ACKNOWLEDGE
    title: ClassVar[str] = "Acknowledge changes"
    button: ClassVar[str] = "Acknowledge"

    reason: str = parameter("why they were made, or who made them", positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return "Changes that no record made", [{"object": one, "finding": found} for _, one, found in _found(site)]

    def objects(self) -> Sequence[str]:
        return ["directory/acknowledge"]

    def plan(self, site: Site) -> Plan:
        found = _found(site)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Acknowledge {len(found[:AT_ONCE])} of {len(found)} changes that no record made.",
            rows=[{"object": one, "finding": text} for _, one, text in found[:AT_ONCE]],
            facts={"changes": [csn for csn, _, _ in found[:AT_ONCE]]},
            notes=["the rest: do it again"] if len(found) > AT_ONCE else [],
            changes=bool(found),
            guard="only a person can know of them",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        return {"acknowledged": plan.facts["changes"], "reason": self.reason}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.unrecorded import acknowledged

        wanted = plan.facts["changes"]
        return [check("changes acknowledged", len(wanted), len(acknowledged(site).intersection(wanted)))]


def _found(site: Site) -> list[tuple[str, str, str]]:
    from statelesskit.directory import open_directory
    from statelesskit.unrecorded import acknowledged, unrecorded_ever

    known = acknowledged(site)
    with open_directory(site) as directory:
        found = unrecorded_ever(site, directory)
        return [(csn, one.object, one.finding) for csn, one in found if csn and csn not in known]
