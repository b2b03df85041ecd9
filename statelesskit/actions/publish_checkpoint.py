"""Put the log's checkpoint where others keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work
from statelesskit.actions import surveys
from statelesskit.config import Site


@dataclass(frozen=True)
class PublishCheckpoint(Action):
    """Put the checkpoint of the log of records into the directory, so that who cuts the log is found out."""

    verb: ClassVar[str] = "audit publish"
    title: ClassVar[str] = "Publish the checkpoint of the records"
    button: ClassVar[str] = "Publish"

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.records(site)

    def objects(self) -> Sequence[str]:
        return ["records/checkpoint"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.witness import checkpoint_of

        _, checkpoint = checkpoint_of(site)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Publish the checkpoint of {checkpoint.size} records.",
            rows=[{"log": checkpoint.origin, "records": checkpoint.size}],
            facts={"origin": checkpoint.origin},
            notes=["the run that does it is one more, which the next checkpoint covers"],
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.witness import publish_checkpoint

        with open_directory(site) as directory:
            return {"origin": plan.facts["origin"], "records": publish_checkpoint(site, directory)}
