"""Commands made from actions: their arguments, options and help are the action's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from statelesskit.action import Action, Parameter, Plan
from statelesskit.config import Site, load_site, site_root

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


def site_of(ctx: click.Context) -> Site:
    """Return the site the command line names."""
    site = load_site(site_root(ctx.find_root().obj))
    if site.service.enabled:
        from statelesskit.service import see_running

        see_running(site)
    return site


def action_command(
    kind: type[Action], *, show: Callable[[Mapping[str, Any]], None] | None = None, text: str = ""
) -> click.Command:
    """Return the command that performs an action at once, shows its plan, or does just a plan that was read.

    Args:
        show: prints the result for a person; without it the facts are printed one a line.
    """

    def callback(as_json: bool, plan_only: bool, plan_digest: str, **values: Any) -> None:
        from statelesskit import service
        from statelesskit.cli import output

        ctx = click.get_current_context()
        site, action = site_of(ctx), kind.check(values)
        if plan_only:
            with output.progress():
                plan = service.plan(site, action)
            show_plan(plan, as_json=as_json)
            return
        with output.progress() as progress:
            outcome = service.perform(site, action, plan_digest or service.AT_ONCE, progress=progress)
        result = {**outcome.result, "record": outcome.record}
        if as_json:
            output.json_line(result)
        else:
            output.note(outcome.plan.summary)
            (show or output.facts)(result)

    return click.Command(
        kind.verb.split()[-1],
        callback=callback,
        params=[*map(_click_parameter, kind.parameters()), *_common()],
        help=text or (kind.__doc__ or ""),
    )


def plan_command(kind: type[Action], name: str, text: str) -> click.Command:
    """Return the read-only command that shows an action's plan."""

    def callback(as_json: bool, **values: Any) -> None:
        from statelesskit import service
        from statelesskit.cli import output

        site = site_of(click.get_current_context())
        with output.progress():
            plan = service.plan(site, kind.check(values))
        show_plan(plan, as_json=as_json)

    json_option = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, one object a line.")
    params: list[click.Parameter] = [*map(_click_parameter, kind.parameters()), json_option]
    return click.Command(name, callback=callback, params=params, help=text)


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan: what would change, and the digest that confirms just this."""
    from statelesskit.cli import output

    if as_json:
        facts = {key: value for key, value in plan.facts.items() if key != "clients"}
        clients = [dict(row) for row in plan.rows] if "clients" in plan.facts else None
        shown = {**facts, "summary": plan.summary, "changes": plan.changes, "plan_digest": plan.digest}
        output.json_line(shown if clients is None else {**shown, "clients": clients})
        return
    click.echo(plan.summary)
    if plan.rows:
        output.table(plan.rows)
    for note in (*plan.notes, *([f"not on its own: {plan.guard}"] if plan.guard else [])):
        click.echo(f"- {note}")
    click.echo(f"plan digest: {plan.digest}")


def _click_parameter(item: Parameter) -> click.Parameter:
    if item.positional:
        several: dict[str, Any] = (
            {"nargs": -1, "callback": lambda ctx, _, words: " ".join(words)} if item.several else {}
        )
        return click.Argument([item.name], required=item.required, type=item.kind, default=None, **several)
    flag = item.flag or "--" + item.name.replace("_", "-")
    if item.kind is bool:
        return click.Option([flag, item.name], is_flag=True, default=bool(item.default), help=_sentence(item))
    return click.Option(
        [flag, item.name], required=item.required, type=item.kind, help=_sentence(item), **_default(item)
    )


def _default(item: Parameter) -> dict[str, Any]:
    return {} if item.required else {"default": item.default}


def _sentence(item: Parameter) -> str:
    return item.help[:1].upper() + item.help[1:] + "."


def _common() -> list[click.Parameter]:
    return [
        click.Option(["--plan", "plan_only"], is_flag=True, help="Only say what it would do."),
        click.Option(["--plan-digest"], default="", metavar="DIGEST", help="Do it only if this is still the plan."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, one object a line."),
    ]
