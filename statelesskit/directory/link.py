"""A link to the directory's server that outlives its short absences: a restart, a cut connection, a busy minute.

A question is asked again until it is answered or patience ends. A change is never blindly told twice: when
the link breaks before the answer came, what is there now is read, and that decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from statelesskit.directory.failures import translated
from statelesskit.directory.session import Connection, disconnect
from statelesskit.errors import DirectoryAwayError, DirectoryNotToldError, DirectoryUnavailableError
from statelesskit.progress import current

QUIET_S = 2  # a shorter wait is not spoken of
T = TypeVar("T")


class Fate(Enum):
    """What a look says of a change whose answer never came."""

    MADE = "what is there is what it makes"
    NOT_MADE = "it can be made now as before"
    UNKNOWN = "something else is there"


class Link:
    """One connection at a time, made again when it broke.

    Args:
        connect: makes one; raises DirectoryAwayError for what may pass by itself.
        patience_s: how long the server may be away, from the first failure to the last attempt. One that
            falls silent is noticed by the connection's own limit, which comes on top.
    """

    def __init__(self, connect: Callable[[], Connection], patience_s: float) -> None:
        self._connect = connect
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._away_since: float | None = None

    @property
    def connection(self) -> Connection:
        """The connection there is, or a new one."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        """End the connection; the next use makes another."""
        if self._connection is not None:
            disconnect(self._connection)
            self._connection = None

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Return the answer to what changes nothing, asked again while the server is away.

        Raises:
            DirectoryAwayError: patience has ended.
            StatelessError: it answered that it will not.
        """
        return self._patiently(lambda: self._use(question), DirectoryAwayError)

    def tell(self, change: Callable[[Connection], bool], look: Callable[[], Fate]) -> bool:
        """Have a change made once; return false if the server refused it by what it is guarded with.

        Args:
            change: false says that it was refused. Made a second time it is refused, or changes nothing.
            look: asked when the answer to the change did not come.

        Raises:
            DirectoryNotToldError: the server was away or busy; nothing was changed.
            DirectoryUnavailableError: it was told, and nobody knows if it made the change; the message says so.
        """
        try:
            return self._told(change)
        except DirectoryNotToldError:
            raise
        except DirectoryAwayError as lost:
            fate = self._looked(look, lost)
            if fate is Fate.NOT_MADE:
                try:
                    if self._told(change):
                        return True
                except DirectoryAwayError as again:
                    lost = again
                fate = self._looked(look, lost)  # the first may have come through late
            if fate is Fate.MADE:
                return True
            raise _unsure(lost) from lost

    def _told(self, change: Callable[[Connection], bool]) -> bool:
        return self._patiently(lambda: self._use(change), DirectoryNotToldError)

    def _looked(self, look: Callable[[], Fate], lost: DirectoryAwayError) -> Fate:
        try:
            return look()
        except DirectoryUnavailableError as error:
            raise _unsure(error) from lost

    def _use(self, use: Callable[[Connection], T]) -> T:
        try:
            connection = self.connection
        except DirectoryAwayError as error:
            raise DirectoryNotToldError(error.message, hint=error.hint) from error
        try:
            with translated(connection.server.name):
                return use(connection)
        except DirectoryAwayError:
            self.close()
            raise

    def _patiently(self, attempt: Callable[[], T], error: type[DirectoryAwayError]) -> T:
        try:
            found = attempt()
        except error as trouble:
            found = self._again(attempt, error, trouble)
        self._away_since = None
        return found

    def _again(self, attempt: Callable[[], T], error: type[DirectoryAwayError], trouble: DirectoryAwayError) -> T:
        import stamina
        from stamina.instrumentation import set_on_retry_hooks

        set_on_retry_hooks(())  # it would log every attempt; we say it once
        since = self._away_since = self._away_since or time.monotonic()
        said = False

        def passes(again: Exception) -> bool:
            nonlocal said
            if not isinstance(again, error):
                return False
            if not said and time.monotonic() - since > QUIET_S:
                current().waiting(f"waiting up to {self._patience_s:g} s: {again.message}")
                said = True
            return True

        left_s = since + self._patience_s - time.monotonic()
        if left_s <= 0:
            raise trouble
        for trial in stamina.retry_context(
            passes, attempts=None, timeout=left_s, wait_initial=0.1, wait_max=1, wait_jitter=0.2
        ):
            with trial:
                return attempt()
        raise AssertionError("the last attempt raises")


def _unsure(error: DirectoryUnavailableError) -> DirectoryUnavailableError:
    return DirectoryUnavailableError(
        f"{error.message}; it had been told to make the change, and may have made it",
        hint=f"{error.hint}; then look at what is there now before doing it again",
    )
