"""The one who writes reports into the directory, in batches; beside it nobody does.

A batch is at most three operations, however many reports it holds: a search, one more for clients that never
reported, and its changes, sent together and answered together. It holds what came in while the one before was
written. What is promised is on a
disk: in the directory's, or in the spool while that is away.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from itertools import islice

from statelesskit.audit import keys
from statelesskit.config import Site
from statelesskit.directory import Directory, open_directory
from statelesskit.directory.conf import ldaps_uri
from statelesskit.directory.layout import Layout
from statelesskit.directory.operations import BATCH
from statelesskit.directory.reported import DOOR, enrol, label_request, report_request, standings
from statelesskit.directory.tls import ca_certificate
from statelesskit.errors import ConfigError, DirectoryUnavailableError, StatelessError
from statelesskit.lock import held
from statelesskit.names import printable
from statelesskit.reports.judging import Judgement, Late, Received, judge, may_enrol
from statelesskit.reports.message import Enrolment
from statelesskit.reports.spool import Spool

MOST = BATCH  # reports in a batch: so many changes are sent together
WAITING = 4000  # that may wait for their batch; more are sent away until later
IDLE_S = 2  # how often it is looked whether the directory is back
PATIENCE_S = 2  # for a directory that is away; after that its reports go to the spool
_log = logging.getLogger(__name__)


class Verdict(Enum):
    """What a client is told; :class:`Late` is the fourth answer."""

    TAKEN = "it is kept"
    REFUSED = "it is not believed"
    BUSY = "nothing is known of it; send it again later"


Answer = Verdict | Late


@dataclass(frozen=True, slots=True)
class _Asked:
    what: Received | Enrolment
    answer: Future[Answer]


def as_door(site: Site) -> Site:
    """Return the site as the report door sees it: it may write status entries, and no more.

    Raises:
        ConfigError: the door has no account.
    """
    file = site.keys / f"account-{DOOR}"
    if not file.exists():
        raise ConfigError(
            f"the report door has no account in the directory: {file} is not there",
            hint=f"statelesskit directory account add {DOOR}, then statelesskit directory grant reporter {DOOR}",
        )
    server = replace(
        site.server,
        uri=site.server.uri or ldaps_uri(site),
        ca_file=ca_certificate(site) if site.server.is_private else site.server.ca_file,
        bind_dn=Layout(site.base_dn).account(DOOR),
        password_file=str(file),
        certificate_file=None,
        key_file=None,
        patience_s=min(site.server.patience_s, PATIENCE_S),
    )
    return replace(site, server=server)


class Writer:
    """A thread that lives until :meth:`close`, or as long as the process.

    Raises:
        ConfigError: the door has no account in the directory.
        LockedError: another process takes this site's reports.
    """

    def __init__(self, site: Site) -> None:
        self._site = as_door(site)
        self._spool = Spool(site)
        self._asked: queue.Queue[_Asked | None] = queue.Queue(WAITING)
        self._directory: Directory | None = None
        self._away: DirectoryUnavailableError | None = None
        self._ask_again_at = 0.0
        self._held = ExitStack()
        self._held.enter_context(held(site.lock_file("reports"), what="the report door", doing="taking reports"))
        self._thread = threading.Thread(target=self._work, name="reports", daemon=True)
        self._thread.start()

    def ask(self, what: Received | Enrolment) -> Future[Answer]:
        """Have a report kept, or a client enrolled; the answer comes when that is durable."""
        asked = _Asked(what, Future())
        try:
            self._asked.put_nowait(asked)
        except queue.Full:
            _tell(asked, Verdict.BUSY)
        if not self._thread.is_alive():
            self._turn_away()
        return asked.answer

    def close(self) -> None:
        """Answer what was asked before, then end."""
        self._asked.put(None)
        self._thread.join()
        self._turn_away()
        self._held.close()

    # --- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._next()
            try:
                self._serve(batch)
            except Exception:  # whatever it is, those who wait are told, and the next batch may fare better
                _log.exception("%d requests were sent away", len(batch))
                self._close_directory()
            for asked in batch:
                _tell(asked, Verdict.BUSY)  # of whom nothing was said yet
        self._close_directory()

    def _serve(self, batch: Sequence[_Asked]) -> None:
        for asked in batch:
            if isinstance(asked.what, Enrolment):
                _tell(asked, self._enrol(asked.what))
        reports = [(one, one.what) for one in batch if isinstance(one.what, Received)]
        if reports:
            for (one, _), answer in zip(reports, self._keep([what for _, what in reports]), strict=True):
                _tell(one, answer)
        if self._spool and (self._directory or not batch):
            self._take_out()

    def _next(self) -> tuple[list[_Asked], bool]:
        batch: list[_Asked] = []
        with suppress(queue.Empty):
            while len(batch) < MOST:
                asked = self._asked.get(block=not batch, timeout=IDLE_S)
                if asked is None:
                    return batch, False
                batch.append(asked)
        return batch, True

    def _turn_away(self) -> None:
        """Send away who asked when nobody serves any more."""
        with suppress(queue.Empty):
            while True:
                if asked := self._asked.get_nowait():
                    _tell(asked, Verdict.BUSY)

    def _keep(self, batch: Sequence[Received]) -> Sequence[Answer]:
        """Return what is to be said to each when all that is promised is on a disk."""
        sent_away = [Verdict.BUSY] * len(batch)
        try:
            return self._write(batch)
        except DirectoryUnavailableError as error:
            self._close_directory(error)
            try:
                self._spool.keep(batch)
            except (StatelessError, OSError) as full:
                _log.error("%d reports were sent away: %s", len(batch), printable(full))
                return sent_away
            _log.warning("%d reports wait in %s: %s", len(batch), self._spool.path, printable(error.message))
            return [Verdict.TAKEN] * len(batch)
        except StatelessError as error:
            self._close_directory()
            _log.error("%d reports were sent away: %s", len(batch), printable(error.message))
            return sent_away

    def _write(self, batch: Sequence[Received]) -> list[Answer]:
        """Judge a batch and write what is believed."""
        directory = self._opened()
        known = standings(directory, {one.message.client for one in batch})
        judged = judge(batch, known)
        clients = [*judged.write]
        requests = [report_request(directory.layout, known[name], *judged.write[name]) for name in clients]
        refused = {clients[place]: why for place, why in directory.ldap.change_all(requests, lambda _: None).items()}
        nameless = [name for name, why in refused.items() if why.startswith("entryAlreadyExists")]
        if nameless:
            directory.ldap.change_all([label_request(directory.layout, name) for name in nameless], lambda _: None)
        for name, why in refused.items():
            _log.warning("the report of %s was not written: %s", name, printable(why))
        return [_answer(judged, place, refused) for place in range(len(batch))]

    def _enrol(self, asked: Enrolment) -> Verdict:
        try:
            key = "ssh-ed25519 " + asked.key.split()[1] if keys.blob(asked.key) else ""
        except StatelessError:
            return Verdict.REFUSED
        try:
            directory = self._opened()
            standing = standings(directory, [asked.client]).get(asked.client)
            if not may_enrol(asked, standing, datetime.now(UTC)) or standing is None:
                return Verdict.REFUSED
            return Verdict.TAKEN if enrol(directory, standing, key) else Verdict.REFUSED
        except StatelessError as error:
            self._close_directory()
            _log.warning("a client could not enrol: %s", printable(error.message))
            return Verdict.BUSY

    def _take_out(self) -> None:
        """Write what waited, if the directory is back; a report that is not the newest any more is done with."""
        waiting = self._spool.waiting()
        try:
            while some := [*islice(waiting, MOST)]:
                answers = self._write(some)
                # Changed by others in between, or nameless until now: those are judged anew, once.
                if again := [one for one, answer in zip(some, answers, strict=True) if answer is Verdict.BUSY]:
                    self._write(again)
            self._spool.empty()
        except DirectoryUnavailableError as error:
            self._close_directory(error)
        except (StatelessError, OSError) as error:
            self._close_directory()
            _log.error("reports wait on in %s: %s", self._spool.path, printable(error))

    def _opened(self) -> Directory:
        if self._away and time.monotonic() < self._ask_again_at:
            raise self._away
        if self._directory is None:
            self._directory, self._away = open_directory(self._site), None
        return self._directory

    def _close_directory(self, away: DirectoryUnavailableError | None = None) -> None:
        """End the connection; of a directory that is away nothing is asked for a while, so that none waits for it."""
        self._away, self._ask_again_at = away, time.monotonic() + IDLE_S
        if self._directory is not None:
            self._directory.close()
            self._directory = None


def _tell(asked: _Asked, answer: Answer) -> None:
    with suppress(InvalidStateError):  # it was answered, or who asked has hung up
        asked.answer.set_result(answer)


def _answer(judged: Judgement, place: int, refused: dict[str, str]) -> Answer:
    if place in judged.refused:
        return Verdict.REFUSED
    if place in judged.late:
        return judged.late[place]
    return Verdict.BUSY if judged.good[place] in refused else Verdict.TAKEN
