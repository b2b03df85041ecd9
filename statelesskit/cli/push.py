"""``statelesskit push``."""

from __future__ import annotations

import click

from statelesskit.actions.push_snapshot import PushSnapshot, RollBackPush
from statelesskit.cli.acting import action_command, plan_command


@click.group()
def push() -> None:
    """Move a channel to another snapshot."""


push.add_command(plan_command(PushSnapshot, "plan", "Say who would change from what to what, and why."))
push.add_command(
    action_command(PushSnapshot, text="Move CHANNEL to SNAPSHOT; with --plan-digest only if that is still the plan.")
)
push.add_command(action_command(RollBackPush, text="Move CHANNEL back to the snapshot it pointed at before."))
