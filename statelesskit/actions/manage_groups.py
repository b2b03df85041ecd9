"""Groups of clients: create, change, fill, empty and delete them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.consequences import FOLLOWERS, moves_of, notes_of, rows_of, snapshot_to_run
from statelesskit.actions.manage_clients import words_of
from statelesskit.actions.policy import unattended
from statelesskit.config import Site
from statelesskit.errors import ExistsError, NotFoundError, RefusedError, UsageError
from statelesskit.names import check_name, printable

if TYPE_CHECKING:
    from statelesskit.directory import Directory, Group


@dataclass(frozen=True)
class _Group(Action):
    """What all that changes a group shares: the plan says which clients come to run something else."""

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.groups(site)

    @property
    def group(self) -> str:
        return check_name(self.as_parameters()["name"], "group")

    def objects(self) -> Sequence[str]:
        return [f"group/{self.group}"]

    @abstractmethod
    def wanted(self, directory: Directory) -> tuple[Group | None, Group | None]:
        """Return the group as it is and as it shall be; None is not there."""

    @abstractmethod
    def write(self, directory: Directory, before: Group | None, after: Group | None) -> None:
        """Make it so."""

    def plan(self, site: Site) -> Plan:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            before, after = self.wanted(directory)
            pin = None
            if after and after.channel and (before is None or after.channel != before.channel):
                directory.channel(after.channel)
            if after and after.pin and (before is None or after.pin != before.pin):
                pin = snapshot_to_run(site, after.pin)
            was, will = _members(before), _members(after)
            inner = {name for one in directory.groups() if _nests(before, after, one) for name in one.members}
            moves = moves_of(site, directory, was | will | inner, groups=lambda now: _changed(now, self.group, after))
        changes = before != after
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"{self.said(before, after)}: {len(moves)} client{'s' if len(moves) != 1 else ''} to change."
            if changes
            else f"Group {self.group} is already so; there is nothing to do.",
            rows=rows_of(moves),
            facts={
                "group": self.group,
                "before": _told(before),
                "after": _told(after),
                "added": sorted(will - was),
                "removed": sorted(was - will),
                "clients": moves,
            },
            notes=notes_of(moves),
            changes=changes,
            guard=unattended(site, len(moves), *((pin.name, pin.state) if pin else ())),
        )

    @abstractmethod
    def said(self, before: Group | None, after: Group | None) -> str:
        """Return what is done, in a few words."""

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.register import register

        with open_directory(site) as directory:
            before, after = self.wanted(directory)
            if after and after.pin:
                register(site, directory)
            self.write(directory, before, after)
        return {"group": self.group, "clients_changed": len(plan.facts["clients"])}

    def unchanged(self, plan: Plan) -> dict[str, Any]:
        return {"group": self.group, "clients_changed": 0}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory

        with open_directory(site) as directory:
            found = next((one for one in directory.groups() if one.name == self.group), None)
        members = _members(found)
        return [
            check(f"group {self.group}", plan.facts["after"], _told(found)),
            check("clients that are in it now", len(plan.facts["added"]), len(members & {*plan.facts["added"]})),
            check("clients that are still in it", 0, len(members & {*plan.facts["removed"]})),
        ]


@dataclass(frozen=True)
class CreateGroup(_Group):
    """Make a group of clients that follow one channel, or are held at one snapshot, together."""

    verb: ClassVar[str] = "group create"
    title: ClassVar[str] = "Create a group"
    button: ClassVar[str] = "Create the group"

    name: str = parameter("the group's name", positional=True)
    channel: str = parameter("the channel its clients follow", default="", choices=choices.channels)
    pin: str = parameter("the snapshot its clients are held at", default="", choices=choices.snapshots)
    priority: int = parameter("of several groups a client is in, the lowest decides", default=1000)
    note: str = parameter("what it is for", default="")

    def uses(self) -> Sequence[str]:
        return [FOLLOWERS, *([f"snapshot/{self.pin}"] if self.pin else [])]

    def wanted(self, directory: Directory) -> tuple[Group | None, Group | None]:
        from statelesskit.directory import Group

        if self.channel and self.pin:
            raise UsageError(f"{self.group} can't follow a channel and be held at a snapshot", hint="give one of them")
        if any(one.name == self.group for one in directory.groups()):
            raise ExistsError(f"there is already a group {self.group}", hint="statelesskit group change alters it")
        group = Group(self.group, frozenset(), self.channel or None, self.pin or None, self.priority, self.note)
        return None, group

    def write(self, directory: Directory, before: Group | None, after: Group | None) -> None:
        from statelesskit.directory.groups import add_group

        assert after
        add_group(directory, after)

    def said(self, before: Group | None, after: Group | None) -> str:
        what = f"following {self.channel}" if self.channel else f"held at {self.pin}" if self.pin else "with no channel"
        return f"Create the group {self.group}, {what}"


@dataclass(frozen=True)
class ChangeGroup(_Group):
    """Give a group another channel, pin, priority or note; what is left out stays."""

    verb: ClassVar[str] = "group change"
    title: ClassVar[str] = "Change a group"
    button: ClassVar[str] = "Change the group"

    EMPTIED: ClassVar[dict[str, Any]] = {"channel": None, "pin": None, "note": ""}

    name: str = parameter("the group", positional=True, choices=choices.groups)
    channel: str = parameter("the channel its clients follow", default="", choices=choices.channels)
    pin: str = parameter("the snapshot its clients are held at", default="", choices=choices.snapshots)
    priority: str = parameter("of several groups a client is in, the lowest decides", default="")
    note: str = parameter("what it is for", default="")
    clear: str = parameter("what to empty: channel, pin, note; several with commas", default="")

    def uses(self) -> Sequence[str]:
        return [FOLLOWERS, *([f"snapshot/{self.pin}"] if self.pin else [])]

    def wanted(self, directory: Directory) -> tuple[Group | None, Group | None]:
        from statelesskit.directory.groups import group_named

        emptied = words_of(self.clear)
        if unknown := [word for word in emptied if word not in self.EMPTIED]:
            raise UsageError(
                f"{printable(unknown[0])!r} can't be emptied", hint="these can: " + ", ".join(self.EMPTIED)
            )
        given: dict[str, Any] = {"channel": self.channel, "pin": self.pin, "note": self.note}
        if both := [word for word in emptied if given[word]]:
            raise UsageError(f"{both[0]} is both given and emptied", hint="leave one of the two out")
        before = group_named(directory, self.group)
        fields = {name: value for name, value in given.items() if value} | {one: self.EMPTIED[one] for one in emptied}
        if self.priority:
            fields["priority"] = _number(self.priority)
        after = replace(before, **fields)
        if after.channel and after.pin and (self.channel or self.pin):
            other = "pin" if self.channel else "channel"
            raise UsageError(
                f"{self.group} would follow a channel and be held at a snapshot", hint=f"add --clear {other}"
            )
        return before, after

    def write(self, directory: Directory, before: Group | None, after: Group | None) -> None:
        from statelesskit.directory.groups import change_group

        assert before
        assert after
        change_group(directory, before, after)

    def said(self, before: Group | None, after: Group | None) -> str:
        was, will = _told(before), _told(after)
        changed = [
            f"{name} from {was[name] or 'none'} to {will[name] or 'none'}" for name in will if was[name] != will[name]
        ]
        return f"Change the group {self.group}: {', '.join(changed)}"


@dataclass(frozen=True)
class _Members(_Group):
    name: str = parameter("the group", positional=True, choices=choices.groups)
    clients: str = parameter("the clients, with spaces or commas between", positional=True, several=True)


@dataclass(frozen=True)
class AddToGroup(_Members):
    """Put clients into a group."""

    verb: ClassVar[str] = "group add"
    title: ClassVar[str] = "Add clients to a group"
    button: ClassVar[str] = "Add them"

    def wanted(self, directory: Directory) -> tuple[Group | None, Group | None]:
        from statelesskit.directory.groups import group_named

        before, names = group_named(directory, self.group), words_of(self.clients)
        if missing := sorted({*names} - {one.name for one in directory.clients_named(names)}):
            groups = {one.name for one in directory.groups()}
            if nested := [name for name in missing if name in groups]:
                raise RefusedError(
                    f"{nested[0]} is a group, and nested groups are not followed: {self.group} can only have clients",
                    hint=f"statelesskit group show {nested[0]} lists its clients; add those",
                )
            directory.client(missing[0])  # raises, with the nearest name
            raise NotFoundError(f"there is no client {missing[0]}")
        return before, replace(before, members=before.members | {*names})

    def write(self, directory: Directory, before: Group | None, after: Group | None) -> None:
        from statelesskit.directory.groups import add_members

        add_members(directory, self.group, words_of(self.clients))

    def said(self, before: Group | None, after: Group | None) -> str:
        return f"Put {len(_members(after) - _members(before))} clients into {self.group}"


@dataclass(frozen=True)
class RemoveFromGroup(_Members):
    """Take clients, or a group that should not be there, out of a group."""

    verb: ClassVar[str] = "group remove"
    title: ClassVar[str] = "Take clients out of a group"
    button: ClassVar[str] = "Take them out"

    def wanted(self, directory: Directory) -> tuple[Group | None, Group | None]:
        from statelesskit.directory.groups import group_named

        before, names = group_named(directory, self.group), {*words_of(self.clients)}
        if missing := sorted(names - before.members - before.nested):
            raise NotFoundError(
                f"{printable(missing[0])} is not in group {self.group}",
                hint=f"statelesskit group show {self.group} lists who is",
            )
        return before, replace(before, members=before.members - names, nested=before.nested - names)

    def write(self, directory: Directory, before: Group | None, after: Group | None) -> None:
        from statelesskit.directory.groups import remove_members

        remove_members(directory, self.group, words_of(self.clients))

    def said(self, before: Group | None, after: Group | None) -> str:
        return f"Take {len(words_of(self.clients))} out of {self.group}"


@dataclass(frozen=True)
class DeleteGroup(_Group):
    """Delete a group; its clients stay, and go by what their own entries and other groups say."""

    verb: ClassVar[str] = "group delete"
    title: ClassVar[str] = "Delete a group"
    button: ClassVar[str] = "Delete the group"

    name: str = parameter("the group", positional=True, choices=choices.groups)

    def wanted(self, directory: Directory) -> tuple[Group | None, Group | None]:
        from statelesskit.directory.groups import group_named

        return group_named(directory, self.group), None

    def write(self, directory: Directory, before: Group | None, after: Group | None) -> None:
        from statelesskit.directory.groups import remove_group

        remove_group(directory, self.group)

    def said(self, before: Group | None, after: Group | None) -> str:
        return f"Delete the group {self.group} of {len(_members(before))} clients"


def _members(group: Group | None) -> set[str]:
    return {*group.members} if group else set()


def _changed(now: list[Group], name: str, after: Group | None) -> list[Group]:
    return [*(one for one in now if one.name != name), *([after] if after else [])]


def _nests(before: Group | None, after: Group | None, one: Group) -> bool:
    """Say whether a group is a member of the one that changes, as whose clients may then get another answer."""
    return any(group is not None and one.name in group.nested for group in (before, after))


def _told(group: Group | None) -> dict[str, Any]:
    if group is None:
        return {}
    return {"channel": group.channel, "pin": group.pin, "priority": group.priority, "note": group.note}


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"the priority {printable(text)!r} is no whole number") from None
