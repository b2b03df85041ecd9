"""Delete one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.consequences import CLIENTS
from statelesskit.config import Site
from statelesskit.errors import DirectoryUnavailableError, RefusedError


@dataclass(frozen=True)
class DeleteSnapshot(Action):
    """Delete a snapshot that nothing needs; its contents stay until the next collection."""

    verb: ClassVar[str] = "snapshot delete"
    title: ClassVar[str] = "Delete a snapshot"
    button: ClassVar[str] = "Delete it"

    snapshot: str = parameter("the snapshot", choices=choices.snapshots, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def uses(self) -> Sequence[str]:
        return [CLIENTS]

    def plan(self, site: Site) -> Plan:
        from statelesskit.actions.needed import look_at_fleet
        from statelesskit.snapshot import load

        fleet = look_at_fleet(site)
        if reasons := fleet.needed.get(self.snapshot):
            raise RefusedError(
                f"{self.snapshot} is needed: {'; '.join(reasons[:5])}" + (" …" if len(reasons) > 5 else ""),
                hint="let them run another one first",
            )
        only_in_directory = self.snapshot in fleet.entered and not (site.snapshots / self.snapshot).exists()
        snapshot = None if only_in_directory else load(site, self.snapshot)
        files = "?" if snapshot is None else snapshot.files
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Delete {self.snapshot}"
            + (", which only the directory knows any more." if snapshot is None else f", {files} files."),
            rows=[{"snapshot": self.snapshot, "files": files, "state": snapshot.state if snapshot else "?"}],
            facts={"snapshot": self.snapshot, "digest": snapshot.digest if snapshot else ""},
            notes=["statelesskit snapshot collect frees what no other snapshot needs of it"],
            guard="deleting one snapshot is for a person to confirm",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.snapshot import load
        from statelesskit.snapshot.deleted import delete

        with open_directory(site) as directory:
            known = directory.remove_snapshot(self.snapshot)
            if plan.facts["digest"]:
                delete(site, load(site, self.snapshot), by=work.by, record=work.record)
                with suppress(DirectoryUnavailableError):  # it is deleted; what is left is found by a check
                    directory.remove_snapshot(self.snapshot)  # somebody may have entered it meanwhile
        return {"snapshot": self.snapshot, "digest": plan.facts["digest"], "was_in_directory": known}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [check(f"{self.snapshot} is there", False, (site.snapshots / self.snapshot).exists())]
