"""Make a snapshot of an archive or an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.entered import enter
from statelesskit.actions.read_back import manifest_read_back
from statelesskit.config import Site
from statelesskit.fs import free_bytes
from statelesskit.names import check_name


@dataclass(frozen=True)
class ImportSnapshot(Action):
    """Make a snapshot of what a tar archive or an OCI image holds."""

    verb: ClassVar[str] = "snapshot import"
    title: ClassVar[str] = "Import a snapshot"
    button: ClassVar[str] = "Import the snapshot"

    prototype: str = parameter(
        "the prototype it becomes a snapshot of; it needs no tree here", choices=choices.prototypes, positional=True
    )
    source: str = parameter("tar:PATH, oci:PATH[:TAG], or a path alone", positional=True)
    note: str = parameter("what this snapshot is for", default="")

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return [f"prototype/{check_name(self.prototype, 'prototype')}"]

    def plan(self, site: Site) -> Plan:
        from statelesskit.archive.source import parse_source
        from statelesskit.snapshot import list_snapshots

        check_name(self.prototype, "prototype")
        source = parse_source(self.source)
        before = list_snapshots(site, self.prototype)
        last = before[-1].name if before else ""
        size, version = source.look()
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Import {source} as a snapshot of {self.prototype}"
            + (f", the one after {last}" if last else ", its first")
            + ".",
            rows=[
                {"what": "prototype", "is": self.prototype},
                {"what": "source", "is": str(source)},
                {"what": "size", "is": f"{size / 1e6:.1f} MB"},
                {"what": "snapshots so far", "is": len(before)},
                {"what": "free in the store", "is": f"{free_bytes(site.store) / 1e9:.1f} GB"},
            ],
            facts={"prototype": self.prototype, "last": last, "source": str(source), "version": version},
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.archive.source import parse_source
        from statelesskit.snapshot.importing import import_snapshot

        source = parse_source(self.source)
        note = self.note or f"imported from {source}"
        snapshot, taken = import_snapshot(site, self.prototype, source, note=note, progress=work.progress)
        return {
            "snapshot": snapshot.name,
            "digest": snapshot.digest,
            "files": snapshot.files,
            "bytes": snapshot.bytes,
            "new_bytes": taken.new_bytes,
            "findings": [finding.as_json() for finding in taken.findings],
            "in_directory": enter(site),
        }

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return manifest_read_back(site, result["snapshot"], result["digest"])
