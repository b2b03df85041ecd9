"""Change the note of a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site


@dataclass(frozen=True)
class NoteSnapshot(Action):
    """Say what a snapshot is for; the record keeps what was said before."""

    verb: ClassVar[str] = "snapshot note"
    title: ClassVar[str] = "Note what a snapshot is for"
    button: ClassVar[str] = "Note it"

    snapshot: str = parameter("the snapshot", choices=choices.snapshots, positional=True)
    note: str = parameter("what it is for", positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.snapshot import load

        before = load(site, self.snapshot)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Note of {self.snapshot}: {self.note}",
            rows=[{"snapshot": self.snapshot, "from": before.note, "to": self.note}],
            facts={"snapshot": self.snapshot, "from": before.note, "digest": before.digest},
            changes=before.note != self.note,
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.snapshot.registry import set_note

        before, after = set_note(site, self.snapshot, self.note)
        return {"snapshot": after.name, "from": before.note, "to": after.note}
