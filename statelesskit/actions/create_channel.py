"""Create a channel that points at a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site
from statelesskit.errors import ExistsError, RefusedError
from statelesskit.names import prototype_of, split_channel


@dataclass(frozen=True)
class CreateChannel(Action):
    """Make a named pointer that clients can follow."""

    verb: ClassVar[str] = "channel create"
    title: ClassVar[str] = "Create a channel"
    button: ClassVar[str] = "Create the channel"

    channel: str = parameter("PROTOTYPE/NAME, for example desktop/stable", positional=True)
    snapshot: str = parameter("the snapshot it points at first", choices=choices.snapshots, positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.channels(site)

    def objects(self) -> Sequence[str]:
        prototype, name = split_channel(self.channel)
        return [f"channel/{prototype}/{name}"]

    def uses(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.pushes import last_serial
        from statelesskit.snapshot import load
        from statelesskit.snapshot.verify import check_whole

        prototype, _ = split_channel(self.channel)
        snapshot = load(site, self.snapshot)
        if prototype_of(self.snapshot) != prototype:
            raise RefusedError(f"{self.snapshot} is no snapshot of {prototype}", hint="choose one of its own")
        if snapshot.state == "revoked":
            raise RefusedError(f"{self.snapshot} is revoked; no client may be told to run it")
        check_whole(site, snapshot)
        with open_directory(site) as directory:
            if any(channel.name == self.channel for channel in directory.channels()):
                raise ExistsError(
                    f"there is already a channel {self.channel}", hint="statelesskit push apply moves it to a snapshot"
                )
            serial = last_serial(directory, self.channel) + 1
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Create the channel {self.channel}, pointing at {self.snapshot}.",
            rows=[{"channel": self.channel, "snapshot": self.snapshot, "serial": serial}],
            facts={"channel": self.channel, "snapshot": self.snapshot, "serial": serial, "digest": snapshot.digest},
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.register import register

        with open_directory(site) as directory:
            register(site, directory)
            made = directory.add_channel(
                self.channel, self.snapshot, moved_by=work.by, moved_at=datetime.now(UTC), record=work.record
            )
        return {"channel": made.name, "snapshot": made.snapshot, "serial": made.serial, "record": work.record}
