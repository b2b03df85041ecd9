"""What a notebook's cells held when they were done, so that the one altered later can be named."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from statelesskit.audit.events import Event
from statelesskit.fs import canonical_json

_JSON_MIME = re.compile(r"application/(json|.*\+json)")  # nbformat leaves these as they are


def cell_digests(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``{"index", "source_sha256", "outputs_sha256"}`` of every cell, counted from 0.

    The digests are the same for a notebook in memory and for its file, where nbformat splits texts
    into lists of lines. Metadata and execution counts of the cell itself are not covered: papermill
    rewrites them.

    Raises:
        ValueError: it is no notebook.
    """
    try:
        return [
            {
                "index": index,
                "source_sha256": _sha256(_joined(cell["source"])),
                "outputs_sha256": _sha256([_plain_output(output) for output in cell.get("outputs", [])]),
            }
            for index, cell in enumerate(notebook["cells"])
        ]
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"no notebook: {error}") from error


def altered_cells(notebook: bytes, events: Iterable[Event]) -> list[str]:
    """Compare a notebook's file with the ``cell`` events of its run; say which cells differ, and in what."""
    recorded = {
        event.facts["index"]: event.facts
        for event in events
        if event.kind == "cell" and type(event.facts.get("index")) is int
    }
    try:
        found = cell_digests(json.loads(notebook))
    except (ValueError, RecursionError):
        return ["is no notebook any more"]
    faults = []
    for index, facts in sorted(recorded.items()):
        if index not in range(len(found)):
            faults.append(f"cell {index}: missing")
            continue
        parts = [
            part for part in ("source", "outputs") if found[index][f"{part}_sha256"] != facts.get(f"{part}_sha256")
        ]
        faults += [f"cell {index}: {part.removesuffix('s')} altered" for part in parts]
    return faults


def _plain_output(output: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: _joined(value) if key == "text" else value for key, value in output.items()}
    if isinstance(output.get("data"), Mapping):
        plain["data"] = {
            mime: value if _JSON_MIME.fullmatch(mime) else _joined(value) for mime, value in output["data"].items()
        }
    return plain


def _joined(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
