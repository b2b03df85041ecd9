"""The record of a run that an ordinary user carries out: kept by the service, told by the run.

What the run tells (its cells, its notebook, how it ended) is *claimed*, and each event says so. What the service
did itself in that record is *attested*. The record is held over one connection: when that breaks, the run is lost.
"""

from __future__ import annotations

import base64
import os
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from statelesskit import scrub
from statelesskit.action import Action
from statelesskit.config import Site
from statelesskit.errors import StatelessError
from statelesskit.service.client import connect
from statelesskit.service.wire import FORMAT, Lines, raised, send

CHUNK = 1 << 20  # bytes


class HeldRecord:
    """Does for a run what :class:`Record` does where the run writes its record itself.

    Attributes:
        name: the record's.
        path: a folder of this user for what the run writes meanwhile; its files join the record at the end.
        run_id: as of a record.
        ended: nothing can be added any more.
    """

    def __init__(self, site: Site, name: str) -> None:
        self.name, self.run_id = name, name[-8:]
        self.folder = site.records / name
        self.ended = False
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._lines = Lines(self._connection)
        self._asked = 0
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def path(self) -> Path:
        self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="statelesskit-")
        return Path(self._scratch.name)

    @classmethod
    def begin(cls, site: Site, what: str, kind: type[Action], facts: Mapping[str, Any], run_id: str = "") -> HeldRecord:
        """Have the service begin a record; raises as :meth:`Record.begin`, and RefusedError where policy says no."""
        record = cls(site, "")
        connect(site, record._connection)
        request = {"what": "begin", "runbook": what, "verb": kind.verb, "facts": dict(facts), "run_id": run_id}
        done = record._ask({"format": FORMAT, **request})
        record.name, record.run_id = done["record"], done["run_id"]
        record.folder = site.records / record.name
        return record

    @classmethod
    def join(cls, site: Site, path: Path) -> HeldRecord:
        """Name the record that another process holds, to perform an action as a part of it."""
        return cls(site, path.name)

    def event(self, kind: str, /, **facts: Any) -> None:
        """Claim an event; raises what the service refuses."""
        self._ask({"do": "event", "kind": kind, "facts": scrub.plain(facts)})

    def attach(self, name: str, data: bytes) -> None:
        """Put a file into the record, and its digest into the log."""
        self._ask({"do": "attach", "name": name, "data": _text(scrub.data(data))})

    def keep(self, name: str, data: bytes) -> None:
        """Put a file into the record that is written again while the run goes on."""
        self._ask({"do": "keep", "name": name, "data": _text(data)})

    def end(self, state: str, exit_code: int, *, key: Path, **facts: Any) -> None:
        """Have the record ended as the run says, and sealed by the service; ``key`` is the service's to use."""
        if self._scratch:
            for file in sorted(self.path.iterdir()):
                with file.open("rb") as opened:
                    while data := opened.read(CHUNK):
                        self._ask({"do": "append", "name": file.name, "data": _text(data)})
            self._scratch.cleanup()
        claimed = {name: facts[name] for name in ("error", "left_undone") if name in facts}
        self._ask({"do": "end", "state": state, "exit_code": exit_code, "facts": claimed})
        self.ended = True
        self._connection.close()

    def _ask(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        self._asked += 1
        try:
            send(self._connection, {**frame, "id": self._asked})
            while answer := self._lines.receive():
                if answer.get("id") not in (self._asked, None):  # to what was asked before somebody interrupted us
                    continue
                if "error" in answer:
                    raise raised(answer["error"])
                return dict(answer["done"])
        except OSError:
            pass
        self.ended = True
        with suppress(OSError):
            self._connection.close()
        raise StatelessError(
            f"the service no longer holds the record {self.name or 'of this run'} (process {os.getpid()})",
            hint="it was stopped or killed; what the run did until then is in the record",
        )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
