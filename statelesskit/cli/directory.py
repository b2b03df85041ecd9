"""``statelesskit directory``."""

from __future__ import annotations

import click


@click.group()
def directory() -> None:
    """The LDAP server that holds the truth about the fleet."""


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
