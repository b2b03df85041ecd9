"""What channels pointed at, and how far each can go back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from statelesskit.config import Site
from statelesskit.directory import Directory
from statelesskit.directory.model import Channel, Push
from statelesskit.directory.pushes import pushes, ways_back
from statelesskit.errors import RefusedError
from statelesskit.names import printable
from statelesskit.snapshot import Snapshot, list_snapshots
from statelesskit.snapshot.whole import is_partial


def history_rows(directory: Directory, channel: str) -> list[dict[str, Any]]:
    """Return a row for each move of a channel, the last first.

    Raises:
        NotFoundError: there is no such channel, and never was one as far as the history tells.
    """
    found = pushes(directory, channel)
    if not found:
        directory.channel(channel)  # raises, with the nearest name
    return [
        {
            "serial": one.serial,
            "from": one.before,
            "to": one.after,
            "moved_by": one.moved_by,
            "moved_at": one.moved_at.isoformat(timespec="seconds") if one.moved_at else None,
            "record": one.record,
        }
        for one in reversed(found)
    ]


def earlier(channel: Channel, history: Iterable[Push]) -> list[str]:
    """Return the snapshots a channel pointed at before, the last first."""
    own = [one for one in history if one.channel == channel.name]
    back = ways_back(own, channel.snapshot)
    # A channel older than its history knows at least one.
    if channel.previous and channel.previous != channel.snapshot and channel.previous not in back:
        back.append(channel.previous)
    return back


def rollback_target(site: Site, directory: Directory, channel_name: str) -> str:
    """Return the snapshot a rollback of the channel goes to: the one it pointed at before.

    Raises:
        RefusedError: there was none, or no client may be told to run it; the hint says which earlier one is fine.
    """
    channel = directory.channel(channel_name)
    back = earlier(channel, pushes(directory, channel_name))
    if not back:
        raise RefusedError(
            f"{channel_name} has never pointed at another snapshot, there is nothing to go back to",
            hint="push the snapshot you want instead",
        )
    there = {one.name: one for one in list_snapshots(site)}
    wrong = {name: fault for name in back if (fault := _fault(site, there.get(name)))}
    if back[0] in wrong:
        good = next((name for name in back if name not in wrong), None)
        raise RefusedError(
            f"{channel_name} pointed at {printable(back[0])} before, which is {wrong[back[0]]}",
            hint=f"an earlier one is fine: statelesskit push apply {channel_name} {good}"
            if good
            else "of all it pointed at none can be given out; push the snapshot you want instead",
        )
    return back[0]


def _fault(site: Site, snapshot: Snapshot | None) -> str:
    """Say why no client may be told to run a snapshot, or ""."""
    if snapshot is None:
        return "no longer there"
    return "revoked" if snapshot.state == "revoked" else "partial" if is_partial(site, snapshot.name) else ""
