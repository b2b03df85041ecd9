"""Say how far a snapshot has come: staged, tested, released, deprecated, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.entered import enter
from statelesskit.config import Site
from statelesskit.errors import RefusedError


@dataclass(frozen=True)
class SetSnapshotState(Action):
    """Move a snapshot to a later state."""

    verb: ClassVar[str] = "snapshot state"
    title: ClassVar[str] = "Set a snapshot's state"
    button: ClassVar[str] = "Set the state"

    snapshot: str = parameter("the snapshot", choices=choices.snapshots, positional=True)
    state: str = parameter("its new state", choices=choices.states, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.snapshot import check_state, load

        before = load(site, self.snapshot)
        check_state(before, self.state)
        stranded, running = self._stranded(site) if self.state == "revoked" else ([], [])
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Move {self.snapshot} from {before.state} to {self.state}.",
            rows=[{"snapshot": self.snapshot, "from": before.state, "to": self.state}],
            facts={"snapshot": self.snapshot, "from": before.state, "digest": before.digest, "stranded": stranded},
            notes=[
                *(f"{client} is told to run it, and will have nothing to run" for client in stranded),
                *(f"{client} said that it runs it" for client in running),
            ],
            changes=before.state != self.state,
            guard=f"{len(stranded)} clients would have nothing to run" if stranded else "",
        )

    def _stranded(self, site: Site) -> tuple[list[str], list[str]]:
        """Return the clients a pin tells to run it, and those that said they do.

        Raises:
            RefusedError: a channel points at it, so that all its followers would have nothing to run.
        """
        from statelesskit.directory import assignments, open_directory

        with open_directory(site) as directory:
            if pointing := [channel.name for channel in directory.channels() if channel.snapshot == self.snapshot]:
                raise RefusedError(
                    f"{self.snapshot} can't be revoked while {', '.join(pointing)} points at it",
                    hint="push another snapshot to that channel first",
                )
            told = [
                client.name for client, assignment in assignments(directory) if assignment.snapshot == self.snapshot
            ]
            return told, sorted(one.client for one in directory.reports() if one.running == self.snapshot)

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.snapshot import set_state

        before, after = set_state(site, self.snapshot, self.state)
        return {"snapshot": after.name, "from": before.state, "to": after.state, "in_directory": enter(site)}
