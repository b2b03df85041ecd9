"""``statelesskit directory``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from statelesskit.actions.acknowledge_changes import AcknowledgeChanges
from statelesskit.actions.change_account import AddAccount, RemoveAccount
from statelesskit.actions.change_role import GrantRole, RevokeRole
from statelesskit.cli.acting import JSON, action_command, site_of
from statelesskit.cli.checking import check
from statelesskit.cli.history import at, diff
from statelesskit.cli.replica import replica


@click.group()
def directory() -> None:
    """The truth about the fleet: as it is, as it was, and whether it is sound."""


@directory.command()
@click.option(
    "--form",
    type=click.Choice(["openldap", "config", "389ds"]),
    default="openldap",
    help="For slapd.conf, for cn=config (ldapadd), or for 389 Directory Server.",
)
def schema(form: str) -> None:
    """Print the schema that a directory server must load."""
    from statelesskit.directory import schema as forms

    render = {"openldap": forms.openldap_schema, "config": forms.config_ldif, "389ds": forms.ds389_ldif}
    click.echo(render[form](), nl=False)


@directory.command()
@click.option("--base-dn", required=True, help="The part of the LDAP tree that is ours.")
@click.option("--admin", required=True, metavar="DN", help="The account the site uses, as --bind-dn of site init.")
@click.option("--database", default="olcDatabase={1}mdb,cn=config", help="The database's entry in cn=config.")
def settings(base_dn: str, admin: str, database: str) -> None:
    """Print what an existing OpenLDAP should be told: indexes, access rules and overlays, for ldapmodify -c."""
    from statelesskit.directory.settings import settings_ldif

    click.echo(settings_ldif(base_dn, admin, database), nl=False)


@directory.command()
@JSON
@click.pass_context
def server(ctx: click.Context, as_json: bool) -> int:
    """Say what the server is and has, and what it lacks; ends with 1 when something is wrong."""
    from statelesskit.cli import output
    from statelesskit.site import server_rows

    rows = server_rows(site_of(ctx))
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table({**row, "fix": row["fix"] if row["state"] != "ok" else ""} for row in rows)
    return int(any(row["state"] == "wrong" for row in rows))


@directory.group()
def account() -> None:
    """Accounts that programs and other hosts log in with."""


account.add_command(action_command(AddAccount))
account.add_command(action_command(RemoveAccount))
directory.add_command(action_command(GrantRole))
directory.add_command(action_command(RevokeRole))


@directory.command()
@JSON
@click.pass_context
def roles(ctx: click.Context, as_json: bool) -> None:
    """List who has which role, and accounts that have none."""
    from statelesskit.actions import surveys
    from statelesskit.cli import output

    _, rows = surveys.accounts(site_of(ctx))
    if as_json:
        for row in rows:
            output.json_line(row)
    else:
        output.table(rows, empty="nobody but the administrator; statelesskit directory account add makes an account")


directory.add_command(check)
directory.add_command(replica)


def _show_acknowledged(result: Mapping[str, Any]) -> None:
    click.echo(f"record  {result['record']}")


directory.add_command(action_command(AcknowledgeChanges, show=_show_acknowledged))
directory.add_command(at)
directory.add_command(diff)
