"""Give out the publication over HTTP: static files, nothing else; no directory is asked.

A path is opened name by name from the publication's folder and no link is followed, so nothing outside is ever
reached. A machine that asks for a script nobody wrote is noted, from where it asked; the note is made by one worker
with a short queue, so that however many ask, giving out files goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger, AbstractStreamWriter

from statelesskit.clients.discovered import note
from statelesskit.config import Site
from statelesskit.errors import ConfigError, StatelessError
from statelesskit.names import printable

SMALL = 65536  # bytes; read at once, which is faster than handing the file to a thread
QUEUE = 100  # unknown machines that wait to be noted
STOP_S = 10  # for what is being sent when we are asked to stop
_ASKED = re.compile(r"boot/by-mac/((?:[0-9a-f]{2}-){5}[0-9a-f]{2})\.ipxe", re.ASCII)
_TYPES = {".ipxe": "text/plain; charset=utf-8", ".json": "application/json"}
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_UNKNOWN = web.AppKey("unknown", asyncio.Queue[tuple[str, str]])


def serve(site: Site, host: str, port: int, tls: tuple[Path, Path] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; what is being sent then has some seconds to end.

    Args:
        tls: certificate and key, in PEM.

    Raises:
        ConfigError: these can't be used, or the address can't be listened at.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        web.run_app(
            application(site, _door(site, secure=tls is not None)),
            host=host,
            port=port,
            ssl_context=_context(*tls) if tls else None,
            access_log_class=AccessLog,
            shutdown_timeout=STOP_S,
            print=lambda text: None,
        )
    except OSError as error:
        raise ConfigError(
            f"can't listen at {host}:{port}: {error.strerror}", hint="choose another with --listen"
        ) from error


def _door(site: Site, *, secure: bool) -> list[web.RouteDef]:
    """Return the report door's routes; none, and a line that says why, where there can be no door.

    A site has one door. Of a server with TLS and one without, it is in the one that ``report_url`` leads to.
    """
    from statelesskit.reports.door import routes

    if site.report_url and site.report_url.startswith("https:") != secure:
        logging.info("no reports are taken here: they go to %s", printable(site.report_url))
        return []
    try:
        return routes(site)
    except (StatelessError, OSError) as error:  # an ordinary user may not read the door's password
        logging.warning("no reports are taken: %s", printable(str(error)))
        return []


def application(site: Site, routes: Iterable[web.AbstractRouteDef] = ()) -> web.Application:
    """Return the server; ``routes`` come before the files."""
    app = web.Application()
    app.add_routes(routes)

    async def give(request: web.Request) -> web.StreamResponse:
        return await _give(site.publish, request)

    app.router.add_get("/{path:.*}", give)
    app[_UNKNOWN] = asyncio.Queue(QUEUE)
    app.cleanup_ctx.append(lambda app: _noting(site, app))
    return app


async def _give(top: Path, request: web.Request) -> web.StreamResponse:
    path = request.match_info["path"]
    try:
        fd = open_below(top, path)
    except (OSError, ValueError):
        if found := _ASKED.fullmatch(path):
            with suppress(asyncio.QueueFull):  # it will ask again
                request.app[_UNKNOWN].put_nowait((found[1], request.remote or ""))
        raise web.HTTPNotFound(text="there is no such file\n") from None
    headers = {"Content-Type": _TYPES.get(Path(path).suffix, "application/octet-stream")}
    file = os.fdopen(fd, "rb")
    if os.fstat(fd).st_size > SMALL or "Range" in request.headers:
        return _OpenFile(file, headers)
    with file:
        return web.Response(body=file.read(), headers=headers)


class _OpenFile(web.FileResponse):
    """A file that is open already, so that what was checked is what is sent; in ranges, if asked for."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, str]) -> None:
        super().__init__(f"/proc/self/fd/{file.fileno()}", headers=headers)
        self._open = file

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        with self._open:
            return await super().prepare(request)


def open_below(top: Path, path: str) -> int:
    """Open a file below a folder: no link is followed, and no name is ``..``, hidden or a folder.

    Raises:
        OSError, ValueError: there is no such file, or it is none to give out.
    """
    names = path.split("/")
    if any(not name or name.startswith(".") or "\0" in name for name in names):
        raise ValueError(path)
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in names:
        try:
            below = os.open(name, _OPEN, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(path)
    return fd


async def _noting(site: Site, app: web.Application) -> AsyncIterator[None]:
    """Note unknown machines, one after the other, while the server runs."""

    async def work() -> None:
        while True:
            mac, address = await app[_UNKNOWN].get()
            try:
                await asyncio.to_thread(note, site, mac, address, datetime.now(UTC))
            except Exception as error:  # whatever it is, the next one is noted
                logging.warning("unknown machine %s from %s could not be noted: %s", mac, address, printable(error))

    task = asyncio.create_task(work())
    yield
    task.cancel()


class AccessLog(AbstractAccessLogger):
    """One line for each request; what the other side sent is made harmless."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self.logger.info(
            "%s %s %s %s %s %d %.0f ms",
            f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            request.remote,
            printable(request.method),
            printable(request.path_qs),
            response.status,
            response.content_length or 0,  # body_length knows nothing of what the kernel sends by itself
            time * 1000,
        )


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{certificate} and {key} can't be used for TLS: {error}") from error
    return context
