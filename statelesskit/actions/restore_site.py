"""Put the directory back to what a backup says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import surveys
from statelesskit.config import Site
from statelesskit.errors import RefusedError

ROWS_SHOWN = 500


@dataclass(frozen=True)
class RestoreSite(Action):
    """Put the directory back to what a backup says."""

    verb: ClassVar[str] = "site restore"
    title: ClassVar[str] = "Restore the directory"
    button: ClassVar[str] = "Restore"

    backup: str = parameter("the file that site backup wrote", positional=True)
    move_clients: bool = parameter("go on though clients would be told to run something else", default=False)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.fleet(site)

    def objects(self) -> Sequence[str]:
        return ["directory/restore"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.restore import plan_restore

        with open_directory(site) as directory:
            found = plan_restore(site, directory, Path(self.backup))
        rows = [
            {"object": f"{one.kind} {one.name}", "change": one.change, "field": field, "before": was, "after": now}
            for one in found.differences
            for field, (was, now) in (one.fields or {"": ("", "")}).items()
        ]
        at = f"{found.backup.state.at:%Y-%m-%dT%H:%M:%SZ}"
        told = [
            f"client {name} would run {now or 'nothing'} in place of {was or 'nothing'}"
            for name, was, now in found.moves
        ]
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Restore the directory as it was at {at}: {len(found.differences)} objects differ, "
            f"{len(found.moves)} clients would be told to run something else."
            if rows
            else f"The directory is as it was at {at}; there is nothing to do.",
            rows=rows[:ROWS_SHOWN],
            facts={
                "backup": found.backup.digest,
                "now": found.now,
                "wanted": found.wanted,
                "serials": found.serials,
                "moves": len(found.moves),
            },
            notes=[
                *([f"{len(rows) - ROWS_SHOWN} more rows"] if len(rows) > ROWS_SHOWN else []),
                *found.dangling,
                *told[:20],
                "the LDAP server is stopped for as long as it takes; clients are not disturbed",
            ],
            changes=bool(rows),
            guard="a restore is for a person to confirm",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.pushes import complete_history
        from statelesskit.restore import restore

        if plan.facts["moves"] and not self.move_clients:
            raise RefusedError(
                f"{plan.facts['moves']} clients would be told to run something else; nothing was changed",
                hint=f"read the plan: statelesskit site restore {self.backup} --plan; then say --move-clients",
            )
        before = restore(site, Path(self.backup), plan.facts, by=work.by, record=work.record, progress=work.progress)
        with open_directory(site) as directory:
            complete_history(directory)
        return {"objects": len({row["object"] for row in plan.rows}), "before": str(before)}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory
        from statelesskit.directory.past import read_state
        from statelesskit.directory.restoring import fingerprint

        with open_directory(site) as directory:
            found = fingerprint(read_state(directory), exact=False)
        return [check("the directory's entries", plan.facts["wanted"], found)]
