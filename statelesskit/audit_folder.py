"""A folder an auditor takes away: the records with their log, pages to read them, and a script that verifies them.

Nothing in it needs the site, the network, or this tool; ``verify.sh`` needs OpenSSH and coreutils.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from statelesskit import fs
from statelesskit.audit import handover
from statelesskit.audit.files import open_regular
from statelesskit.audit.keys import PUBLIC
from statelesskit.audit.listing import is_at_work, record_folders
from statelesskit.audit.log import CHECKPOINT, ENTRIES, LOG, SIGNATURE, read
from statelesskit.audit.query import csv_text, query
from statelesskit.audit.show import describe
from statelesskit.config import Site
from statelesskit.errors import AuditError, ExistsError
from statelesskit.page import render_list, render_record
from statelesskit.progress import SILENT, Progress

CSV = "records.csv"


def export_records(site: Site, target: Path, progress: Progress = SILENT) -> int:
    """Write the folder, and return how many records are in it; nothing is there after a failure.

    Records are copied as they are, altered ones too: finding those is the auditor's part. A run that
    still goes on has no record yet.

    Raises:
        ExistsError: there is something at ``target``.
        NoSpaceError: it does not fit.
    """
    with fs.disk_full_named(target):
        try:
            with fs.new_folder(target) as top:
                records = _copied(site, top / "records", progress)
                rows = query(records)
                shutil.copyfile(site.keys / PUBLIC, top / PUBLIC)
                (top / "pages").mkdir()
                shown = [{name: _shown(value) for name, value in row.items()} for row in rows]
                for row in shown:
                    (top / "pages" / f"{row['record']}.html").write_text(_page(records, row), "utf-8")
                index = render_list(f"Records of {site.name}", shown, "record", ("who", "what", "outcome"))
                (top / "index.html").write_text(index, "utf-8")
                (top / CSV).write_text(csv_text(rows), "utf-8")
                script = files("statelesskit.audit").joinpath("verify.sh").read_text("utf-8")
                (top / "verify.sh").write_text(script, "utf-8")
                fs.sync_filesystem(top)
        except FileExistsError:
            raise ExistsError(f"there is already something at {target}", hint="choose a new folder") from None
    return len(rows)


def _page(records: Path, row: dict[str, str]) -> str:
    view = describe(records / row["record"])
    events = [{"seq": one.seq, "at": f"{one.at:%H:%M:%S}", "event": one.event, "what": one.text} for one in view.events]
    facts = row | ({"note": "; ".join(view.faults)} if view.faults else {})
    return render_record(row["record"], facts, events, row["record"])


def _copied(site: Site, target: Path, progress: Progress) -> Path:
    """Copy the log, the records it names, and those it should name."""
    (target / LOG).mkdir(parents=True)
    ended = [path for path in record_folders(site.records) if not is_at_work(path)]
    log = read(site.records / LOG, (site.keys / PUBLIC).read_text("ascii", "replace"))
    for name in (CHECKPOINT, SIGNATURE, ENTRIES):
        _copy(site.records / LOG / name, target / LOG / name)
    for number in range(1, len(log.keys.handovers) + 1):
        handover.place(target / LOG, number).mkdir()
        for name in (handover.TEXT, handover.OLD, handover.NEW):
            _copy(handover.place(site.records / LOG, number) / name, handover.place(target / LOG, number) / name)
    # What ended since it was looked at may be in the log by now, or not yet.
    named = {site.records / entry.record for entry in log.entries}
    folders = sorted({*ended, *(path for path in named if path.is_dir())})
    progress.stage("copying records", total=len(folders), unit="records")
    for folder in folders:
        (target / folder.name).mkdir()
        for child in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []:
            _copy(child, target / folder.name / child.name)
        progress.advance()
    return target


def _copy(source: Path, target: Path) -> None:
    """Copy a file; in the place of something else a note stands, that is found as what it is: not of the record."""
    try:
        with open_regular(source) as file, target.open("xb") as copy:
            shutil.copyfileobj(file, copy)
    except AuditError as error:
        target.with_name(f"{target.name}.not-copied").write_text(error.message, "utf-8")


def _shown(value: object) -> str:
    return "" if value is None else str(value)
