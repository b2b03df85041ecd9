"""Every serial of a channel belongs to one record: the lines of the histories held against what records tell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from statelesskit.audit import events
from statelesskit.audit.records import EVENTS
from statelesskit.config import Site
from statelesskit.directory.consistency import Finding, finding
from statelesskit.directory.model import Channel, Push
from statelesskit.errors import AuditError

HINT = "it was changed past this tool, or a record was removed: statelesskit audit verify"


@dataclass(frozen=True, slots=True)
class _Told:
    """What a record says it did: serials by channel, and the channels it began to move and may have moved."""

    done: frozenset[tuple[str, int]]
    begun: frozenset[str]


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
        told = seen[record] = seen.get(record) or _read(site, record)
        if (channel, serial) not in told.done and channel not in told.begun:
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
    if not any(event.kind == "applied" for event in found):  # killed in between: it may have done it
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            begun.add(str(json.loads((site.records / record / "plan.json").read_bytes())["facts"]["channel"]))
    return _Told(frozenset((name, serial) for name, serial in done if isinstance(serial, int)), frozenset(begun))
