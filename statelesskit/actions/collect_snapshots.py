"""Delete the snapshots that the site's rules let go, and free what nothing needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from statelesskit.action import Action, Plan, Work, parameter
from statelesskit.actions import choices, surveys
from statelesskit.actions.consequences import CLIENTS
from statelesskit.config import Site

if TYPE_CHECKING:
    from statelesskit.actions.needed import Fleet
    from statelesskit.collect import Freed


@dataclass(frozen=True)
class CollectSnapshots(Action):
    """Delete snapshots that no rule, channel, client or export keeps, and free their contents."""

    verb: ClassVar[str] = "snapshot collect"
    title: ClassVar[str] = "Collect snapshots"
    button: ClassVar[str] = "Delete and free"

    prototype: str = parameter("only its snapshots", default="", choices=choices.prototypes)
    keep: str = parameter("rules in place of site.toml's, as last=5,daily=7,weekly=4,monthly=12", default="")
    objects_only: bool = parameter("delete no snapshot, only free what none needs", default=False)
    repack: bool = parameter("also compress what is kept as well as it goes, which takes long", default=False)

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.snapshots(site)

    def objects(self) -> Sequence[str]:
        return ["store/packs"]

    def uses(self) -> Sequence[str]:
        return [CLIENTS]

    def plan(self, site: Site) -> Plan:
        from statelesskit.actions.needed import Fleet, look_at_fleet
        from statelesskit.collect import find_garbage, needed_objects
        from statelesskit.export.registry import vanished
        from statelesskit.retention import decide, rules_from, stranded
        from statelesskit.snapshot import list_snapshots

        rules = rules_from(self.keep, site.retention)
        snapshots = list_snapshots(site)
        fleet = Fleet({}, frozenset(), (), {}) if self.objects_only else look_at_fleet(site)
        decisions = [] if self.objects_only else decide(snapshots, rules, fleet.needed)
        own = [one for one in decisions if self.prototype in ("", one.snapshot.prototype)]
        go = [one.snapshot for one in own if not one.reasons]
        gone = {one.name for one in go}
        garbage = find_garbage(
            site, needed_objects(site, (one for one in snapshots if one.name not in gone)), repack=self.repack
        )
        packs = f"{len(garbage.dead)} packs are removed, {len(garbage.worn)} written anew"
        notes = [f"{packs}; about {garbage.stored_bytes / 1e6:.1f} MB are freed"]
        notes += _ways_back(fleet, {one.name for one in snapshots}, gone)
        notes += [f"{client} last said long ago that it runs one of them" for client in stranded(fleet.reports, gone)]
        notes += [
            f"{one.path} is not there, so it does not keep {one.snapshot}; mount its disk first if it only is away"
            for one in vanished(site)
            if one.snapshot in gone
        ]
        changes = bool(go or garbage.dead or garbage.worn or garbage.set_aside)
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Delete {len(go)} of {len(snapshots)} snapshots, and free what nothing needs any more."
            if changes
            else "Every snapshot is kept, and everything in the store is needed; there is nothing to do.",
            rows=[
                {
                    "snapshot": one.snapshot.name,
                    "state": one.snapshot.state,
                    "becomes": "kept" if one.reasons else "deleted",
                    "because": "; ".join(one.reasons[:3]) or "no rule keeps it, and nobody needs it",
                }
                for one in own
            ],
            facts={
                "delete": {one.name: one.digest for one in go},
                "keep": [one.snapshot.name for one in own if one.reasons],
                "freed_bytes": garbage.stored_bytes,
                "freed_objects": garbage.objects,
                "packs_removed": len(garbage.dead) + len(garbage.set_aside),
                "packs_written_anew": len(garbage.worn),
            },
            notes=notes,
            changes=changes,
            guard=_guard(site, len(go)),
        )

    def unchanged(self, plan: Plan) -> dict[str, Any]:
        from statelesskit.collect import Freed

        return _result([], {}, Freed())

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.collect import free

        deleted, skipped = self._delete(site, list(plan.facts["delete"]), work)
        freed = free(site, repack=self.repack, progress=work.progress)
        return _result(deleted, skipped, freed)

    def _delete(self, site: Site, names: list[str], work: Work) -> tuple[list[str], dict[str, str]]:
        """Delete what still may go; what somebody has just begun to use stays, and is said."""
        from statelesskit.actions.needed import came_to_be_needed, look_at_fleet
        from statelesskit.directory import open_directory
        from statelesskit.errors import DirectoryUnavailableError, LockedError
        from statelesskit.export.registry import forget_vanished
        from statelesskit.lock import held
        from statelesskit.snapshot import load
        from statelesskit.snapshot.deleted import delete

        deleted: list[str] = []
        skipped: dict[str, str] = {}
        work.progress.stage("deleting snapshots", total=len(names), unit="snapshots")
        needed = look_at_fleet(site).needed if names else {}
        for name in names:
            lock = held(site.lock_file(f"snapshot/{name}"), what=f"the snapshot {name}", doing=self.verb)
            try:
                # One connection each, as a server may hang up on one that waits for long deletions.
                with lock, open_directory(site) as directory:
                    if reasons := needed.get(name) or came_to_be_needed(site, directory, name):
                        skipped[name] = reasons[0]
                        continue
                    directory.remove_snapshot(name)
                    delete(site, load(site, name), by=work.by, record=work.record)
                    deleted.append(name)
                    with suppress(DirectoryUnavailableError):  # it is deleted; what is left is found by a check
                        directory.remove_snapshot(name)  # somebody may have entered it meanwhile
            except LockedError as error:
                skipped[name] = error.message
            work.progress.advance()
        if not self.objects_only:
            forget_vanished(site)
        return deleted, skipped


def _ways_back(fleet: Fleet, there: set[str], gone: set[str]) -> list[str]:
    """Say of each channel that loses some how many earlier snapshots it can still go back to."""
    notes = []
    for channel, earlier in fleet.ways_back.items():
        now, then = len(there & {*earlier}), len((there - gone) & {*earlier})
        if then < now:
            notes.append(f"{channel} can go back to {then} earlier snapshots then, {now} now")
    return notes


def _result(deleted: list[str], skipped: dict[str, str], freed: Freed) -> dict[str, Any]:
    return {
        "deleted": deleted,
        "skipped": skipped,
        "freed_bytes": freed.bytes,
        "packs_removed": freed.removed,
        "packs_written": freed.written,
        "packs_kept": [path.name for path in freed.kept],
    }


def _guard(site: Site, count: int) -> str:
    """Say why nobody may collect this without a person looking, or ""."""
    if count > site.auto_max_deleted:
        return f"{count} snapshots would be deleted; the site's policy allows {site.auto_max_deleted} on its own"
    return ""
