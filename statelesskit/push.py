"""Push a snapshot: move a channel's pointer, so that all who follow it run something else.

The plan says who changes from what to what and why; apply is one guarded modify of one entry, whatever
the number of clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from statelesskit.action import check
from statelesskit.config import Site
from statelesskit.directory import Assignment, Channel, Client, Directory, assignments, resolve
from statelesskit.directory.resolution import groups_by_client
from statelesskit.errors import DamagedError, NotFoundError, RefusedError
from statelesskit.names import prototype_of, split_channel
from statelesskit.publish.artefacts import damaged, folder_of, is_published
from statelesskit.publish.pointers import publishes
from statelesskit.register import entry_of
from statelesskit.snapshot import Snapshot, load
from statelesskit.snapshot.manifest_file import new_bytes
from statelesskit.snapshot.verify import check_whole


@dataclass(frozen=True, slots=True)
class Move:
    """One client that a push changes.

    Attributes:
        before, after: snapshot names; None is "nothing to run".
        bytes: content the client has to fetch before it can run it, uncompressed; None for those that
            boot straight from the server or from a disc and fetch nothing beforehand.
    """

    client: str
    mode: str
    before: str | None
    after: str | None
    because: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push would do."""

    channel: Channel
    snapshot: Snapshot
    moves: tuple[Move, ...]
    unmoved: Mapping[str, int]

    @property
    def forecast_bytes(self) -> int:
        return sum(move.bytes or 0 for move in self.moves)


def plan_push(site: Site, directory: Directory, channel_name: str, snapshot_name: str) -> PushPlan:
    """Say who would run what after the channel moved. Changes nothing.

    Raises:
        NotFoundError: there is no such channel or snapshot.
        RefusedError: the snapshot is of another prototype, or revoked, or damaged; or the site has a publication,
            this is not in it, and diskless clients would be told to run it.
    """
    prototype, _ = split_channel(channel_name)
    if prototype_of(snapshot_name) != prototype:
        raise RefusedError(
            f"{snapshot_name} is no snapshot of {prototype}, so {channel_name} can't point at it",
            hint=f"statelesskit snapshot list {prototype} shows those it can point at",
        )
    channel = directory.channel(channel_name)
    snapshot = load(site, snapshot_name)
    if snapshot.state == "revoked":
        raise RefusedError(f"{snapshot_name} is revoked; no client may be told to run it", hint="push another one")
    try:
        check_whole(site, snapshot)
    except DamagedError as error:
        raise RefusedError(f"{snapshot_name} can't be pushed: {error.message}", hint=error.hint) from error
    moves, unmoved = _moves(site, directory, channel, snapshot)
    diskless = any(move.mode == "diskless" and move.after == snapshot.name for move in moves)
    if diskless and publishes(site):
        _check_bootable(site, channel, snapshot)
    return PushPlan(channel, snapshot, moves, unmoved)


def _check_bootable(site: Site, channel: Channel, snapshot: Snapshot) -> None:
    """Refuse what diskless clients could not boot."""
    if not is_published(site, snapshot.name):
        raise RefusedError(
            f"{snapshot.name} is not published, and diskless clients follow {channel.name}: they could not boot it",
            hint=f"statelesskit publish refresh {snapshot.name}",
        )
    if wrong := damaged(site, snapshot.name, read=False):
        raise RefusedError(
            f"diskless clients that follow {channel.name} could not boot {snapshot.name}: {wrong[0]}",
            hint=f"remove {folder_of(site, snapshot.name)}, then statelesskit publish refresh {snapshot.name}",
        )


def _moves(
    site: Site, directory: Directory, channel: Channel, snapshot: Snapshot
) -> tuple[tuple[Move, ...], dict[str, int]]:
    channels = {one.name: one for one in directory.channels()}
    moved = channels | {channel.name: replace(channel, snapshot=snapshot.name, serial=channel.serial + 1)}
    groups_of = groups_by_client(directory.groups())
    # A snapshot taken while the directory was away is entered when the plan is applied.
    snapshots = {one.name: one for one in directory.snapshots()} | {snapshot.name: entry_of(snapshot)}
    size = cache(lambda before: _bytes_between(site, before, snapshot))
    moves, unmoved = [], {"other channel, pin or none": 0, "thick": 0, "already there": 0}
    for client in sorted(directory.clients(), key=lambda one: one.name):
        groups = groups_of(client.name)
        before = after = resolve(client, channels, groups, snapshots)
        if not client.pin and client.channel in (None, channel.name):  # else no channel but its own moves it
            after = resolve(client, moved, groups, snapshots)
        if before.snapshot != after.snapshot:
            fetched = size(before.snapshot) if client.mode == "caching" else None
            moves.append(Move(client.name, client.mode, before.snapshot, after.snapshot, after.because[0], fetched))
        else:
            unmoved[_why_unmoved(client, after, snapshot)] += 1
    return tuple(moves), unmoved


def _why_unmoved(client: Client, assignment: Assignment, snapshot: Snapshot) -> str:
    if client.mode == "thick":
        return "thick"
    return "already there" if assignment.snapshot == snapshot.name else "other channel, pin or none"


def _bytes_between(site: Site, before: str | None, after: Snapshot) -> int:
    """Return the size of the contents of ``after`` that are not in ``before``."""
    try:
        return new_bytes(site, load(site, before) if before else None, after)
    except (NotFoundError, DamagedError):
        return new_bytes(site, None, after)


def move_channel(directory: Directory, facts: Mapping[str, Any], *, by: str, record: str) -> Channel:
    """Do what a plan's facts say: one modify, guarded by the serial the plan was made at.

    Raises:
        ConflictError: somebody moved it meanwhile; the message says who, and from what to what.
    """
    return directory.move_channel(
        facts["channel"],
        serial=facts["serial"],
        to=facts["to"],
        moved_by=by,
        moved_at=datetime.now(UTC),
        record=record,
    )


def check_push(directory: Directory, facts: Mapping[str, Any], serial: int) -> list[dict[str, Any]]:
    """Read the directory again; return one row for each thing that must now be so, and for what is not."""
    channel = directory.channel(facts["channel"])
    told = {client.name: assignment.snapshot for client, assignment in assignments(directory)}
    planned = {client: after for client, _, after, _ in facts["clients"]}
    wrong = [client for client, after in planned.items() if told.get(client) != after]
    return [
        check(f"serial of {channel.name}", serial, channel.serial),
        check(f"snapshot of {channel.name}", facts["to"], channel.snapshot),
        check("clients told what was planned", len(planned), len(planned) - len(wrong)),
        *(check(f"client {client}", planned[client], told.get(client)) for client in wrong[:20]),
    ]
