"""``statelesskit push``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from statelesskit.actions.push_snapshot import PushSnapshot, RollBackPush
from statelesskit.cli.acting import JSON, action_command, plan_command, site_of


@click.group()
def push() -> None:
    """Move a channel to another snapshot."""


push.add_command(plan_command(PushSnapshot, "plan", "Say who would change from what to what, and why."))


def _show_pushed(result: Mapping[str, Any]) -> None:
    from statelesskit.cli import output

    output.facts({name: value for name, value in result.items() if name not in ("before", "after")})


push.add_command(
    action_command(
        PushSnapshot,
        show=_show_pushed,
        text="Move CHANNEL to SNAPSHOT; with --plan-digest only if that is still the plan.",
    )
)
push.add_command(
    action_command(RollBackPush, show=_show_pushed, text="Move CHANNEL back to the snapshot it pointed at before.")
)


@push.command()
@click.argument("channel")
@JSON
@click.pass_context
def status(ctx: click.Context, channel: str, as_json: bool) -> None:
    """List what CHANNEL pointed at, the last push first: who, when, from what to what, by which record."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.push_history import history_rows

    with open_directory(site_of(ctx), or_replica=True) as directory:
        rows = history_rows(directory, channel)
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty=f"nobody has pushed to {channel} since its history is kept")
