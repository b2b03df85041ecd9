"""``statelesskit audit``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from statelesskit.actions.prune_records import PruneRecords
from statelesskit.actions.publish_checkpoint import PublishCheckpoint
from statelesskit.cli.acting import JSON, action_command, site_of
from statelesskit.config import site_root

if TYPE_CHECKING:
    from statelesskit.audit.checkpoint import Checkpoint
    from statelesskit.audit.handover import Keys


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
@click.option("--key", metavar="FILE|SHA256:…", help="The public key, or the fingerprint it must have.")
@click.option("--fingerprint", help="The key's fingerprint as you know it from elsewhere; another key is refused.")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint of the log that you kept or got from elsewhere; the log must have grown from it.",
)
@click.option("--from-directory", is_flag=True, help="Hold the log against the checkpoint in the directory too.")
@click.option(
    "--expected",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='The runs that were scheduled, one a line: {"at", "what", "within_s"}. Those without a record are named.',
)
@JSON
@click.pass_context
def verify(
    ctx: click.Context,
    records: tuple[str, ...],
    key: str | None,
    fingerprint: str | None,
    checkpoints: tuple[Path, ...],
    from_directory: bool,
    expected: Path | None,
    as_json: bool,
) -> int:
    """Verify RECORDS (names or folders), or all of the site's with their log; ends with 1 when anything was found.

    A folder may also hold all records and their log, as `audit export` writes them. With folders and a
    key's file, or a folder that was exported, no site is needed.

    Also named are runs that were scheduled and did not begin in time, and those of a runbook that nobody approved.
    """
    from statelesskit.audit.completeness import missing_runs, read_expected
    from statelesskit.audit.handover import read_keys
    from statelesskit.audit.listing import find_record, record_folders, summary_of
    from statelesskit.audit.log import CHECKPOINT, LOG
    from statelesskit.audit.pruning import pruned_records
    from statelesskit.audit.schedules import schedule_findings
    from statelesskit.audit.verify import Finding, verify_record, verify_records
    from statelesskit.cli import output
    from statelesskit.names import printable

    root = site_root(ctx.find_root().obj)
    whole = [Path(one) for one in records if "/" in one and (Path(one) / LOG / CHECKPOINT).is_file()]
    public = _public(root, key, fingerprint, whole)
    single = [
        Path(one) if "/" in one else find_record(root / "records", one) for one in records if Path(one) not in whole
    ]
    whole = whole or ([] if records else [site_of(ctx).records])
    sealers = read_keys((whole[0] if whole else root / "records") / LOG, public)
    seen = [_seen(path, sealers) for path in checkpoints]
    if from_directory:
        from statelesskit.directory import open_directory
        from statelesskit.witness import published_checkpoint

        with open_directory(site_of(ctx)) as directory:
            seen += filter(None, [published_checkpoint(site_of(ctx), directory)])
    found = [finding for folder in whole for finding in verify_records(folder, public, seen)]
    for path in single:
        pruned = {entry.record: entry.sha256 for entry in pruned_records(path.absolute().parent, public)}
        found += verify_record(path, public, pruned.get(path.name, ""))
    paths = [*single, *(path for folder in whole for path in record_folders(folder))]
    summaries = {path: summary_of(path) for path in paths}
    if expected:
        runs = missing_runs(read_expected(expected.read_bytes()), summaries.values())
        text = "a run of {} was scheduled for {:%Y-%m-%d %H:%M:%S} UTC, and has no record"
        found += [Finding("", "", text.format(printable(one.what), one.at.astimezone(UTC))) for one in runs]
    for folder in whole:
        there = [one for path, one in summaries.items() if path.parent == folder]
        # Of records that were taken away nobody knows what should have begun after the last of them.
        last = max((one.ended_at or one.began_at for one in there if one.began_at), default=None)
        now = datetime.now(UTC) if not records else last
        if now:
            found += [Finding(name, "", text) for name, text in schedule_findings(folder, public, there, now)]
    if as_json:
        for finding in found:
            output.json_line(asdict(finding))
    else:
        output.table((asdict(finding) for finding in found), empty=f"{len(paths)} records, nothing altered")
        if pruned_count := sum(one.pruned for one in summaries.values()):
            output.note(f"of {pruned_count} records only the statements are left: they were pruned")
    return int(bool(found))


def _seen(path: Path, sealers: Keys) -> Checkpoint:
    from statelesskit.errors import AuditError

    try:
        return sealers.checkpoint(path.read_bytes())
    except AuditError as error:
        raise AuditError(f"{path} {error.message}", hint="give one as it was written, signed with this key") from None


def _public(root: Path, key: str | None, fingerprint: str | None, exported: list[Path]) -> str:
    """Return the key that was given, or the site's or the export's own: the one with the fingerprint that was given.

    That may be a former one; the keys after it follow from the hand-overs in the log.
    """
    from statelesskit.audit import keys
    from statelesskit.audit.handover import claimed
    from statelesskit.audit.log import LOG
    from statelesskit.errors import AuditError, NotFoundError

    if key and key.startswith("SHA256:"):
        key, fingerprint = None, key
    beside = [folder.absolute().parent / keys.PUBLIC for folder in exported]
    path = Path(key) if key else next((one for one in beside if one.exists()), root / "keys" / keys.PUBLIC)
    if not path.exists():
        raise NotFoundError(f"there is no public key at {path}", hint="give the site's record.pub with --key")
    public = path.read_text("ascii", "replace")
    if fingerprint and keys.fingerprint(public) != fingerprint:
        logs = [folder / LOG for folder in exported or ([] if key else [root / "records"])]
        for one in (one.old for log in logs for one in claimed(log)):
            if keys.fingerprint(one) == fingerprint:
                return one
        raise AuditError(
            f"the key {path} has the fingerprint {keys.fingerprint(public)}, expected {fingerprint}",
            hint="somebody replaced the key: trust none of the records it seals",
        )
    return public


@audit.command()
@click.option("--who", help="Only what this user did.")
@click.option("--what", help="Only this verb or runbook.")
@click.option("--object", "on", help="Only what was done to this channel, client, snapshot, ….")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="Only what began on this day (UTC) or later.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV for a spreadsheet.")
@JSON
@click.pass_context
def query(
    ctx: click.Context,
    who: str | None,
    what: str | None,
    on: str | None,
    since: datetime | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Say who did what, when, to which object, from what to what, how it ended and how long it took."""
    from statelesskit.audit import query as asked
    from statelesskit.cli import output

    wanted = {name: value for name, value in (("who", who), ("what", what), ("object", on)) if value}
    rows = [row for row in asked.query(site_of(ctx).records) if wanted.items() <= row.items()]
    if since:
        rows = [row for row in rows if row["began_at"] and row["began_at"] >= since.replace(tzinfo=UTC)]
    if as_csv:
        click.echo(asked.csv_text(rows), nl=False)
        return
    times = ("began_at", "ended_at")
    told = [row | {name: row[name].isoformat() if row[name] else None for name in times} for row in rows]
    if as_json:
        for row in told:
            output.json_line(row)
        return
    columns = ("record", "who", "began_at", "what", "object", "from", "to", "outcome", "duration_s")
    output.table(({name: row[name] for name in columns} for row in told), empty="there are no such records")


@audit.command()
@click.argument("before")
@click.argument("after")
@JSON
@click.pass_context
def diff(ctx: click.Context, before: str, after: str, as_json: bool) -> None:
    """Say what differs between two runs, BEFORE and AFTER, of one runbook or verb."""
    from statelesskit.audit.differences import differences
    from statelesskit.audit.listing import find_record
    from statelesskit.cli import output

    paths = [Path(one) if "/" in one else find_record(site_of(ctx).records, one) for one in (before, after)]
    rows = [asdict(one) for one in differences(*paths)]
    if as_json:
        for row in rows:
            output.json_line(row)
        return
    output.table(rows, empty="nothing differs")


@audit.command()
@click.argument("folder", type=click.Path(path_type=Path))
@JSON
@click.pass_context
def export(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Write all records into a new FOLDER for an auditor: pages to read, and a script that verifies them anywhere."""
    from statelesskit.audit_folder import export_records
    from statelesskit.cli import output

    with output.progress() as progress:
        count = export_records(site_of(ctx), folder.absolute(), progress)
    if as_json:
        output.json_line({"folder": str(folder), "records": count})
        return
    click.echo(f"{count} records in {folder}; read index.html, verify with: sh {folder}/verify.sh SHA256:…")


audit.add_command(action_command(PruneRecords))
audit.add_command(action_command(PublishCheckpoint))
