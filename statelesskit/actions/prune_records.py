"""Give up the files of old records, and keep what proves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import surveys
from statelesskit.config import Site
from statelesskit.errors import ParameterError, RefusedError


@dataclass(frozen=True)
class PruneRecords(Action):
    """Drop the bodies of old records (events, plans, notebooks); the signed statements and the log stay."""

    verb: ClassVar[str] = "audit prune"
    title: ClassVar[str] = "Prune old records"
    button: ClassVar[str] = "Prune"

    before: str = parameter("prune records that ended before this day (UTC), as 2026-01-31")

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.records(site)

    def objects(self) -> Sequence[str]:
        return ["records/all"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.audit.keys import PUBLIC
        from statelesskit.audit.pruning import prunable, pruned_records, size_bytes
        from statelesskit.audit.verify import verify_record

        public = (site.keys / PUBLIC).read_text("ascii", "replace")
        found, begun = prunable(site.records, public, self._day()), pruned_records(site.records, public)
        for entry in found:
            for fault in verify_record(site.records / entry.record, public, entry.sha256 if entry in begun else ""):
                raise RefusedError(
                    f"{entry.record} is not as it was sealed; pruning it would hide that: {fault.file} {fault.finding}",
                    hint="statelesskit audit verify",
                )
        sizes = [size_bytes(site.records / entry.record) for entry in found]
        rows = [{"record": one.record, "bytes": size} for one, size in zip(found, sizes, strict=True)]
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Prune {len(found)} records that ended before {self.before}, {sum(sizes)} bytes",
            rows=rows,
            facts={"records": [[entry.record, entry.sha256] for entry in found]},
            notes=["who did what, when, and how it ended stays, with the digest of every file; the files go for good"],
            changes=bool(found),
            guard="records are evidence: somebody must have looked at which go" if found else "",
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.audit.log import Entry
        from statelesskit.audit.pruning import PRUNED, encode, prune
        from statelesskit.audit.records import Record

        entries = [Entry(sha256, record) for record, sha256 in plan.facts["records"]]
        # First said, then done: what is missing without a word would be tampering.
        Record.join(site.records / work.record).attach(PRUNED, encode(entries))
        work.progress.stage("pruning records", total=len(entries), unit="records")
        for entry in entries:
            prune(site.records / entry.record)
            work.progress.advance()
        return {"pruned": len(entries), "before": self.before}

    def verify(self, site: Site, plan: Plan, result: Any) -> list[dict[str, Any]]:
        from statelesskit.audit.statement import STATEMENT

        folders = [site.records / name for name, _ in plan.facts["records"]]
        more = sum([*folder.iterdir()] != [folder / STATEMENT] for folder in folders)
        return [check("pruned records that hold more than their statement", 0, more)]

    def _day(self) -> datetime:
        try:
            return datetime.strptime(self.before, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise ParameterError(f"before is {self.before!r}, expected a day as 2026-01-31") from None
