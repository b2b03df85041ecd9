"""``statelesskit site``."""

from __future__ import annotations

import click

from statelesskit.cli.acting import JSON, site_of
from statelesskit.config import site_root


@click.group()
def site() -> None:
    """Make, start, stop and check a site."""


@site.command()
@click.option("--plan", is_flag=True, help="Only say what would be made.")
@click.option("--name", default="", help="What to call the site (else this host's name).")
@click.option("--port", type=click.IntRange(1, 65535), default=6360, help="Loopback port of the LDAP server.")
@click.option("--base-dn", default="ou=stateless", help="The part of the LDAP tree that is ours.")
@click.pass_context
def init(ctx: click.Context, plan: bool, name: str, port: int, base_dn: str) -> None:
    """Make a site, or complete one; what is there is kept."""
    from statelesskit.cli import output
    from statelesskit.site import init_site, plan_site

    root = site_root(ctx.find_root().obj)
    if plan:
        output.table(plan_site(root, port))
        return
    made, fingerprint = init_site(root, name=name, port=port, base_dn=base_dn)
    click.echo(f"site {made.name} at {made.root}")
    click.echo(f"records are sealed with the key {fingerprint}")
    click.echo("Write that down somewhere else: it is how an auditor knows the records are this site's.")
    click.echo(f"next: statelesskit --site {made.root} site start")


@site.command()
@click.pass_context
def start(ctx: click.Context) -> None:
    """Start the private LDAP server."""
    from statelesskit.site import start_site

    added = start_site(site_of(ctx))
    click.echo("the directory is running" + (f"; entered {', '.join(added)}" if added else ""))


@site.command()
@click.pass_context
def stop(ctx: click.Context) -> None:
    """Stop the private LDAP server."""
    from statelesskit.site import stop_site

    stop_site(site_of(ctx))
    click.echo("the directory is stopped")


@site.command()
@JSON
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Say what is in the site and what runs."""
    from statelesskit.cli import output
    from statelesskit.site import site_status

    found = site_status(site_of(ctx))
    (output.json_line if as_json else output.facts)(found)


@site.command()
@JSON
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check all a site needs; ends with 1 when something is wrong."""
    from dataclasses import asdict

    from statelesskit.cli import output
    from statelesskit.doctor import examine

    found = list(examine(site_of(ctx)))
    if as_json:
        for diagnosis in found:
            output.json_line(asdict(diagnosis))
    else:
        output.table({**asdict(d), "fix": d.fix if d.state != "ok" else ""} for d in found)
    return int(any(diagnosis.state == "wrong" for diagnosis in found))
