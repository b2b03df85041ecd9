"""``statelesskit publish``."""

from __future__ import annotations

import click

from statelesskit.actions.refresh_publication import RefreshPublication
from statelesskit.cli.acting import JSON, action_command, site_of
from statelesskit.publish.snippets import SERVERS


@click.group()
def publish() -> None:
    """What machines boot, as static files for any web server."""


publish.add_command(
    action_command(
        RefreshPublication,
        text="Publish what diskless clients are told to run, and SNAPSHOTS; then write the boot scripts.\n\n"
        "From then on every action that changes what clients run keeps the scripts right by itself.",
    )
)


@publish.command()
@click.option("--verify", is_flag=True, help="Also read every published file, and hold it against its digest.")
@JSON
@click.pass_context
def status(ctx: click.Context, verify: bool, as_json: bool) -> int:
    """Say what is published, and which boot scripts are not as the directory says; ends with 1 if there are any."""
    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.publish.artefacts import damaged, published
    from statelesskit.publish.loaders import missing_loaders
    from statelesskit.publish.pointers import all_wanted, differences, present, publishes

    site = site_of(ctx)
    with open_directory(site, or_replica=True) as directory:
        stale = list(differences(site, all_wanted(site, directory), present(site))) if publishes(site) else []
    names = published(site)
    wrong = {name: faults for name in names if (faults := damaged(site, name, read=verify))}
    found = {
        "folder": str(site.publish),
        "publishes": publishes(site),
        "snapshots": names,
        "boot_scripts": len(present(site)),
        "stale": [{"script": one.path, "is": one.what} for one in stale],
        "damaged": wrong,
        "missing_loaders": missing_loaders(site),
    }
    if as_json:
        output.json_line(found)
        return int(bool(stale or wrong))
    lists = {"snapshots": ", ".join(names), "missing_loaders": ", ".join(missing_loaders(site))}
    output.facts({name: value for name, value in {**found, **lists}.items() if name not in ("stale", "damaged")})
    for name, faults in wrong.items():
        output.note(f"damaged: {name}: {'; '.join(faults)}")
    if stale:
        output.table({"script": one.path, "is": one.what} for one in stale)
        output.note("statelesskit publish refresh makes them right")
    return int(bool(stale or wrong))


@publish.command()
@click.argument("server", type=click.Choice(SERVERS))
@click.option("--url", help="What is published, as machines reach it: http://HOST[:PORT] (else site.toml's).")
@click.option("--subnet", default="192.0.2.0/24", show_default=True, help="The network of the machines.")
@click.pass_context
def snippets(ctx: click.Context, server: str, url: str | None, subnet: str) -> None:
    """Print what to put into the configuration of a DHCP SERVER, so that machines boot from here.

    dnsmasq answers beside an existing DHCP server, which stays as it is (proxy DHCP).
    """
    from statelesskit.publish.snippets import snippet

    if not url and not (url := site_of(ctx).publish_url):
        raise click.UsageError("--url is missing, and [publish] url is not set in site.toml")
    click.echo(snippet(server, url, subnet), nl=False)
