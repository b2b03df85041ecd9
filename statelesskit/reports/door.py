"""The report door: ``POST /report`` and ``POST /enrol`` for an aiohttp application.

| answer | means |
|---|---|
| 200 | it is on a disk: the report will stand in the client's status entry, or the key is registered |
| 400 | it is not of the format; the body says why |
| 403 | not believed: unknown client, forged, unsigned where there is a key, wrong or used token; never which |
| 409 | not newer than the last report: ``{"after": N}`` says which counter it must be above |
| 413 | longer than :data:`statelesskit.reports.message.LIMIT_BYTES` |
| 429 | too many from this address |
| 503 | not now; nothing is known of it, send it again |

Tokens are 256 random bits, so nobody finds one by trying; wrong ones are limited by address, and do not void the
right one, or anybody could keep a client from enrolling.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from aiohttp import web

from statelesskit.config import Site
from statelesskit.errors import FormatError
from statelesskit.reports.judging import Late, Received
from statelesskit.reports.limits import Limit
from statelesskit.reports.message import LIMIT_BYTES, Enrolment, parse_enrolment, parse_report
from statelesskit.reports.writer import Verdict, Writer

BODY_TIMEOUT_S = 10
REPORTS = (1000, 50.0)  # at once, and then a second, from one address: a whole site may be behind it
ENROLMENTS = (10, 0.2)
_STATUS = {Verdict.TAKEN: 200, Verdict.REFUSED: 403, Verdict.BUSY: 503}


def routes(site: Site) -> list[web.RouteDef]:
    """Return the door's routes; reports are written by a thread of this process from now on.

    Raises:
        ConfigError: the door has no account in the directory.
    """
    return Door(Writer(site)).routes()


class Door:
    """The door in front of a writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._reports, self._enrolments = Limit(*REPORTS), Limit(*ENROLMENTS)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/report", self.report), web.post("/enrol", self.enrol)]

    async def report(self, request: web.Request) -> web.Response:
        """Take a report."""
        body = await _body(request, self._reports)
        try:
            message = parse_report(body)
        except FormatError as error:
            raise web.HTTPBadRequest(text=f"the report {error.message}\n") from None
        return await self._answered(Received(message, datetime.now(UTC)))

    async def enrol(self, request: web.Request) -> web.Response:
        """Register a client's key."""
        body = await _body(request, self._enrolments)
        try:
            asked = parse_enrolment(body)
        except FormatError as error:
            raise web.HTTPBadRequest(text=f"the enrolment {error.message}\n") from None
        return await self._answered(asked)

    async def _answered(self, what: Received | Enrolment) -> web.Response:
        answer = await asyncio.wrap_future(self._writer.ask(what))
        if isinstance(answer, Late):
            return web.json_response({"after": answer.after}, status=409)
        headers = {"Retry-After": "30"} if answer is Verdict.BUSY else None
        return web.json_response({"answer": answer.value}, status=_STATUS[answer], headers=headers)


async def _body(request: web.Request, limit: Limit) -> bytes:
    if not limit.allows(request.remote):
        raise web.HTTPTooManyRequests(headers={"Retry-After": "30"}, text="too many from this address\n")
    body = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while part := await request.content.read(LIMIT_BYTES + 1 - len(body)):
                body += part
                if len(body) > LIMIT_BYTES:
                    raise web.HTTPRequestEntityTooLarge(LIMIT_BYTES, len(body))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return body
