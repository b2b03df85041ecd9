"""``statelesskit site``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from statelesskit.actions.migrate_site import MigrateSite
from statelesskit.actions.restore_site import RestoreSite
from statelesskit.cli.acting import JSON, action_command, site_of
from statelesskit.config import site_root


@click.group()
def site() -> None:
    """Make, start, stop and check a site."""


@site.command()
@click.option("--plan", is_flag=True, help="Only say what would be made.")
@click.option("--name", default="", help="What to call the site (else this host's name).")
@click.option("--port", type=click.IntRange(1, 65535), default=6360, help="Loopback port of the LDAP server.")
@click.option("--base-dn", default="ou=stateless", help="The part of the LDAP tree that is ours.")
@click.option("--ldap", metavar="URI", default="", help="An existing server: ldaps://HOST, or ldap://HOST (StartTLS).")
@click.option("--bind-dn", metavar="DN", default="", help="Who we are there, with --password-file.")
@click.option("--password-file", metavar="FILE", default="", help="A file of mode 600, or a systemd credential.")
@click.option("--certificate", metavar="FILE", default="", help="The certificate that says who we are instead.")
@click.option("--key", metavar="FILE", default="", help="Its key.")
@click.option("--ca", metavar="FILE", default="", help="The CA of the server's certificate (else the system's).")
@click.option("--people", metavar="WHERE", default="", help="Where machines find people, for what is said about it.")
@click.pass_context
def init(ctx: click.Context, /, plan: bool, name: str, port: int, base_dn: str, **given: str) -> None:
    """Make a site, or complete one; what is there is kept.

    The LDAP server is a private one, unless --ldap names an existing one: that is looked at first, and
    nothing is written to it.
    """
    from statelesskit.cli import output
    from statelesskit.site import init_site, plan_site, server_rows

    root = site_root(ctx.find_root().obj)
    server = _server_keys(given)
    if plan:
        output.table(plan_site(root, port, server))
        return
    made, fingerprint = init_site(root, name=name, port=port, base_dn=base_dn, server=server)
    if server:
        output.table(server_rows(made))
    click.echo(f"site {made.name} at {made.root}")
    click.echo(f"records are sealed with the key {fingerprint}")
    click.echo("Write that down somewhere else: it is how an auditor knows the records are this site's.")
    click.echo(f"next: statelesskit --site {made.root} site start")


def _server_keys(given: Mapping[str, str]) -> dict[str, str]:
    """Return the keys of site.toml's [directory] that the options stand for."""
    if not given["ldap"]:
        if strange := [name for name, value in given.items() if value and name != "people"]:
            raise click.UsageError(f"--{strange[0].replace('_', '-')} is for an existing server; --ldap names it")
        return {}
    keys = {"uri": given["ldap"], "bind_dn": given["bind_dn"], "people": given["people"]}
    for key, name in (("ca_file", "ca"), ("certificate_file", "certificate"), ("key_file", "key")):
        keys[key] = str(Path(given[name]).absolute()) if given[name] else ""
    secret = given["password_file"]
    # What is no file is the name of a systemd credential.
    keys["password_file"] = str(Path(secret).absolute()) if "/" in secret or Path(secret).is_file() else secret
    return keys


@site.command()
@click.pass_context
def start(ctx: click.Context) -> None:
    """Start the private LDAP server, unless there is another, and enter what it does not know yet."""
    from statelesskit.site import start_site

    added = start_site(site_of(ctx))
    click.echo("the directory is running" + (f"; entered {', '.join(added)}" if added else ""))


@site.command()
@click.pass_context
def stop(ctx: click.Context) -> None:
    """Stop the private LDAP server."""
    from statelesskit.site import stop_site

    where = site_of(ctx)
    stop_site(where)
    away = f"the directory is at {where.server.uri}; nothing of it runs here"
    click.echo("the directory is stopped" if where.server.is_private else away)


@site.command()
@click.option("--listen", metavar="HOST:PORT", default="0.0.0.0:8080", show_default=True, help="Where to listen.")
@click.option(
    "--tls",
    metavar="CERT KEY",
    nargs=2,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Listen with TLS; files in PEM.",
)
@click.pass_context
def serve(ctx: click.Context, listen: str, tls: tuple[Path, Path] | None) -> None:
    """Give out what is published, over HTTP, until stopped; any other web server can do that as well.

    Needs no directory and no privileges. Machines nobody knows that ask to boot are noted for `client discover`.
    Each request is a line on standard error.
    """
    from statelesskit.serve import serve as run

    host, port = _address(listen)
    run(site_of(ctx), host, port, tls)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise click.UsageError(f"--listen is {text!r}, expected HOST:PORT, for example 0.0.0.0:8080 or [::]:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


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


site.add_command(action_command(MigrateSite))


@site.command()
@click.argument("target", type=click.Path(dir_okay=False))
@JSON
@click.pass_context
def backup(ctx: click.Context, target: str, as_json: bool) -> None:
    """Write the directory and its change log into the file TARGET (LDIF, mode 0600)."""
    from pathlib import Path

    from statelesskit.cli import output
    from statelesskit.directory import open_directory
    from statelesskit.directory.backup import make_backup

    site = site_of(ctx)
    with output.progress() as progress, open_directory(site) as directory:
        made = make_backup(site, directory, Path(target).absolute(), progress)
    (output.json_line if as_json else output.facts)(made)


site.add_command(
    action_command(
        RestoreSite,
        text="Put the directory back to what BACKUP says; the server is stopped meanwhile.\n\n"
        "No channel's serial goes down, what is revoked stays so, and pushes and reports made since stay told.",
    )
)
