"""What differs between two trees, in each of the ways a person can ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from statelesskit.config import Site

if TYPE_CHECKING:
    from statelesskit.contents import Contents
    from statelesskit.manifest import Change
    from statelesskit.snapshot import Snapshot


def question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose the way."""
    for option in (
        click.option("--text", metavar="PATH", help="Compare the content of one file, line by line."),
        click.option("--risk", is_flag=True, help="Rank what gains rights, listens, boots or lets people in."),
        click.option("--packages", is_flag=True, help="Compare the installed packages instead of the files."),
    ):
        command = option(command)
    return command


def show_pending(
    site: Site, prototype: str, snapshot: Snapshot, *, reread: bool = False, as_json: bool, **question: Any
) -> None:
    """Show how a prototype as it is now differs from a snapshot."""
    from statelesskit.cli import output
    from statelesskit.contents import Contents
    from statelesskit.manifest import diff
    from statelesskit.prototype import load
    from statelesskit.prototype.pending import look_at
    from statelesskit.prototype.prepare import load_rules
    from statelesskit.snapshot import load_manifest
    from statelesskit.store import Store

    store = Store(site.store)
    before = Contents(load_manifest(site, snapshot), store)
    with output.progress() as progress:
        now, findings = look_at(
            load(site, prototype).tree,
            before,
            store,
            reread=reread,
            rules=load_rules(site, prototype),
            progress=progress,
        )
    names = (snapshot.name, prototype)
    _show(names, lambda: diff(before.manifest, now.manifest), lambda: (before, now), as_json=as_json, **question)
    for finding in findings:
        output.note(f"finding: {finding.as_json()['path'] or '.'}: {finding.finding}")


def show_between(site: Site, before: Snapshot, after: Snapshot, *, as_json: bool, **question: Any) -> None:
    """Show how two snapshots differ."""
    from statelesskit.contents import Contents
    from statelesskit.snapshot import changes_between, load_manifest
    from statelesskit.store import Store

    def trees() -> tuple[Contents, Contents]:
        store = Store(site.store)
        return Contents(load_manifest(site, before), store), Contents(load_manifest(site, after), store)

    names = (before.name, after.name)
    _show(names, lambda: changes_between(site, before, after), trees, as_json=as_json, **question)


def _show(
    names: tuple[str, str],
    changes: Callable[[], list[Change]],
    trees: Callable[[], tuple[Contents, Contents]],
    *,
    packages: bool,
    risk: bool,
    text: str | None,
    as_json: bool,
) -> None:
    """Show what differs, in the one way asked for; only that is loaded."""
    from statelesskit.cli import output

    if packages + risk + (text is not None) > 1:
        raise click.UsageError("--packages, --risk and --text are different questions; ask one")
    if text is not None:
        _show_text(*trees(), names, text, as_json=as_json)
        return
    rows: Iterable[Mapping[str, Any]] = (
        _packages(*trees()) if packages else _risks(*trees()) if risk else (change.as_json() for change in changes())
    )
    if as_json:
        for row in rows:
            output.json_line(row)
        return
    shown = [{name: " ".join(v) if isinstance(v, list) else v for name, v in row.items()} for row in rows]
    output.table(shown, empty="nothing to look at" if risk else "they do not differ")


def _risks(before: Contents, after: Contents) -> list[Mapping[str, Any]]:
    from statelesskit.risk import risks

    return [found.as_json() for found in risks(before, after)]


def _packages(before: Contents, after: Contents) -> list[Mapping[str, Any]]:
    from statelesskit.cli import output
    from statelesskit.packages import package_changes, read_installed

    old, new = read_installed(before), read_installed(after)
    for finding in dict.fromkeys((*old.findings, *new.findings)):
        output.note(f"finding: {finding.as_json()['path'] or '.'}: {finding.finding}")
    return [change.as_json() for change in package_changes(old.packages, new.packages)]


def _show_text(before: Contents, after: Contents, names: tuple[str, str], text: str, *, as_json: bool) -> None:
    from statelesskit.cli import output
    from statelesskit.text_diff import text_diff

    found = text_diff(before, after, os.fsencode(text.strip("/")), names)
    if as_json:
        output.json_line(found.as_json())
    elif found.binary:
        click.echo("they differ, and at least one is no text")
    else:
        click.echo("\n".join(found.lines) if found.lines else "its content does not differ")
