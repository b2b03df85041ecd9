"""Transactions (RFC 5805) with a slapd that cannot bear to be interrupted in one.

A transaction flushes a hundred changes to the disk at once, where slapd flushes each by itself otherwise. But
slapd 2.5.13 crashes in two cases, both seen and both in its source: when a transaction is ended before the last
thread that took a change has let go of it, and when the connection goes away while one is being made. So
:func:`statelesskit.directory.wire.commit` waits for the first. Against the second another process holds the
connection open until a minute after our death, and no signal is heeded before the answer came. A network can
always break, so over one there are no transactions.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from statelesskit.directory import wire
from statelesskit.directory.session import Connection
from statelesskit.run import child_environment, find_tool
from statelesskit.workers import Workers

HELD_S = 60  # longer than any transaction takes


# Makes all of some changes, or none: because one was refused, or because it is not possible.
Commit = Callable[[Connection, Sequence[wire.Request]], bool]


@contextmanager
def transactions(connection: Connection) -> Iterator[Commit]:
    """Give what makes changes in transactions over this connection, and over no other, if that can be done safely."""
    if not (connection.server.ipc and wire.can_commit(connection)):
        yield lambda _connection, _requests: False
        return

    def commit(used: Connection, requests: Sequence[wire.Request]) -> bool:
        made: list[bool] = []
        if used is connection:
            with Workers(1, lambda _: made.append(wire.commit(used, requests))):
                pass
        return made == [True]

    # The shell reads from a pipe that only we hold, so it goes on when we are gone.
    holder = subprocess.Popen(
        [find_tool("sh"), "-c", f"read -r _; exec sleep {HELD_S}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[connection.socket.fileno()],
        start_new_session=True,
        env=child_environment(),
    )
    try:
        yield commit
    finally:
        holder.kill()
        holder.communicate()
