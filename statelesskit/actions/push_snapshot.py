"""Push a snapshot to a channel, or take a push back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.policy import unattended
from statelesskit.config import Site
from statelesskit.names import split_channel

_BEFORE = {"serial": "serial", "snapshot": "from", "previous": "previous"}


@dataclass(frozen=True)
class _Push(Action):
    """What both directions share: a channel moves to a snapshot."""

    @abstractmethod
    def target(self, site: Site) -> tuple[str, str]:
        """Return the channel and the snapshot it is to point at."""

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.fleet(site)

    def objects(self) -> Sequence[str]:
        return ["channel/" + "/".join(split_channel(self.as_parameters()["channel"]))]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.push import plan_push

        channel_name, snapshot_name = self.target(site)
        with open_directory(site) as directory:
            push = plan_push(site, directory, channel_name, snapshot_name)
        channel, snapshot, moves = push.channel, push.snapshot, push.moves
        changes = channel.snapshot != snapshot.name
        clients = f"{len(moves)} client{'s' if len(moves) != 1 else ''}"
        summary = (
            f"Move {channel_name} from {channel.snapshot} to {snapshot_name}: {clients} to change."
            if changes
            else f"{channel_name} already points at {snapshot_name}; there is nothing to do."
        )
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=summary,
            rows=[
                {
                    "client": move.client,
                    "mode": move.mode,
                    "from": move.before or "nothing",
                    "to": move.after or "nothing",
                    "to fetch": "" if move.bytes is None else f"{move.bytes / 1e6:.1f} MB",
                    "because": move.because,
                }
                for move in moves
            ],
            facts={
                "channel": channel_name,
                "serial": channel.serial,
                "from": channel.snapshot,
                "previous": channel.previous,
                "to": snapshot.name,
                "digest": snapshot.digest,
                "clients": [[move.client, move.before, move.after, move.because] for move in moves],
                "forecast_bytes": push.forecast_bytes,
            },
            notes=[
                *(
                    [f"{snapshot.name} is deprecated: it should be pushed no more"]
                    if snapshot.state == "deprecated"
                    else []
                ),
                *(f"unchanged ({why}): {count}" for why, count in push.unmoved.items() if count),
            ],
            changes=changes,
            guard=unattended(site, len(moves), snapshot.name, snapshot.state),
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.push import move_channel
        from statelesskit.register import register

        with open_directory(site) as directory:
            register(site, directory)
            moved = move_channel(directory, plan.facts, by=work.by, record=work.record)
        return {
            "channel": moved.name,
            "serial": moved.serial,
            "previous": moved.previous,
            "snapshot": moved.snapshot,
            "clients": len(plan.facts["clients"]),
            "record": work.record,
            # Both are sure: the modify was made because the one stood there, and it wrote the other.
            "before": {name: plan.facts[fact] for name, fact in _BEFORE.items()},
            "after": {"serial": moved.serial, "snapshot": moved.snapshot, "previous": moved.previous},
        }

    def unchanged(self, plan: Plan) -> dict[str, Any]:
        facts = plan.facts
        return {"channel": facts["channel"], "serial": facts["serial"], "previous": facts["previous"], "clients": 0}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory
        from statelesskit.push import check_push

        with open_directory(site) as directory:
            return check_push(directory, plan.facts, result["serial"])


@dataclass(frozen=True)
class PushSnapshot(_Push):
    """Move a channel to a snapshot, so that all who follow it run that."""

    verb: ClassVar[str] = "push apply"
    title: ClassVar[str] = "Push a snapshot"
    button: ClassVar[str] = "Push"

    channel: str = parameter("the channel to move, as desktop/stable", choices=choices.channels, positional=True)
    snapshot: str = parameter("the snapshot its followers shall run", choices=choices.snapshots, positional=True)

    def uses(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def target(self, site: Site) -> tuple[str, str]:
        return self.channel, self.snapshot


@dataclass(frozen=True)
class RollBackPush(_Push):
    """Move a channel back to the snapshot it pointed at before."""

    verb: ClassVar[str] = "push rollback"
    title: ClassVar[str] = "Roll a push back"
    button: ClassVar[str] = "Roll back"

    channel: str = parameter("the channel to move back, as desktop/stable", choices=choices.channels, positional=True)

    def target(self, site: Site) -> tuple[str, str]:
        from statelesskit.directory import open_directory
        from statelesskit.push_history import rollback_target

        with open_directory(site) as directory:
            return self.channel, rollback_target(site, directory, self.channel)
