"""What is not the same in two runs: parameters, plan, outcome, and the cells of their notebooks."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statelesskit.audit import events, files
from statelesskit.audit.records import EVENTS
from statelesskit.errors import AuditError, UsageError
from statelesskit.names import printable

MAX_FILE = 64 << 20  # bytes
MAX_LINES = 20  # of a difference of texts, more are counted
# Of the begin event; what differs in every two runs is left out.
_SAME_IN_NONE = {"boot_id", "name", "pid", "process_started", "run_id"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs; ``before`` and ``after`` are lines that are safe on a terminal."""

    where: str
    before: str
    after: str


def differences(before: Path, after: Path) -> list[Difference]:
    """Return what differs between two records of the same runbook or verb. Nothing is verified.

    Raises:
        UsageError: they are records of different things.
        AuditError: one can't be read, or was pruned.
    """
    first, second = _told(before), _told(after)
    if first["what"] != second["what"]:
        raise UsageError(
            f"{printable(before.name)} is a run of {printable(first['what'])}, and {printable(after.name)} one of "
            f"{printable(second['what'])}",
            hint="compare two runs of the same; `statelesskit audit list` shows which there are",
        )
    names = [*first, *(name for name in second if name not in first)]
    return [one for name in names for one in _compared(name, first.get(name), second.get(name))]


def _compared(name: str, before: Any, after: Any) -> Iterator[Difference]:
    if before == after:
        return
    if not (isinstance(before, str) and isinstance(after, str) and "\n" in before + after):
        yield Difference(name, _shown(before), _shown(after))
        return
    lines = [*difflib.ndiff(before.splitlines(), after.splitlines())]
    changed = [line for line in lines if line[:2] in ("- ", "+ ")]
    for line in changed[:MAX_LINES]:
        was, now = (line[2:], "") if line[0] == "-" else ("", line[2:])
        yield Difference(name, printable(was), printable(now))
    if len(changed) > MAX_LINES:
        yield Difference(name, f"and {len(changed) - MAX_LINES} more lines", "")


def _told(path: Path) -> dict[str, Any]:
    try:
        log, _ = events.read(path / EVENTS)
    except AuditError as error:
        raise AuditError(f"{printable(path.name)}: {EVENTS} {error.message}", hint="was it pruned?") from None
    begin = log[0].facts if log else {}
    told: dict[str, Any] = {"what": begin.get("what")}
    told |= {name: value for name, value in begin.items() if name not in _SAME_IN_NONE and name != "parameters"}
    told |= _spread("parameters", begin.get("parameters"))
    told |= _spread("plan", _json(path / "plan.json"))
    for event in log:
        if event.kind in ("applied", events.END):
            facts = event.facts.get("result") if event.kind == "applied" else event.facts
            told |= _spread(event.kind, {k: v for k, v in _table(facts).items() if k not in ("files", "record")})
    return told | _cells(_json(path / "record.ipynb"))


def _spread(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {inner: one for key in value for inner, one in _spread(f"{name}.{key}", value[key]).items()}
    return {} if value is None else {name: value}


def _cells(notebook: Any) -> dict[str, Any]:
    told = {}
    cells = _table(notebook).get("cells")
    for index, cell in enumerate(cells if isinstance(cells, list) else []):
        told[f"cell {index} source"] = _joined(_table(cell).get("source"))
        texts = [_output(one) for one in _table(cell).get("outputs") or []]
        told[f"cell {index} output"] = "\n".join(text for text in texts if text)
    return told


def _output(output: Any) -> str:
    output = _table(output)
    if output.get("output_type") == "error":
        return f"{output.get('ename')}: {output.get('evalue')}"
    return _joined(output.get("text") or _table(output.get("data")).get("text/plain"))


def _joined(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _json(path: Path) -> Any:
    try:
        return json.loads(files.read_small(path, MAX_FILE))
    except (AuditError, ValueError, RecursionError):
        return None


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _shown(value: Any) -> str:
    return "" if value is None else printable(value if isinstance(value, str) else json.dumps(value, sort_keys=True))
