"""What the fleet directory holds, as plain values; nothing here talks to a server.

Values read from a server are hostile text: a name may be anything somebody else wrote there. A
pointer that leads outside the fleet keeps its DN as its name, so that it dangles visibly.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MODES = ("diskless", "caching", "live", "thick")
STATES = ("staged", "tested", "released", "deprecated", "revoked")
LEVELS = ("network", "token", "tpm")  # how a report is known to be its client's: not at all, by a key, by hardware
LAST_PRIORITY = 1000  # of a group that states none


@dataclass(frozen=True, slots=True)
class PrototypeEntry:
    """A prototype the directory knows."""

    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """A snapshot the directory knows.

    Attributes:
        digest: ``sha256:…`` of its manifest.
        state: one of :data:`STATES`.
        parent: the snapshot of the same prototype that was taken before it.
    """

    name: str
    prototype: str
    digest: str
    state: str
    created_at: datetime
    parent: str | None = None
    size_bytes: int = 0
    files: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Channel:
    """A named pointer of a prototype to the snapshot its followers run.

    Attributes:
        name: ``desktop/stable``.
        previous: what it pointed at before its last move.
        serial: 1 when made, one more with every move.
        moved_by: who moved it last, as they called themselves; "" if nobody said.
        record: name of the audit record of that move.
    """

    name: str
    prototype: str
    snapshot: str | None
    previous: str | None
    serial: int
    moved_by: str
    moved_at: datetime | None
    record: str | None


@dataclass(frozen=True, slots=True)
class Client:
    """A machine.

    Attributes:
        mode: one of :data:`MODES`.
        macs: its network cards, ``52:54:00:12:34:56``.
        channel: the channel it follows, ``desktop/stable``.
        pin: the snapshot it is held at, whatever its channel says.
        reference: the snapshot a thick client is compared with; it is never told to run it.
    """

    name: str
    mode: str
    macs: tuple[str, ...] = ()
    channel: str | None = None
    pin: str | None = None
    note: str = ""
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Clients that follow one channel, or are held at one snapshot, together.

    Attributes:
        priority: of several groups a client is in, the lowest decides.
        nested: the groups that are members of it, which is a fault: they are not followed.
        strangers: DNs of members that are neither clients nor groups.
    """

    name: str
    members: frozenset[str]
    channel: str | None = None
    pin: str | None = None
    priority: int = LAST_PRIORITY
    note: str = ""
    nested: frozenset[str] = frozenset()
    strangers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Push:
    """One line of a channel's history: with this serial it came to point at another snapshot.

    Attributes:
        before, after: snapshots; None is none. A channel that was removed went to none with its last serial.
        record: name of the audit record of that move.
    """

    channel: str
    serial: int
    before: str | None
    after: str | None
    moved_by: str
    moved_at: datetime | None
    record: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a client says of itself; a claim, whoever wrote it.

    Attributes:
        running: the snapshot it says it runs.
        cached: those it says it holds.
        seen_at: when it last said so.
        digest: the digest it says that snapshot has.
        result: how its boot went, in one word.
        level: one of :data:`LEVELS`, or "" of a client that is to enrol and has not reported yet.
        overlay_bytes, overlay_limit_bytes: what it has written over its root, and can write.
    """

    client: str
    running: str | None
    cached: tuple[str, ...]
    seen_at: datetime | None
    digest: str = ""
    result: str = ""
    level: str = ""
    overlay_bytes: int | None = None
    overlay_limit_bytes: int | None = None
