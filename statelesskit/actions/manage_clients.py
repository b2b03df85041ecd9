"""Pin a client, take the pin out, change what its entry says, or remove it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.consequences import FOLLOWERS, moves_of, notes_of, rows_of, snapshot_to_run
from statelesskit.actions.policy import unattended
from statelesskit.config import Site
from statelesskit.errors import UsageError
from statelesskit.names import check_name, normalise_mac, printable

if TYPE_CHECKING:
    from statelesskit.directory import Client


@dataclass(frozen=True)
class _Client(Action):
    """What all that changes one client shares."""

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.fleet(site)

    @property
    def client(self) -> str:
        return check_name(self.as_parameters()["name"], "client")

    def objects(self) -> Sequence[str]:
        return [f"client/{self.client}"]


@dataclass(frozen=True)
class _ClientChange(_Client):
    """A client becomes another; what that makes it run stands in the plan."""

    @abstractmethod
    def wanted(self, before: Client) -> Client:
        """Return what it shall be."""

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.snapshot import load

        with open_directory(site) as directory:
            before = directory.client(self.client)
            after = self.wanted(before)
            _check(before, after)
            if after.channel and after.channel != before.channel:
                directory.channel(after.channel)
            pin = snapshot_to_run(site, after.pin) if after.pin and after.pin != before.pin else None
            if after.reference and after.reference != before.reference:
                load(site, after.reference)
            moves = moves_of(site, directory, [before.name], client=lambda _: after)
        fields = [name for name, value in _told(after).items() if value != _told(before)[name]]
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Change {before.name}: {', '.join(fields)}; it will run {moves[0][2] or 'nothing'}."
            if moves
            else f"Change {before.name}: {', '.join(fields)}; it goes on as now."
            if fields
            else f"{before.name} is already so; there is nothing to do.",
            rows=[
                {"client": before.name, "field": name, "from": _told(before)[name], "to": _told(after)[name]}
                for name in fields
            ],
            facts={"name": before.name, "before": asdict(before), "after": asdict(after), "moves": moves},
            notes=[
                *(f"{row['client']}: from {row['from']} to {row['to']}" for row in rows_of(moves)),
                *notes_of(moves),
            ],
            changes=bool(fields),
            guard=unattended(site, len(moves), *((pin.name, pin.state) if pin else ())),
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.register import register

        before, after = (_client_of(plan.facts[when]) for when in ("before", "after"))
        with open_directory(site) as directory:
            if after.pin or after.reference:
                register(site, directory)
            made = directory.change_client(before, after)
        return {"client": made.name, **_told(made)}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            found = _told(directory.client(self.client))
        return [
            check(f"{name} of {self.client}", value, found[name])
            for name, value in _told(_client_of(plan.facts["after"])).items()
        ]


@dataclass(frozen=True)
class PinClient(_ClientChange):
    """Hold a client at one snapshot, whatever its channel and its groups say."""

    verb: ClassVar[str] = "client pin"
    title: ClassVar[str] = "Pin a client"
    button: ClassVar[str] = "Pin it"

    name: str = parameter("the client", positional=True, choices=choices.clients)
    snapshot: str = parameter("the snapshot it is held at", positional=True, choices=choices.snapshots)

    def uses(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def wanted(self, before: Client) -> Client:
        return replace(before, pin=self.snapshot)


@dataclass(frozen=True)
class UnpinClient(_ClientChange):
    """Let a client go back to what its channel or its groups say."""

    verb: ClassVar[str] = "client unpin"
    title: ClassVar[str] = "Unpin a client"
    button: ClassVar[str] = "Unpin it"

    name: str = parameter("the client", positional=True, choices=choices.clients)

    def wanted(self, before: Client) -> Client:
        return replace(before, pin=None)


@dataclass(frozen=True)
class ChangeClient(_ClientChange):
    """Change what the directory says of a client; what is left out stays."""

    verb: ClassVar[str] = "client change"
    title: ClassVar[str] = "Change a client"
    button: ClassVar[str] = "Change it"

    EMPTIED: ClassVar[dict[str, Any]] = {"mac": (), "channel": None, "note": "", "reference": None}

    name: str = parameter("the client", positional=True, choices=choices.clients)
    mode: str = parameter("how it boots: diskless, caching, live or thick", default="", choices=choices.modes)
    mac: str = parameter("all its MAC addresses, with commas between", default="")
    channel: str = parameter("the channel it follows, as desktop/stable", default="", choices=choices.channels)
    note: str = parameter("where it stands, whose it is", default="")
    reference: str = parameter("the snapshot a thick client is compared with", default="", choices=choices.snapshots)
    clear: str = parameter("what to empty: mac, channel, note, reference; several with commas", default="")

    def uses(self) -> Sequence[str]:
        return [FOLLOWERS, *([f"snapshot/{self.reference}"] if self.reference else [])]

    def wanted(self, before: Client) -> Client:
        emptied = words_of(self.clear)
        if unknown := [word for word in emptied if word not in self.EMPTIED]:
            raise UsageError(f"{unknown[0]!r} can't be emptied", hint="these can: " + ", ".join(self.EMPTIED))
        given = {
            "mode": self.mode,
            "mac": tuple(sorted({normalise_mac(mac) for mac in words_of(self.mac)})),
            "channel": self.channel,
            "note": self.note,
            "reference": self.reference,
        }
        if both := [word for word in emptied if given[word]]:
            raise UsageError(f"{both[0]} is both given and emptied", hint="leave one of the two out")
        fields = {name: value for name, value in given.items() if value} | {one: self.EMPTIED[one] for one in emptied}
        return replace(before, **{"macs" if name == "mac" else name: value for name, value in fields.items()})


@dataclass(frozen=True)
class RemoveClient(_Client):
    """Take a client, what it reported and its place in groups out of the directory."""

    verb: ClassVar[str] = "client remove"
    title: ClassVar[str] = "Remove a client"
    button: ClassVar[str] = "Remove it"

    name: str = parameter("the client", positional=True, choices=choices.clients)

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory
        from statelesskit.directory.groups import groups_of

        with open_directory(site) as directory:
            client = directory.client(self.client)
            groups = [group.name for group in groups_of(directory, client.name)]
            report = directory.report_of(client.name)
        notes = [] if report is None or not report.running else [
            f"it said that it runs {printable(report.running)}; once it is removed that no longer keeps the snapshot"
        ]  # fmt: skip
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Remove the {client.mode} client {client.name}.",
            rows=[{"client": client.name, **_told(client), "groups": " ".join(groups)}],
            facts={"name": client.name, "client": asdict(client), "groups": groups},
            notes=notes,
            guard="removing a client is for a person to confirm",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            directory.remove_client(self.client)
        return {"client": self.client, "groups": plan.facts["groups"]}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            return [check(f"client {self.client} is there", False, bool(directory.clients_named([self.client])))]


def words_of(text: str) -> list[str]:
    """Return names that stand in one text, with spaces or commas between."""
    return list(dict.fromkeys(text.replace(",", " ").split()))


def _check(before: Client, after: Client) -> None:
    """Refuse what no client can be; what others wrote and nobody asks to change stays as it is."""
    from statelesskit.directory.model import MODES

    if after.mode not in MODES and after.mode != before.mode:
        raise UsageError(f"there is no mode {printable(after.mode)!r}", hint="the modes are " + ", ".join(MODES))
    if after == before:
        return
    if after.mode == "thick" and (wrong := after.pin or after.channel):
        what = f"--clear channel of {after.name}" if after.channel else f"statelesskit client unpin {after.name}"
        raise UsageError(f"{after.name} is thick, so it can't be told to run {printable(wrong)}", hint=what)
    if after.mode != "thick" and after.reference:
        raise UsageError(
            f"{after.name} is {printable(after.mode)}; only a thick client has a reference",
            hint=f"statelesskit client change {after.name} --clear reference",
        )


def _told(client: Client) -> dict[str, Any]:
    """Return what a client's entry says, as a person reads it."""
    return {
        "mode": client.mode,
        "mac": " ".join(client.macs),
        "channel": client.channel or "",
        "pin": client.pin or "",
        "reference": client.reference or "",
        "note": client.note,
    }


def _client_of(facts: Mapping[str, Any]) -> Client:
    from statelesskit.directory import Client

    return Client(**{**facts, "macs": tuple(facts["macs"])})
