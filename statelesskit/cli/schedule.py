"""``statelesskit schedule``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from statelesskit.cli.acting import JSON, action_command, site_of
from statelesskit.config import Site
from statelesskit.schedule.actions import RemoveSchedule, ScheduleRun
from statelesskit.schedule.units import unit_name


def schedule_run(
    site: Site,
    words: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    plan_only: bool,
    as_json: bool,
    cron: bool,
    units: str,
    **options: Any,
) -> None:
    """Do what ``run --schedule`` says.

    Args:
        words: parameters of :class:`ScheduleRun`, and so are ``options``.
    """
    from statelesskit import service
    from statelesskit.cli import output
    from statelesskit.cli.acting import show_plan
    from statelesskit.schedule.units import FOLDER, cron_line

    folder = "" if cron else units or str(FOLDER)
    given = {**words, **options, "units": folder, "given": json.dumps(parameters, sort_keys=True)}
    action = ScheduleRun.check(given)
    line = cron_line(site, action.made()) if cron else ""  # before anything is done that cron can't say
    if plan_only:
        show_plan(service.plan(site, action), as_json=as_json)
        return
    outcome = service.perform(site, action, service.AT_ONCE)
    result = {**outcome.result, "record": outcome.record, "cron": line}
    if as_json:
        output.json_line(result)
        return
    output.note(outcome.plan.summary)
    for note in outcome.plan.notes:
        output.note(note)
    if cron:
        click.echo(line)
    elif not outcome.result.get("timer_begun") and outcome.plan.changes:
        output.note(f"begin it: systemctl enable --now {Path(folder) / unit_name(action.made().name)}.timer")


@click.group()
def schedule() -> None:
    """Runbooks that begin by themselves; `statelesskit run RUNBOOK --schedule CALENDAR` makes one."""


@schedule.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the schedules."""
    from statelesskit.cli import output
    from statelesskit.schedule.entry import list_schedules

    found = [asdict(one) for one in list_schedules(site_of(ctx))]
    if as_json:
        for row in found:
            output.json_line(row)
        return
    shown = ("name", "calendar", "runbook", "on_failure")
    output.table(({name: row[name] for name in shown} for row in found), empty="nothing is scheduled")


@schedule.command()
@click.argument("name")
@click.pass_context
def run(ctx: click.Context, name: str) -> int:
    """Run what is scheduled as NAME now; this is what systemd and cron call."""
    from statelesskit.cli import output
    from statelesskit.schedule.running import run_scheduled

    site = site_of(ctx)
    ended = run_scheduled(site, name)
    click.echo(f"{name}: {ended.state}; record {site.records / ended.record}")
    if ended.error:
        output.note(ended.error)
    return ended.exit_code


@schedule.command()
@click.argument("name")
@click.pass_context
def failed(ctx: click.Context, name: str) -> None:
    """Tell whom the schedule NAME names that its last run failed; systemd and cron call this."""
    from statelesskit.schedule.running import tell_failure

    click.echo(tell_failure(site_of(ctx), name))


schedule.add_command(action_command(RemoveSchedule))
