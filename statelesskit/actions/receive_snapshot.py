"""Take in a snapshot that another site sends. Not for people: ``snapshot copy`` starts it on the other side."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import surveys
from statelesskit.actions.entered import enter
from statelesskit.config import Site
from statelesskit.errors import UsageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class ReceiveSnapshot(Action):
    """Take in a snapshot that comes on standard input; what it needs is asked for on standard output."""

    verb: ClassVar[str] = "snapshot receive"
    title: ClassVar[str] = "Receive a snapshot"
    button: ClassVar[str] = "Receive the snapshot"

    snapshot: str = parameter("the snapshot's name", positional=True)
    digest: str = parameter("its digest", positional=True)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return [f"snapshot/{self.snapshot}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.snapshot.receiving import is_here

        if not _DIGEST.fullmatch(self.digest):
            raise UsageError(f"{self.digest!r} is no digest of a snapshot")
        here = is_here(site, self.snapshot, self.digest)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"{self.snapshot} is here already." if here else f"Take in {self.snapshot} from another site.",
            rows=[{"snapshot": self.snapshot, "digest": self.digest}],
            facts={"snapshot": self.snapshot, "digest": self.digest},
            changes=not here,
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.snapshot.receiving import receive
        from statelesskit.snapshot.wire import Wire

        with os.fdopen(0, "rb", closefd=False) as incoming, os.fdopen(1, "wb", closefd=False) as outgoing:
            received = receive(site, self.snapshot, self.digest, Wire(incoming, outgoing))
        return {
            "snapshot": received.snapshot.name,
            "digest": received.snapshot.digest,
            "sequence": received.snapshot.sequence,
            "objects": received.objects,
            "bytes": received.content_bytes,
            "in_directory": enter(site),
        }

    def unchanged(self, plan: Plan) -> dict[str, Any]:
        return {"snapshot": self.snapshot, "digest": self.digest, "objects": 0, "bytes": 0}
