"""Add a client machine to the directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.consequences import FOLLOWERS
from statelesskit.config import Site
from statelesskit.errors import ExistsError, NotFoundError, UsageError
from statelesskit.names import check_name, normalise_mac


@dataclass(frozen=True)
class AddClient(Action):
    """Enter a machine, and say which channel it follows."""

    verb: ClassVar[str] = "client add"
    title: ClassVar[str] = "Add a client"
    button: ClassVar[str] = "Add the client"

    name: str = parameter("the machine's name", positional=True)
    mode: str = parameter("how it boots: diskless, caching, live or thick", choices=choices.modes)
    mac: str = parameter("its MAC address; several with commas", default="")
    channel: str = parameter("the channel it follows, as desktop/stable", default="", choices=choices.channels)
    note: str = parameter("where it stands, whose it is", default="")
    reference: str = parameter("the snapshot a thick client is compared with", default="", choices=choices.snapshots)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.fleet(site)

    def objects(self) -> Sequence[str]:
        return [f"client/{check_name(self.name, 'client')}"]

    def uses(self) -> Sequence[str]:
        return [FOLLOWERS, *([f"snapshot/{self.reference}"] if self.reference else [])]

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.model import MODES
        from statelesskit.snapshot import load

        if self.mode not in MODES:
            raise UsageError(f"there is no mode {self.mode!r}", hint="the modes are " + ", ".join(MODES))
        if self.mode == "thick" and self.channel:
            raise UsageError(
                f"{self.name} is thick, so it can't follow {self.channel}",
                hint="leave the channel out; a thick client is listed, never told what to run",
            )
        if self.reference and self.mode != "thick":
            raise UsageError(f"{self.name} is {self.mode}; only a thick client has a reference", hint="leave it out")
        if self.reference:
            load(site, self.reference)
        macs = self._macs()
        with open_directory(site) as directory:
            if directory.clients_named([self.name]):
                raise ExistsError(f"there is already a client {self.name}", hint="choose another name")
            snapshot = directory.channel(self.channel).snapshot if self.channel else None
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Add the {self.mode} client {self.name}"
            + (f", following {self.channel}." if self.channel else "."),
            rows=[
                {
                    "client": self.name,
                    "mode": self.mode,
                    "mac": " ".join(macs),
                    "channel": self.channel,
                    "will run": snapshot or "",
                }
            ],
            facts={
                "name": self.name,
                "mode": self.mode,
                "macs": macs,
                "channel": self.channel,
                "reference": self.reference,
            },
        )

    def _macs(self) -> list[str]:
        return [normalise_mac(mac) for mac in self.mac.split(",") if mac.strip()]

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import Client, open_directory
        from statelesskit.register import register

        with open_directory(site) as directory:
            if self.reference:
                register(site, directory)
            directory.add_client(
                Client(
                    name=self.name,
                    mode=self.mode,
                    macs=tuple(self._macs()),
                    channel=self.channel or None,
                    pin=None,
                    note=self.note,
                    reference=self.reference or None,
                )
            )
        return {"client": self.name, "mode": self.mode, "channel": self.channel}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory

        try:
            with open_directory(site) as directory:
                found = directory.client(self.name).mode
        except NotFoundError:
            found = "not there"
        return [check(f"client {self.name}", self.mode, found)]
