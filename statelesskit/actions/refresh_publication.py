"""Publish what machines boot: snapshots first, then the scripts that lead to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statelesskit.action import Action, Plan, Work, check, parameter
from statelesskit.actions import choices, surveys
from statelesskit.config import Site
from statelesskit.errors import NotFoundError, RefusedError, UsageError


@dataclass(frozen=True)
class RefreshPublication(Action):
    """Publish every snapshot that diskless clients are told to run, and make the boot scripts what the directory says.

    What is published already is not made again; after a crash the same command goes on.
    """

    verb: ClassVar[str] = "publish refresh"
    title: ClassVar[str] = "Publish what machines boot"
    button: ClassVar[str] = "Publish"

    snapshots: str = parameter(
        "further snapshots to publish, before they are pushed",
        default="",
        choices=choices.snapshots,
        positional=True,
        several=True,
    )

    @classmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        return surveys.publication(site)

    @property
    def named(self) -> list[str]:
        return self.snapshots.replace(",", " ").split()

    def objects(self) -> Sequence[str]:
        return ["publication/all"]

    def uses(self) -> Sequence[str]:
        return [f"snapshot/{name}" for name in self.named]

    def plan(self, site: Site) -> Plan:
        from statelesskit.actions.consequences import snapshot_to_run
        from statelesskit.directory import assignments, open_directory
        from statelesskit.publish.artefacts import is_published, published
        from statelesskit.publish.loaders import stale_loaders
        from statelesskit.publish.pointers import all_wanted, differences, present
        from statelesskit.snapshot import list_snapshots

        with open_directory(site) as directory:
            assigned = [told.snapshot for client, told in assignments(directory) if client.mode == "diskless"]
            wanted = all_wanted(site, directory)
        new, notes = [], []
        for name in sorted({*filter(None, assigned), *self.named}):
            if is_published(site, name):
                continue
            try:
                new.append(snapshot_to_run(site, name))
            except (NotFoundError, RefusedError) as error:
                if name in self.named:
                    raise
                notes.append(f"told to clients, and can't be published: {error.message}")
        # Not the scripts that will no longer wait when this is done: apply looks again.
        stale = [one for one in differences(site, wanted, present(site)) if one.text is not None or not one.waits]
        loaders = sorted(stale_loaders(site))
        gone = sorted(set(published(site)) - {one.name for one in list_snapshots(site)})
        return Plan(
            verb=self.verb,
            parameters=self.as_parameters(),
            summary=f"Publish {len(new)} snapshots, withdraw {len(gone)}, write or remove {len(stale)} boot scripts."
            if new or gone or stale
            else "Publish iPXE itself."
            if loaders
            else "All is published as the directory says; there is nothing to do.",
            rows=[
                *({"what": one.name, "to do": "publish", "why": _why(one.name, assigned)} for one in new),
                *({"what": name, "to do": "withdraw", "why": "it was deleted"} for name in gone),
                *(
                    {"what": f"boot/{name}", "to do": "write", "why": "iPXE for machines that have none"}
                    for name in loaders
                ),
                *({"what": f"boot/{one.path}", "to do": "write or remove", "why": one.what} for one in stale[:200]),
            ],
            notes=notes,
            facts={
                "snapshots": [[one.name, one.digest] for one in new],
                "gone": gone,
                "scripts": len(stale),
                "loaders": loaders,
            },
            changes=bool(new or gone or stale or loaders),
        )

    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        from statelesskit.directory import open_directory
        from statelesskit.lock import held
        from statelesskit.publish.artefacts import publish, withdraw
        from statelesskit.publish.loaders import put_loaders
        from statelesskit.publish.making import make
        from statelesskit.publish.pointers import refresh
        from statelesskit.snapshot import load

        made, left = [], {}
        for name, _ in plan.facts["snapshots"]:
            lock = held(site.lock_file(f"snapshot/{name}"), what=f"the snapshot {name}", doing=self.verb, shared=True)
            try:
                with lock:
                    if publish(site, load(site, name), make, work.progress):
                        made.append(name)
            except (NotFoundError, RefusedError, UsageError) as error:  # no kernel or shell, or it fits no image
                if name in self.named:
                    raise
                left[name] = error.message  # what nobody asked for must not keep back what somebody did
        with open_directory(site) as directory:
            changed = refresh(site, directory)
        loaders = put_loaders(site)
        for name in plan.facts["gone"]:  # last: now no script leads there
            withdraw(site, name)
        gone = plan.facts["gone"]
        return {"published": made, "left": left, "withdrawn": gone, "scripts": len(changed), "loaders": loaders}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        from statelesskit.directory import open_directory
        from statelesskit.publish.artefacts import is_published
        from statelesskit.publish.pointers import all_wanted, differences, present

        with open_directory(site) as directory:
            left = [one.path for one in differences(site, all_wanted(site, directory), present(site)) if not one.waits]
        made = [name for name, _ in plan.facts["snapshots"] if name not in result["left"]]
        missing = [name for name in made if not is_published(site, name)]
        return [check("boot scripts that differ", [], left[:5]), check("snapshots not published", [], missing)]


def _why(name: str, assigned: Sequence[str | None]) -> str:
    count = assigned.count(name)
    return f"{count} diskless client{'s' if count != 1 else ''} told to run it" if count else "asked for"
