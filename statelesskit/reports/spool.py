"""Reports that wait on the disk while the directory is away: ``SITE/spool/reports.jsonl``.

They were not judged yet, as only the directory knows who is known; that is made up for when they are taken out.
One line each. Whoever appends and empties is one thread of the one process that holds the site's ``reports`` lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from statelesskit import fs
from statelesskit.config import Site
from statelesskit.errors import NoSpaceError, StatelessError
from statelesskit.reports.judging import Received
from statelesskit.reports.message import parse_report

LIMIT_BYTES = 64 << 20  # what strangers may fill while nobody can tell who is known


class Spool:
    """The file, made with the first report that waits."""

    def __init__(self, site: Site) -> None:
        self.path: Path = site.root / "spool" / "reports.jsonl"

    def __bool__(self) -> bool:
        """Say whether a report waits."""
        return self._size() > 0

    def keep(self, some: Iterable[Received]) -> None:
        """Append reports; all are on the disk when this returns.

        Raises:
            NoSpaceError: the disk is full, or the file as long as it may get; none of them is kept.
        """
        lines = b"".join(_line(one) for one in some)
        size = self._size()
        if size + len(lines) > LIMIT_BYTES:
            raise NoSpaceError(
                f"{self.path} holds {size} bytes, at most {LIMIT_BYTES} are kept",
                hint="start the directory again: statelesskit site start",
            )
        fs.make_folders(self.path.parent, mode=0o700)
        with fs.disk_full_named(self.path), self._opened() as fd:
            try:
                if size and os.pread(fd, 1, size - 1) != b"\n":  # what a crash tore was never promised
                    fs.write_all(fd, b"\n")
                fs.write_all(fd, lines)
                fs.fsync(fd)
                fs.fsync_folder(self.path.parent)
            except OSError:
                fs.truncate(fd, size)
                raise

    def waiting(self) -> Iterator[Received]:
        """Yield the reports that wait, the first that came first; a line that a crash tore is passed over."""
        if not self:
            return
        with self.path.open("rb") as file:
            for line in file:
                try:
                    kept = json.loads(line)
                    yield Received(parse_report(kept["body"].encode("ascii")), datetime.fromisoformat(kept["at"]))
                except (ValueError, TypeError, KeyError, AttributeError, StatelessError):
                    continue

    def empty(self) -> None:
        """Forget them all."""
        with self._opened() as fd:
            fs.truncate(fd, 0)
            fs.fsync(fd)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        fd = fs.open_log(self.path, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


def _line(one: Received) -> bytes:
    message = one.message
    body = message.signed + (b"\n" + message.signature if message.signature else b"")
    return fs.canonical_json({"at": one.at.isoformat(), "body": body.decode("ascii")}) + b"\n"
