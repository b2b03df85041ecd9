"""Say what of a prototype never comes into a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site
from statelesskit.names import check_name


@dataclass(frozen=True)
class PreparePrototype(Action):
    """Leave secrets and identities of one machine out of a prototype's snapshots."""

    verb: ClassVar[str] = "prototype prepare"
    title: ClassVar[str] = "Prepare a prototype"
    button: ClassVar[str] = "Write the rules"

    name: str = parameter("the prototype", choices=choices.prototypes, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.prototypes(site)

    def objects(self) -> Sequence[str]:
        return [f"prototype/{check_name(self.name, 'prototype')}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.prototype import load
        from statelesskit.prototype.prepare import DEFAULTS, load_rules

        load(site, self.name)
        before = load_rules(site, self.name)
        rows = [{"what": "left out", "is": pattern} for pattern in DEFAULTS.leave_out]
        rows += [{"what": "taken empty", "is": pattern} for pattern in DEFAULTS.empty]
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Leave what is one machine's own out of the snapshots of {self.name}.",
            rows=rows,
            facts={"before": [list(before.leave_out), list(before.empty)]},
            changes=before != DEFAULTS,
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.prototype.prepare import DEFAULTS, write_rules

        write_rules(site, self.name, DEFAULTS)
        return {"prototype": self.name, "left_out": len(DEFAULTS.leave_out), "taken_empty": len(DEFAULTS.empty)}
