"""Create a prototype from one of the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import surveys
from statelesskit.actions.entered import enter
from statelesskit.config import Site
from statelesskit.errors import ExistsError
from statelesskit.fs import free_bytes
from statelesskit.names import check_name


@dataclass(frozen=True)
class CreatePrototype(Action):
    """Make a new editable root tree."""

    verb: ClassVar[str] = "prototype create"
    title: ClassVar[str] = "Create a prototype"
    button: ClassVar[str] = "Create the prototype"

    name: str = parameter("what to call it", positional=True)
    source: str = parameter(
        "debootstrap:SUITE, dir:PATH (copied), at:PATH (adopted where it is), tar:PATH, oci:PATH[:TAG] or "
        "oci:docker://NAME[:TAG]",
        flag="--from",
    )
    note: str = parameter("what it is for", default="")

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.prototypes(site)

    def objects(self) -> Sequence[str]:
        return [f"prototype/{check_name(self.name, 'prototype')}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.prototype.create import check_source, version_of

        check_name(self.name, "prototype")
        if (site.prototypes / self.name).exists():
            raise ExistsError(f"there is already a prototype {self.name}", hint="choose another name")
        source = check_source(site, self.source)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Create the prototype {self.name} from {source}.",
            rows=[
                {"what": "prototype", "is": self.name},
                {"what": "source", "is": source},
                {"what": "free for prototypes", "is": f"{free_bytes(site.prototypes) / 1e9:.1f} GB"},
            ],
            facts={"name": self.name, "source": source, "version": version_of(source)},
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.prototype.create import create
        from statelesskit.tree import Finding

        findings: list[Finding] = []
        made = create(site, self.name, plan.facts["source"], note=self.note, findings=findings, progress=work.progress)
        return {
            "prototype": made.name,
            "tree": str(made.tree),
            "source": made.source,
            "findings": [finding.as_json() for finding in findings],
            "in_directory": enter(site),
        }
