"""Many answers, and many changes, over one connection of ldap3, as fast as the server is.

ldap3 connects, says who we are, and decodes. It waits for each answer before it sends the next request, and
turns every value into text it is not asked for; what is read and written in bulk goes past that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ldap3
from ldap3.core import exceptions as ldap
from ldap3.core.results import RESULT_CODES
from ldap3.operation.search import search_operation
from ldap3.utils.asn1 import decode_message_fast, decode_sequence, encode

from statelesskit.directory import ber
from statelesskit.directory.ber import Control
from statelesskit.directory.mapping import Entry

PAGE = 1000  # entries the server sends at once
WINDOW = 256  # requests on their way; slapd ends a connection that has more than a thousand
RECEIVED = 1 << 18  # bytes asked of the socket at once
PAGED = "1.2.840.113556.1.4.319"  # RFC 2696
ENTRY, DONE = 4, 5  # application tags of RFC 4511


@dataclass(frozen=True, slots=True)
class Request:
    """One encoded request, with its controls."""

    body: bytes
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What the server answered to a request: a code of RFC 4511, section 4.1.9, and what it says beyond that."""

    code: int
    message: str

    @property
    def good(self) -> bool:
        return self.code == 0

    @property
    def name(self) -> str:
        return str(RESULT_CODES.get(self.code, self.code))

    def error(self) -> ldap.LDAPOperationResult:
        """Return the exception ldap3 has for it."""
        return ldap.LDAPOperationResult(self.code, self.name, "", self.message)


def pages(
    connection: ldap3.Connection, base: str, rule: str, scope: str, attributes: Sequence[str]
) -> Iterator[list[Entry]]:
    """Yield the entries found, page by page; between two pages the connection is free for other use.

    Args:
        rule: a filter, its values already escaped.

    Raises:
        LDAPException: as ldap3 would, but also for a referral, and for an answer that a limit cut off.
    """
    body = _search(base, rule, scope, tuple(attributes))
    size, cookie = ber.tlv(ber.INTEGER, PAGE.to_bytes(2, "big")), b""
    while True:
        paged = (PAGED, False, ber.tlv(ber.SEQUENCE, size, ber.text(cookie)))
        found: list[Entry] = []
        with _exchange(connection) as exchange:
            exchange.send([Request(body, () if scope == ldap3.BASE else (paged,))])
            for answer in exchange.answers:
                if answer["protocolOp"] == ENTRY:
                    found.append(_entry(answer["payload"]))
                elif answer["protocolOp"] == DONE:
                    break
            result, cookie = _result(answer["payload"]), _cookie(answer["controls"])
        if not result.good:
            raise result.error()
        yield found
        if not cookie:
            return


def tell(connection: ldap3.Connection, requests: Sequence[Request]) -> list[Result]:
    """Send requests without waiting for each; return the answers in that order. They are served in any order."""
    with _exchange(connection) as exchange:
        return [_result(payload) for payload in exchange.ask(requests)]


class _Exchange:
    """Requests and answers while nothing else uses the connection.

    Attributes:
        answers: what the server sends, for ever.
    """

    def __init__(self, connection: ldap3.Connection) -> None:
        self._connection = connection
        self.answers = self._received()

    def send(self, requests: Sequence[Request]) -> list[int]:
        """Send requests; return their numbers."""
        numbers = [self._connection.server.next_message_id() for _ in requests]
        sent = zip(numbers, requests, strict=True)
        self._connection.socket.sendall(b"".join(ber.message(n, one.body, one.controls) for n, one in sent))
        return numbers

    def ask(self, requests: Sequence[Request]) -> list[Any]:
        """Send requests, so many at a time, and return what was answered to each."""
        found: list[Any] = [None] * len(requests)
        places: dict[int, int] = {}
        sent = 0
        while sent < len(requests) or places:
            if len(places) <= WINDOW // 2 and sent < len(requests):
                numbers = self.send(requests[sent : sent + WINDOW // 2])
                places |= zip(numbers, range(sent, len(requests)), strict=False)
                sent += len(numbers)
            answer = next(self.answers)
            found[places.pop(answer["messageID"])] = answer["payload"]
        return found

    def _received(self) -> Iterator[dict[str, Any]]:
        data, at = b"", 0
        while True:
            while size := _size(data, at):
                decoded = decode_message_fast(data[at : at + size])
                at += size
                if decoded["messageID"] == 0:  # RFC 4511, 4.4: it ends the connection, and says why
                    raise ldap.LDAPSessionTerminatedByServerError(_result(decoded["payload"]).message)
                yield decoded
            more = self._connection.socket.recv(RECEIVED)
            if not more:
                raise ldap.LDAPSessionTerminatedByServerError("session terminated by server")
            data, at = data[at:] + more, 0


@contextmanager
def _exchange(connection: ldap3.Connection) -> Iterator[_Exchange]:
    """Use the connection past ldap3; whatever goes wrong ends it, as answers may still be on their way."""
    try:
        if connection.closed:
            raise ldap.LDAPSocketOpenError("the connection is closed")
        yield _Exchange(connection)
    except BaseException as error:
        connection.strategy.close()
        if isinstance(error, OSError):
            raise ldap.LDAPSocketReceiveError(f"error receiving data: {error}") from error
        if isinstance(error, (IndexError, KeyError, TypeError, ValueError)):
            raise ldap.LDAPSocketReceiveError(f"what it sends is no LDAP: {error!r}") from error
        raise


def _size(data: bytes, at: int) -> int:
    """Return how many bytes the message that begins there has, or 0 if it has not come whole."""
    there = len(data) - at
    if there < 2:
        return 0
    size, begin = data[at + 1], 2
    if size > 0x7F:
        begin += size & 0x7F
        size = int.from_bytes(data[at + 2 : at + begin], "big")
    return begin + size if there >= begin + size else 0


@lru_cache(maxsize=64)
def _search(base: str, rule: str, scope: str, attributes: tuple[str, ...]) -> bytes:
    asked = search_operation(base, rule, scope, ldap3.DEREF_NEVER, list(attributes), 0, 0, False, False, False)
    return bytes(encode(asked))


def _entry(payload: Any) -> Entry:
    values = {_kind(one[0][3]): [value[3] for value in one[1][3]] for _, _, _, one in payload[1][3]}
    return Entry(payload[0][3].decode("utf-8", "replace"), values)


@lru_cache(maxsize=256)
def _kind(name: bytes) -> str:
    return name.decode("ascii", "replace")


def _result(payload: Any) -> Result:
    return Result(payload[0][3], payload[2][3].decode("utf-8", "replace"))


def _cookie(controls: Any) -> bytes:
    for _, _, _, control in controls or ():
        if control[0][3] == PAGED.encode():
            [(_, _, _, (_, cookie))] = decode_sequence(control[-1][3], 0, len(control[-1][3]))
            return bytes(cookie[3])
    return b""
