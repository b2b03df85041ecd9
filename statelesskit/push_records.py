"""Every serial of a channel belongs to one record: the lines of the histories held against what records tell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from statelesskit.audit import events
from statelesskit.audit.listing import summary_of
from statelesskit.audit.records import EVENTS
from statelesskit.config import Site
from statelesskit.directory.consistency import Finding, finding
from statelesskit.directory.model import Channel, Push
from statelesskit.errors import AuditError

HINT = "it was changed past this tool, or a record was removed: statelesskit audit verify"


@dataclass(frozen=True, slots=True)
class _Told:
    """What a record tells.

    Attributes:
        done: channels with the serials it moved them to.
        begun: channels it began to move, and may have moved.
        above: for a restore, the serials given out before it, by channel; it moved channels to higher ones.
    """

    done: frozenset[tuple[str, int]]
    begun: frozenset[str]
    above: Mapping[str, int] | None = None

    def tells_of(self, channel: str, serial: int) -> bool:
        restored = self.above is not None and serial > self.above.get(channel, 0)
        return (channel, serial) in self.done or channel in self.begun or restored


def without_record(site: Site, channels: Iterable[Channel], pushes: Iterable[Push]) -> Iterator[Finding]:
    """Yield the serials that no record of the site tells of, each once."""
    named = {(one.channel, one.serial): one.record for one in pushes}
    named |= {(one.name, one.serial): one.record for one in channels}
    there = {path.name for path in site.records.iterdir()}
    seen: dict[str, _Told] = {}
    for (channel, serial), record in sorted(named.items()):
        if not record:
            yield finding("channel", channel, f"has no record of the push to serial {serial}", HINT)
            continue
        if record not in there:
            text = f"names the record {record} of the push to serial {serial}, which is not there"
            yield finding("channel", channel, text, HINT)
            continue
        if not (site.records / record / EVENTS).exists() and summary_of(site.records / record).pruned:
            continue  # its statement is in the log; which serial it made was given up with its events
        told = seen[record] = seen.get(record) or _read(site, record)
        if not told.tells_of(channel, serial):
            text = f"names the record {record} of the push to serial {serial}, which tells of no such push"
            yield finding("channel", channel, text, HINT)


def _read(site: Site, record: str) -> _Told:
    """Return what a record tells; nothing if it cannot be read, which an audit names."""
    found: list[events.Event] = []
    with suppress(AuditError):
        found, _ = events.read(site.records / record / EVENTS)
    done, begun = set(), set()
    for event in found:
        result = event.facts.get("result")
        if event.kind == "applied" and isinstance(result, dict):
            done.add((str(result.get("channel")), result.get("serial")))
    plan: dict[str, Any] = {"verb": "", "facts": {}}
    with suppress(OSError, ValueError, TypeError, RecursionError):
        plan |= json.loads((site.records / record / "plan.json").read_bytes())
    facts = plan["facts"] if isinstance(plan["facts"], dict) else {}
    if not any(event.kind == "applied" for event in found):  # killed in between: it may have done it
        begun.add(str(facts.get("channel")))
    given = facts.get("serials") if plan["verb"] == "site restore" else None
    above = {name: n for name, n in given.items() if isinstance(n, int)} if isinstance(given, dict) else None
    return _Told(frozenset((name, serial) for name, serial in done if isinstance(serial, int)), frozenset(begun), above)
