"""Bring a site's directory up to the schema version this statelesskit knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check
from statelesskit.config import Site
from statelesskit.errors import FormatError, NotFoundError, RefusedError


@dataclass(frozen=True)
class MigrateSite(Action):
    """Bring the directory up to this version; cut off, it goes on where it stopped when it is run again."""

    verb: ClassVar[str] = "site migrate"
    title: ClassVar[str] = "Migrate the directory"
    button: ClassVar[str] = "Migrate"

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        from statelesskit.directory import open_directory

        with open_directory(site, any_version=True) as directory:
            return "The directory", [{"directory": site.base_dn, "version": directory.version()}]

    def objects(self) -> Sequence[str]:
        return ["directory/version"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.migration import steps_from
        from statelesskit.directory.schema import VERSION
        from statelesskit.directory.server import how_to_load, lacks

        with open_directory(site, any_version=True) as directory:
            found = directory.version()
            if found is None:
                raise NotFoundError(f"there is no directory at {site.base_dn} yet", hint="statelesskit site start")
            if found > VERSION:
                raise FormatError(
                    f"the directory has schema version {found}, this statelesskit knows {VERSION}",
                    hint="use the statelesskit that migrated it, or a newer one",
                )
            if found < VERSION and (lacking := lacks(directory.ldap)):
                raise RefusedError(
                    f"the server has not loaded the schema of version {VERSION} yet",
                    hint=how_to_load(site, lacking) + "; then run site migrate again",
                )
            pending = {step.what: sorted(step.pending(directory)) for step in steps_from(found)}
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Bring the directory from version {found} to {VERSION}."
            if found < VERSION
            else f"The directory follows version {VERSION} already.",
            rows=[{"step": what, "entries": len(dns)} for what, dns in pending.items()],
            facts={"from": found, "to": VERSION, "entries": pending},
            notes=_notes(site) if found < VERSION else [],
            changes=found < VERSION,
            guard="a directory is migrated by a person",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.migration import migrate

        with open_directory(site, any_version=True) as directory:
            changed = migrate(directory, plan.facts["from"], work.progress)
        return {"from": plan.facts["from"], "to": plan.facts["to"], "entries_changed": changed}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory

        with open_directory(site, any_version=True) as directory:
            return [check("version", plan.facts["to"], directory.version())]


def _notes(site: Site) -> list[str]:
    notes = ["older versions of statelesskit will refuse the directory from then on"]
    if site.server.replicas:
        notes.append("replicas stop following unless they have the new schema first: there, site stop, then site start")
    return notes
