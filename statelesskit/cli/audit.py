"""``statelesskit audit``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from statelesskit.cli.acting import JSON, site_of
from statelesskit.config import site_root


@click.group()
def audit() -> None:
    """Records of what was done: list, read, and prove that nothing was altered."""


@audit.command("list")
@JSON
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the records, the oldest first."""
    from statelesskit.audit.listing import list_records
    from statelesskit.cli import output

    found = list_records(site_of(ctx).records)
    if as_json:
        for one in found:
            times = {"began_at": one.began_at, "ended_at": one.ended_at}
            output.json_line(asdict(one) | {name: at.isoformat() if at else None for name, at in times.items()})
        return
    output.table(
        (
            {
                "record": one.name,
                "user": one.user,
                "state": one.state,
                "began at": f"{one.began_at:%Y-%m-%d %H:%M:%S}" if one.began_at else "",
                "what it changed": one.changes,
            }
            for one in found
        ),
        empty="there are no records yet",
    )


@audit.command()
@click.argument("record")
@JSON
@click.pass_context
def show(ctx: click.Context, record: str, as_json: bool) -> None:
    """Show one RECORD (its name, its id, or its folder), event by event."""
    from statelesskit.audit.listing import find_record
    from statelesskit.audit.show import describe
    from statelesskit.cli import output
    from statelesskit.errors import NotFoundError

    path = Path(record) if "/" in record else find_record(site_of(ctx).records, record)
    view = describe(path)
    if view.summary.state == "unreadable":
        raise NotFoundError(f"{path} is no record", hint="`statelesskit audit list` shows all")
    rows = [{**asdict(row), "at": row.at.isoformat(timespec="milliseconds")} for row in view.events]
    if as_json:
        for row in rows:
            output.json_line(row)
        return
    output.facts({"record": view.summary.name, "state": view.summary.state, "folder": str(path)})
    output.table(rows)
    for finding in view.faults:
        output.note(f"finding: {finding}")


@audit.command()
@click.argument("records", nargs=-1)
@click.option("--key", type=click.Path(path_type=Path), help="The public key (else the site's own record.pub).")
@click.option("--fingerprint", help="The key's fingerprint as you know it from elsewhere; another key is refused.")
@JSON
@click.pass_context
def verify(
    ctx: click.Context, records: tuple[str, ...], key: Path | None, fingerprint: str | None, as_json: bool
) -> int:
    """Verify RECORDS (names or folders), or all of the site's; ends with 1 when anything was found.

    With folders and --key no site is needed.
    """
    from statelesskit.audit import keys
    from statelesskit.audit.listing import find_record, record_folders, state_of
    from statelesskit.audit.verify import verify_record
    from statelesskit.cli import output
    from statelesskit.errors import AuditError, NotFoundError

    root = site_root(ctx.find_root().obj)
    key = key or root / "keys" / keys.PUBLIC
    if not key.exists():
        raise NotFoundError(f"there is no public key at {key}", hint="give the site's record.pub with --key")
    public = key.read_text("ascii", "replace")
    if fingerprint and keys.fingerprint(public) != fingerprint:
        raise AuditError(
            f"the key {key} has the fingerprint {keys.fingerprint(public)}, expected {fingerprint}",
            hint="somebody replaced the key: trust none of the records it seals",
        )
    paths = [Path(one) if "/" in one else find_record(root / "records", one) for one in records]
    if not records:
        # One that is being written right now has no seal yet, and that is no fault of it.
        paths = [path for path in record_folders(site_of(ctx).records) if state_of(path) != "running"]
    found = [finding for path in paths for finding in verify_record(path, public)]
    if as_json:
        for finding in found:
            output.json_line(asdict(finding))
    else:
        output.table((asdict(finding) for finding in found), empty=f"{len(paths)} records, nothing altered")
    return int(bool(found))
