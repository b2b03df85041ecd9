"""Copy a snapshot to another site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site
from statelesskit.errors import RefusedError


@dataclass(frozen=True)
class CopySnapshot(Action):
    """Send a snapshot to another site; only what that lacks is moved, and all of it is verified there."""

    verb: ClassVar[str] = "snapshot copy"
    title: ClassVar[str] = "Copy a snapshot"
    button: ClassVar[str] = "Copy the snapshot"

    snapshot: str = parameter("the snapshot to copy", choices=choices.snapshots, positional=True)
    to: str = parameter("the other site: its folder, or ssh:HOST:FOLDER", positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return []

    def uses(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.snapshot import load
        from statelesskit.snapshot.sending import parse_target
        from statelesskit.snapshot.verify import check_whole

        snapshot, target = load(site, self.snapshot), parse_target(self.to, site)
        if snapshot.state == "revoked":
            raise RefusedError(f"{self.snapshot} is revoked; it must not spread", hint="copy another one")
        check_whole(site, snapshot)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Copy {self.snapshot} to the site {target}.",
            rows=[
                {"what": "snapshot", "is": self.snapshot},
                {"what": "to", "is": str(target)},
                {"what": "at most to be moved", "is": f"{snapshot.bytes / 1e6:.1f} MB in {snapshot.files} files"},
            ],
            facts={"snapshot": self.snapshot, "digest": snapshot.digest, "to": str(target)},
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.snapshot import load
        from statelesskit.snapshot.sending import parse_target, send

        there = send(site, load(site, self.snapshot), parse_target(self.to, site), work.progress)
        return {
            "snapshot": self.snapshot,
            "digest": there.get("digest"),
            "to": plan.facts["to"],
            "objects": there.get("objects"),
            "bytes": there.get("bytes"),
            "was_there": not there.get("changed"),
            "record_there": there.get("record"),
        }

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [check("digest there", plan.facts["digest"], result["digest"])]
