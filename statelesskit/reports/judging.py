"""Whether a report, or a token, is believed. Pure, over what the directory said.

A client with a key is at level ``token``: what is not signed by that key is not its report. Any other is at level
``network``: its report is taken from anybody who sends one, and marked so.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from statelesskit.audit import sshsig
from statelesskit.directory.model import Report
from statelesskit.directory.reported import Standing
from statelesskit.errors import StatelessError
from statelesskit.reports.message import NAMESPACE, Enrolment, Message

AHEAD = timedelta(days=1)  # no counter runs further ahead of our clock, or one wrong clock would silence a client
VALID = timedelta(hours=24)  # of a token
_ENROLMENT = re.compile(r"sha256:([0-9a-f]{64}) (\d{8}T\d{6}Z)", re.ASCII)
_NONE = "0" * 64  # what is compared with where there is nothing, so that it takes as long


@dataclass(frozen=True, slots=True)
class Received:
    """A report and when it came."""

    message: Message
    at: datetime


@dataclass(frozen=True, slots=True)
class Late:
    """A report that is not newer than the last one: a replay, or one whose answer was lost.

    Attributes:
        after: the counter it must be above. Told to none but the client's own key, where it has one.
    """

    after: int


@dataclass(slots=True)
class Judgement:
    """What becomes of a batch, by the place of each report.

    Attributes:
        refused: those of unknown clients, and those that are forged.
        write: of each client the newest report that is believed, and its counter.
        good: places of the reports that are as good as written when ``write`` is.
    """

    refused: set[int] = field(default_factory=set)
    late: dict[int, Late] = field(default_factory=dict)
    write: dict[str, tuple[Report, int]] = field(default_factory=dict)
    good: dict[int, str] = field(default_factory=dict)


def judge(batch: Iterable[Received], known: Mapping[str, Standing]) -> Judgement:
    """Judge reports in the order they came."""
    made = Judgement()
    for place, one in enumerate(batch):
        message, client = one.message, known.get(one.message.client)
        if client is None or not _vouched(message, client):
            made.refused.add(place)
            continue
        last = made.write[client.client][1] if client.client in made.write else client.counter
        limit = max(last, milliseconds(one.at)) + AHEAD // timedelta(milliseconds=1)
        if not last < message.counter <= limit:
            made.late[place] = Late(last)
            continue
        made.write[client.client] = (_report(one, "token" if client.key else "network"), message.counter)
        made.good[place] = client.client
    return made


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _vouched(message: Message, client: Standing) -> bool:
    if not client.key:
        return True
    try:
        sshsig.verify(message.signature, message.signed, NAMESPACE, client.key)
    except StatelessError:
        return False
    return True


def _report(one: Received, level: str) -> Report:
    said = one.message
    return Report(
        said.client, said.snapshot, (), one.at, said.digest or "", said.result, level,
        said.overlay_bytes, said.overlay_limit_bytes,
    )  # fmt: skip


# --- enrolment --------------------------------------------------------------------------------


def enrolment_text(token: str, at: datetime) -> str:
    """Return what is kept of a token: its hash, and until when it is good."""
    return f"sha256:{_hash(token)} {at + VALID:%Y%m%dT%H%M%SZ}"


def may_enrol(asked: Enrolment, client: Standing | None, at: datetime) -> bool:
    """Say whether a token is the one that is out and still good; it takes as long whatever is wrong."""
    kept = _ENROLMENT.fullmatch(client.enrolment if client else "")
    same = hmac.compare_digest(_hash(asked.token), kept[1] if kept else _NONE)
    return same and kept is not None and f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}" < kept[2]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
