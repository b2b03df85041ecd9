"""What a change of clients or groups does to what clients are told to run: the table of a plan, and its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from statelesskit.config import Site

if TYPE_CHECKING:
    from statelesskit.directory import Client, Directory, Group
    from statelesskit.snapshot import Snapshot

Move = tuple[str, str | None, str | None, str]  # client, before, after, because

# Whoever comes to follow a channel shares it, whoever removes one has it alone: else one is followed that is gone.
FOLLOWERS = "followers/all"
# Whoever enters many clients has it alone, whoever deletes snapshots shares it: else one is pinned that is gone.
CLIENTS = "clients/all"


def moves_of(
    site: Site,
    directory: Directory,
    clients: Iterable[str],
    *,
    client: Callable[[Client], Client] = lambda one: one,
    groups: Callable[[list[Group]], list[Group]] = lambda all_: all_,
) -> list[Move]:
    """Return what becomes of some clients: those whose answer changes, by name.

    Args:
        client, groups: turn what there is now into what there will be.
    """
    from statelesskit.directory import resolve
    from statelesskit.register import entry_of
    from statelesskit.snapshot import list_snapshots

    channels = {one.name: one for one in directory.channels()}
    # A snapshot taken while the directory was away is entered when the plan is applied.
    snapshots = {one.name: entry_of(one) for one in list_snapshots(site)}
    snapshots |= {one.name: one for one in directory.snapshots()}
    now = directory.groups()
    then = groups(now)
    moves = []
    for one in directory.clients_named(clients):
        before = resolve(one, channels, now, snapshots)
        after = resolve(client(one), channels, then, snapshots)
        if before.snapshot != after.snapshot:
            moves.append((one.name, before.snapshot, after.snapshot, after.because[-1 if not after.snapshot else 0]))
    return moves


def rows_of(moves: Sequence[Move]) -> list[dict[str, Any]]:
    return [
        {"client": name, "from": before or "nothing", "to": after or "nothing", "because": because}
        for name, before, after, because in moves
    ]


def notes_of(moves: Sequence[Move]) -> list[str]:
    """Say how many will run nothing any more, which a person may not have meant."""
    nothing = [name for name, _, after, _ in moves if not after]
    return [f"{len(nothing)} of them will have nothing to run: {few(nothing)}"] if nothing else []


def snapshot_to_run(site: Site, name: str) -> Snapshot:
    """Return a snapshot clients may be told to run.

    Raises:
        NotFoundError: there is none of that name.
        RefusedError: it is revoked or damaged.
    """
    from statelesskit.errors import DamagedError, RefusedError
    from statelesskit.snapshot import load
    from statelesskit.snapshot.verify import check_whole

    snapshot = load(site, name)
    if snapshot.state == "revoked":
        raise RefusedError(f"{name} is revoked; no client may be told to run it", hint="choose another one")
    try:
        check_whole(site, snapshot)
    except DamagedError as error:
        raise RefusedError(f"no client may be told to run {name}: {error.message}", hint=error.hint) from error
    return snapshot


def few(names: Sequence[str], limit: int = 5) -> str:
    """Name the first of many."""
    return ", ".join(names[:limit]) + (" …" if len(names) > limit else "")
