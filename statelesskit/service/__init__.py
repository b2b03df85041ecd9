"""The one door to actions: every front (command line, runbook, form) plans, performs and asks through it.

Where the site has a privileged service, and we are not root, it is the service that does it, behind its socket;
else it is done in this process. The record says which: ``mode`` is ``service`` or ``in process``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from statelesskit.action import Action, Plan
from statelesskit.audit import files
from statelesskit.audit.records import Record
from statelesskit.config import Site
from statelesskit.progress import SILENT, Progress
from statelesskit.service.performing import AT_ONCE as AT_ONCE
from statelesskit.service.performing import AUTO as AUTO
from statelesskit.service.performing import STOPPING as STOPPING
from statelesskit.service.performing import Outcome as Outcome
from statelesskit.service.performing import check_confirmed as check_confirmed
from statelesskit.service.performing import ending_of as ending_of
from statelesskit.service.performing import perform_in, perform_recorded
from statelesskit.service.performing import recorded_if_changed as recorded_if_changed
from statelesskit.service.performing import stopped_by_signals as stopped_by_signals

if TYPE_CHECKING:
    from statelesskit.service.held import HeldRecord


RunRecord: TypeAlias = "Record | HeldRecord"


def is_served(site: Site) -> bool:
    """Say whether what we do here is done by the site's service."""
    return site.service.enabled and os.geteuid() != 0


def plan(site: Site, action: Action) -> Plan:
    """Say what an action would do. Read-only, so it takes no lock and leaves no record."""
    if is_served(site):
        from statelesskit.service import client

        return client.plan(site, action)
    return action.plan(site)


def perform(
    site: Site,
    action: Action,
    confirm: str,
    *,
    record: RunRecord | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Do what an action says, if that is what was confirmed.

    Args:
        confirm: a plan's digest, ``auto`` (within the site's policy), ``AT_ONCE``, or "" for no.
        record: the record of the run this is a part of; without one it gets its own, ended here.

    Raises:
        RefusedError: it was not confirmed, or policy says no. Nothing was changed.
        ConflictError: it is no longer the plan that was confirmed. Nothing was changed.
        LockedError: somebody else works on one of its objects.
        StatelessError: whatever the action itself raises.
    """
    if is_served(site):
        from statelesskit.service import client

        with stopped_by_signals():  # so that we hear what became of it
            return client.perform(site, action, confirm, record.name if record else "", progress)
    if isinstance(record, Record):
        return perform_in(record, site, action, confirm, progress)
    return perform_recorded(site, action, confirm, progress)


def survey(site: Site, kind: type[Action]) -> tuple[str, list[dict[str, Any]]]:
    """Return how things stand for an action; see :meth:`Action.survey`."""
    if is_served(site):
        from statelesskit.service import client

        return client.survey(site, kind)
    return kind.survey(site)


def choices(site: Site, kind: type[Action], name: str) -> list[str]:
    """Return what the live site offers for a parameter that has choices."""
    if is_served(site):
        from statelesskit.service import client

        return client.choices(site, kind, name)
    found = next(item.choices for item in kind.parameters() if item.name == name)
    return list(found(site)) if found else []


def begin(site: Site, what: str, kind: type[Action], facts: Mapping[str, Any], run_id: str = "") -> RunRecord:
    """Begin the record of a run of a runbook around an action; raises as :meth:`Record.begin`."""
    if is_served(site):
        from statelesskit.service.held import HeldRecord

        return HeldRecord.begin(site, what, kind, facts, run_id)
    return Record.begin(site.records, what, facts=facts, run_id=run_id)


def join(site: Site, path: Path) -> RunRecord:
    """Open the record of the run that this process is a part of; raises as :meth:`Record.join`."""
    if is_served(site):
        from statelesskit.service.held import HeldRecord

        return HeldRecord.join(site, path)
    return Record.join(path)


def see_running(site: Site) -> None:
    """Have the logs of runs that go on read, too, by this process; while they grow only the service may open them."""
    if is_served(site):
        from statelesskit.service import client

        files.read_otherwise(partial(client.log_of, site))
