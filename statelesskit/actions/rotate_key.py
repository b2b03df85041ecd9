"""Have a new key seal the records from now on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check
from statelesskit.actions import surveys
from statelesskit.config import Site


@dataclass(frozen=True)
class RotateKey(Action):
    """Make a new key that seals the records; the old one signs that it follows, in the log, and is gone then.

    Auditors who know the old fingerprint, or any before it, go on with that.
    """

    verb: ClassVar[str] = "key rotate"
    title: ClassVar[str] = "Rotate the key of the records"
    button: ClassVar[str] = "Rotate"

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.record_keys(site)

    def objects(self) -> Sequence[str]:
        return ["key/record"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.audit import keys
        from statelesskit.audit.handover import read_keys
        from statelesskit.audit.log import LOG

        public = keys.public_line(keys.load_private(site.keys / keys.PRIVATE).public_key())
        number = len(read_keys(site.records / LOG, public).publics)
        now = keys.fingerprint(public)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Replace the key {now}, which seals the records, by a new one.",
            rows=[{"key": number, "fingerprint": now, "then": f"signs that key {number + 1} follows, and is removed"}],
            facts={"fingerprint": now, "number": number},
            notes=["tell auditors the new fingerprint; who knows an old one only follows from that to the new one"],
            guard="a key is rotated by a person, who tells others",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.audit import keys
        from statelesskit.audit.entering import enter_ended
        from statelesskit.audit.log import held

        key = site.keys / keys.PRIVATE
        enter_ended(site.records, key)  # so that the old key's share is whole
        with held(site.records, key) as writer:
            one = writer.hand_over()
        new = keys.fingerprint(one.new)
        return {"fingerprint": new, "previous": plan.facts["fingerprint"], "sealed_before": one.size}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.audit import keys
        from statelesskit.audit.handover import read_keys
        from statelesskit.audit.log import LOG

        public = (site.keys / keys.PUBLIC).read_text("ascii", "replace")
        proven = read_keys(site.records / LOG, public)
        return [
            check("fingerprint of record.pub", result["fingerprint"], keys.fingerprint(public)),
            check("keys that follow each other", plan.facts["number"] + 1, len(proven.publics)),
        ]
