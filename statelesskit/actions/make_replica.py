"""Make a replica of the site's directory server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.config import Site


@dataclass(frozen=True)
class MakeReplica(Action):
    """Make a folder from which a second server runs, here or on another machine, that follows the site's own."""

    verb: ClassVar[str] = "directory replica init"
    title: ClassVar[str] = "Make a replica of the directory"
    button: ClassVar[str] = "Make the replica"

    folder: str = parameter("the folder to make", positional=True)
    port: int = parameter("the loopback port where it answers (ldaps)", default=6361)
    provider: str = parameter("how it reaches the site's server (else as from this machine)", default="")

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        from statelesskit.directory.replica import lags

        return "Replicas", [lag.row() for lag in lags(site)]

    def objects(self) -> Sequence[str]:
        return ["directory/replicas"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory.replica import check_new, provider_uri

        folder = Path(self.folder).absolute()
        check_new(site, folder)
        provider = provider_uri(site, self.provider)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Make a replica of {provider} in {folder}.",
            rows=[
                {"what": "folder", "is": str(folder)},
                {"what": "follows", "is": provider},
                {"what": "answers at", "is": f"ldaps://127.0.0.1:{self.port}"},
            ],
            facts={"folder": str(folder), "provider": provider, "port": self.port},
            notes=["its key may read all of the directory: keep the folder as safe as the site itself"],
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory.replica import init_replica

        made = init_replica(site, Path(plan.facts["folder"]), port=self.port, provider=plan.facts["provider"])
        return {"folder": str(made.root), "provider": made.server.provider, "uri": f"ldaps://127.0.0.1:{made.port}"}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.config import load_site

        made = load_site(Path(plan.facts["folder"]))
        return [check("what it follows", plan.facts["provider"], made.server.provider)]
