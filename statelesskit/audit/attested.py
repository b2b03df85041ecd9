"""What a run claims, held against what the service attests.

In a record of mode ``service`` an ordinary user's run tells of its cells and hands in its notebook; each such
event is marked ``claimed``. What was planned, confirmed and applied is written by the service alone. A notebook
says itself, in the metadata of an output, what it was told that was applied: that, too, is a claim.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from statelesskit.audit import events
from statelesskit.audit.events import Event
from statelesskit.fs import canonical_json
from statelesskit.names import printable

CLAIMED = "claimed"
SERVICE = "service"  # the mode of a record that the service keeps
CLAIMED_KINDS = frozenset({"cell", "cell-began", "guard"})
CLAIMED_FILES = frozenset({"output.txt", "record.html", "record.ipynb"})
APPLIED = "applied"
METADATA = "statelesskit"  # of a notebook's output; below it, APPLIED is {"verb", "result"}


def unattested_events(log: Sequence[Event]) -> Iterator[str]:
    """Yield what the events of a record claim that is not a run's to tell."""
    if not log or log[0].facts.get("mode") != SERVICE:
        return
    for event in log[1:]:
        if event.facts.get(CLAIMED) and event.kind not in CLAIMED_KINDS | {events.END}:
            yield f"line {event.seq}: {printable(event.kind)} is claimed by the run, and not attested"
    last = log[-1]
    kinds = [event.kind for event in log if not event.facts.get(CLAIMED)]
    if last.facts.get("state") == "completed" and kinds.count("applying") > kinds.count(APPLIED):
        yield "the run claims that it completed; an action in it began to be applied, and that it was is not attested"


def unattested_claims(notebook: bytes, log: Sequence[Event]) -> Iterator[str]:
    """Yield what a notebook's outputs say was applied and no event of its record attests."""
    attested = {
        canonical_json(event.facts.get("result"))
        for event in log
        if event.kind == APPLIED and not event.facts.get(CLAIMED)
    }
    for index, claim in _claims(notebook):
        if canonical_json(claim) not in attested:  # as bytes: to Python true is 1
            shown = printable(canonical_json(claim).decode()[:500])
            yield f"cell {index}: claims as applied what no event attests: {shown}"


def _claims(notebook: bytes) -> Iterator[tuple[int, Any]]:
    try:
        cells = json.loads(notebook)["cells"]
        for index, cell in enumerate(cells):
            for output in cell.get("outputs", []):
                told = output.get("metadata", {}).get(METADATA, {})
                if isinstance(told, Mapping) and APPLIED in told:
                    yield index, told[APPLIED]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # no notebook: its digest says so
