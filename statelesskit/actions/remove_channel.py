"""Remove a channel nobody follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.consequences import FOLLOWERS, few
from statelesskit.config import Site
from statelesskit.errors import RefusedError
from statelesskit.names import split_channel


@dataclass(frozen=True)
class RemoveChannel(Action):
    """Remove a channel that no client and no group follows; its name is free then, and its history stays."""

    verb: ClassVar[str] = "channel remove"
    title: ClassVar[str] = "Remove a channel"
    button: ClassVar[str] = "Remove the channel"

    channel: str = parameter("the channel, as desktop/stable", choices=choices.channels, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.channels(site)

    def objects(self) -> Sequence[str]:
        return ["channel/" + "/".join(split_channel(self.channel)), FOLLOWERS]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            channel = directory.channel(self.channel)
            clients, groups = directory.followers(self.channel)
        if clients or groups:
            who = [f"group {one.name}" for one in groups] + [f"client {one.name}" for one in clients]
            raise RefusedError(
                f"{self.channel} is followed by {len(who)}: {few(who)}",
                hint="let them follow another channel first: statelesskit client change, statelesskit group change",
            )
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Remove the channel {self.channel}, which pointed at {channel.snapshot or 'nothing'}.",
            rows=[{"channel": channel.name, "snapshot": channel.snapshot, "serial": channel.serial}],
            facts={"channel": channel.name, "serial": channel.serial, "snapshot": channel.snapshot},
            notes=[f"its history stays; a new channel of that name begins at serial {channel.serial + 2}"],
            guard="removing a channel is for a person to confirm",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            last = directory.remove_channel(
                self.channel,
                serial=plan.facts["serial"],
                moved_by=work.by,
                moved_at=datetime.now(UTC),
                record=work.record,
            )
        return {"channel": last.name, "serial": last.serial, "previous": last.previous}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            there = any(one.name == self.channel for one in directory.channels())
            clients, groups = directory.followers(self.channel)
        return [
            check(f"channel {self.channel} is there", False, there),
            check("followers", 0, len(clients) + len(groups)),
        ]
