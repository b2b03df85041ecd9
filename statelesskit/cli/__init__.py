"""The command line: noun, verb, options. Thin: it parses, calls the library, prints.

Nouns are loaded when they are used, so that ``--help`` stays fast.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any, NoReturn

import click

from statelesskit import __version__, scrub
from statelesskit.errors import (
    CancelledError,
    EnvironmentLacksError,
    NoSpaceError,
    PermissionNeededError,
    StatelessError,
)
from statelesskit.fs import NO_SPACE

NOUNS = {  # the noun: its module here, and its line in the overview
    "site": ("site", "make, start, stop and check a site"),
    "prototype": ("prototype", "editable root trees"),
    "snapshot": ("snapshot", "immutable points in time of a prototype"),
    "export": ("export", "write a snapshot out in a form a machine can use"),
    "channel": ("channel", "named pointers to the snapshot that clients run"),
    "client": ("client", "machines, and what each is told to run"),
    "group": ("group", "clients that follow a channel together"),
    "push": ("push", "move a channel to another snapshot"),
    "publish": ("publish", "what machines boot, as static files for any web server"),
    "directory": ("directory", "the truth about the fleet, as it is and as it was, and whether it is sound"),
    "run": ("runbook", "run a runbook with nobody there"),
    "runs": ("runs", "runs that are under way: list, follow, cancel"),
    "runbook": ("runbook", "the notebooks that come with this tool"),
    "schedule": ("schedule", "runs that begin by themselves: list, remove"),
    "audit": ("audit", "records of what was done"),
    "key": ("key", "the keys that seal the records: list, rotate"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NOUNS:
            return None
        module = importlib.import_module(f"statelesskit.cli.{NOUNS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(noun, text) for noun, (_, text) in NOUNS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="statelesskit")
@click.option("--site", metavar="DIR", help="The site (else $STATELESSKIT_SITE, else /srv/stateless).")
@click.pass_context
def cli(ctx: click.Context, site: str | None) -> None:
    """Run fleets of stateless Linux machines.

    Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 locked or changed meanwhile, 5 timed out, 6 kernel
    died, 7 something is missing on this machine, 8 no space, 9 damaged data, 143 cancelled.
    """
    from statelesskit.cli import output

    ctx.obj = site
    ctx.with_resource(output.progress())  # for what waits in a command that shows none of its own


def main() -> NoReturn:
    """Run the command line and exit with the code the outcome stands for."""
    try:
        code: Any = cli.main(standalone_mode=False)
        # A command may return its exit code; anything else it returns is not one.
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StatelessError as error:
        _fail(error)
    except (click.Abort, KeyboardInterrupt):
        _fail(CancelledError("stopped"))
    except PermissionError as error:
        _fail(PermissionNeededError(f"{error.filename}: {error.strerror}", hint="run it as the site's user (sudo)"))
    except OSError as error:
        if error.errno == errno.EROFS:
            _fail(EnvironmentLacksError(f"{error.filename}: {error.strerror}", hint="mount it writable again"))
        if error.errno not in NO_SPACE:
            _fail(StatelessError(f"{error.filename or 'the system'}: {error.strerror}"))
        where = error.filename or "the disk that was written to"
        _fail(NoSpaceError(f"{where}: {error.strerror}", hint="free some space there and run the same command again"))


def _fail(error: StatelessError) -> NoReturn:
    click.echo(f"error: {scrub.text(error.message)}", err=True)
    if error.hint:
        click.echo(f"hint: {scrub.text(error.hint)}", err=True)
    sys.exit(error.exit_code)
