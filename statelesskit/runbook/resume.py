"""Continue a run that failed, was stopped, or vanished: its runbook again, with its parameters.

A kernel's memory is gone with it, so the cells run from the first one. What makes that a continuation is
that actions are idempotent: their plan finds what was done, and does the rest. The old record stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statelesskit import service
from statelesskit.audit import events
from statelesskit.audit.listing import find_record, state_of
from statelesskit.audit.records import EVENTS
from statelesskit.config import Site
from statelesskit.errors import ConflictError, ParameterError, RefusedError
from statelesskit.runbook.find import Runbook, find_runbook
from statelesskit.runbook.parameters import CONFIRM, check

CONTINUED = ("failed", "timed-out", "kernel-died", "cancelled", "lost")


def resumed(site: Site, wanted: str, name: str, given: Mapping[str, str]) -> tuple[Runbook, dict[str, Any], str]:
    """Return what to run to continue the record ``wanted``: the runbook, its parameters, and the record's name.

    Args:
        name: the runbook, if it is not where it was.
        given: only ``confirm`` may be among them; what is left to do may be another plan.

    Raises:
        NotFoundError: no such record, or its runbook is gone.
        RefusedError: there is nothing to continue.
        ConflictError: the runbook is another one now, or what the run applied was changed since.
    """
    path = find_record(site.records, wanted)
    state = state_of(path)
    if state not in CONTINUED:
        raise RefusedError(
            f"{path.name} is {state}; only a run that is {', '.join(CONTINUED)} can be continued",
            hint=f"follow it: statelesskit audit show {path.name}" if state == "running" else "run its runbook anew",
        )
    told, _ = events.read(path / EVENTS)
    begin = told[0].facts
    if "runbook_digest" not in begin:
        raise RefusedError(f"{path.name} is no run of a runbook", hint=f"do it again: statelesskit {begin.get('what')}")
    if wrong := sorted(set(given) - {CONFIRM}):
        raise ParameterError(
            f"a continued run keeps its parameters; {', '.join(wrong)} can't be given",
            hint="run the runbook anew for others",
        )
    runbook = find_runbook(name or str(begin.get("runbook_path") or begin["runbook"]))
    if runbook.digest != begin["runbook_digest"]:
        raise ConflictError(
            f"{runbook.path} is not the runbook that {path.name} ran: it is {runbook.digest}, expected "
            f"{begin['runbook_digest']}",
            hint="name the file that it was, or run this one anew",
        )
    parameters = {**begin["parameters"], **given}
    action = check(runbook.notebook, runbook.action, parameters)
    if any(event.kind == "applied" for event in told):
        plan = service.plan(site, action)
        if plan.changes:
            raise ConflictError(
                f"{path.name} had applied it, and it was changed since; to do it again would be: {plan.summary}",
                hint="run the runbook anew if that is what you want",
            )
    return runbook, parameters, path.name
