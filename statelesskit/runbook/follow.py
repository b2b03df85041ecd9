"""Watch a run from outside: what happens in it and what its cells print, as it comes; and ask it to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from statelesskit.audit import events, process
from statelesskit.audit.listing import state_of
from statelesskit.audit.records import EVENTS
from statelesskit.audit.show import describe
from statelesskit.errors import ConflictError, PermissionNeededError

OUTPUT = "output.txt"  # of a record: what the cells print, as it comes
EVERY_S = 0.3


def follow(record: Path) -> Iterator[str]:
    """Yield what a run has told and tells, line by line, until it has ended or is lost. Nothing is made harmless."""
    seen, rest = 0, ""
    with ExitStack() as files:
        output: IO[bytes] | None = None
        while True:
            state = state_of(record)  # before the reading: what it wrote before it ended is read then
            with suppress(FileNotFoundError):
                # Opened once: at the end of the run it is removed where the notebook holds all of it.
                output = output or files.enter_context((record / OUTPUT).open("rb"))
            if output:
                *lines, rest = (rest + output.read().decode(errors="replace")).split("\n")
                yield from lines
            rows = describe(record).events
            yield from (f"{row.at:%H:%M:%S} {row.event}: {row.text}" for row in rows[seen:])
            seen = len(rows)
            if state != "running":
                if rest:
                    yield rest
                return
            time.sleep(EVERY_S)


def cancel(record: Path) -> None:
    """Ask a run to stop; it cleans up and ends its record itself.

    Raises:
        ConflictError: it has ended.
        PermissionNeededError: it is another user's.
    """
    begin, _ = events.first_and_last(record / EVENTS)
    ended = ConflictError(f"{record.name} has ended", hint=f"statelesskit audit show {record.name}")
    if begin is None or state_of(record) != "running":
        raise ended
    try:
        # Where the service keeps the record, who asked it is stopped: it then stops what it does for them.
        runs = begin.facts.get("runner") or begin.facts
        runner = os.pidfd_open(runs["pid"])  # so that its number can't be another's by now
    except ProcessLookupError:
        raise ended from None
    try:
        if not process.is_alive(runs):
            raise ended
        signal.pidfd_send_signal(runner, signal.SIGTERM)
    except ProcessLookupError:
        raise ended from None
    except PermissionError:
        raise PermissionNeededError(
            f"{record.name} is another user's", hint="stop it as that user, or as root"
        ) from None
    finally:
        os.close(runner)
