"""How things stand, as a heading and rows: what a runbook shows before and after its action."""

from __future__ import annotations

from typing import Any

from statelesskit.config import Site

Survey = tuple[str, list[dict[str, Any]]]


def prototypes(site: Site) -> Survey:
    """The prototypes."""
    from statelesskit.prototype import list_prototypes

    rows = [
        {"prototype": one.name, "source": one.source, "created at": f"{one.created_at:%Y-%m-%d %H:%M} UTC"}
        for one in list_prototypes(site)
    ]
    return "Prototypes", rows


def records(site: Site) -> Survey:
    """How many records there are, by the year they ended in."""
    from collections import Counter

    from statelesskit.audit.listing import list_records

    found = [(one.ended_at.year if one.ended_at else "not ended", one.pruned) for one in list_records(site.records)]
    rows = [{"ended in": year, "pruned": pruned, "records": count} for (year, pruned), count in Counter(found).items()]
    return "Records", rows


def record_keys(site: Site) -> Survey:
    """The keys that seal the records, and which entries of the log each sealed."""
    from statelesskit.audit import keys
    from statelesskit.audit.handover import read_keys
    from statelesskit.audit.log import LOG

    found = read_keys(site.records / LOG, (site.keys / keys.PUBLIC).read_text("ascii", "replace"))
    sizes = [0, *(one.size for one in found.handovers)]
    until = [*(str(one.size) for one in found.handovers), "now"]
    rows = [
        {"key": number, "fingerprint": keys.fingerprint(public), "seals": f"{since + 1} to {to}"}
        for number, (public, since, to) in enumerate(zip(found.publics, sizes, until, strict=True), 1)
    ]
    return "Keys of the records", rows


def snapshots(site: Site) -> Survey:
    """The snapshots, in their order."""
    from statelesskit.snapshot import list_snapshots

    rows = [
        {
            "snapshot": one.name,
            "state": one.state,
            "files": one.files,
            "size": f"{one.bytes / 1e6:.1f} MB",
            "taken at": f"{one.taken_at:%Y-%m-%d %H:%M} UTC",
            "note": one.note,
        }
        for one in list_snapshots(site)
    ]
    return "Snapshots", rows


def channels(site: Site) -> Survey:
    """The channels, and who moved each."""
    from statelesskit.directory import open_directory

    with open_directory(site) as directory:
        found = sorted(directory.channels(), key=lambda one: one.name)
    rows = [
        {"channel": one.name, "snapshot": one.snapshot, "serial": one.serial, "moved by": one.moved_by} for one in found
    ]
    return "Channels", rows


def groups(site: Site) -> Survey:
    """The groups of clients."""
    from statelesskit.directory import open_directory
    from statelesskit.fleet import group_rows

    with open_directory(site) as directory:
        return "Groups", group_rows(directory.groups())


def fleet(site: Site) -> Survey:
    """Every client, and what it is told to run."""
    from statelesskit.directory import assignments, open_directory
    from statelesskit.fleet import fleet_rows

    with open_directory(site) as directory:
        return "The fleet", fleet_rows(assignments(directory))


def accounts(site: Site) -> Survey:
    """Who has which role in the directory, and accounts that have none."""
    from statelesskit.directory import open_directory
    from statelesskit.directory.accounts import role_rows

    with open_directory(site) as directory:
        return "Accounts and roles", role_rows(directory)


def publication(site: Site) -> Survey:
    """The published snapshots."""
    from statelesskit.publish.artefacts import published

    return "Published snapshots", [{"snapshot": name} for name in published(site)]
