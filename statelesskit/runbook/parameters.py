"""Check what a runbook is given, before anything runs.

papermill only warns of a name it does not know, does not see some of those it should, and takes a value of
any type. So the names come from the ``parameters`` cell itself (by its syntax tree; nothing is run) and the
types from the action.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from statelesskit.action import Action
from statelesskit.errors import FormatError, ParameterError

TAG = "parameters"
CONFIRM = "confirm"  # the one parameter every runbook has beside its action's


def declared(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names and defaults in the ``parameters`` cell.

    Raises:
        FormatError: there is not exactly one such cell, or it holds anything but ``name = literal``.
    """
    cells = [cell for cell in notebook["cells"] if TAG in cell.get("metadata", {}).get("tags", [])]
    if len(cells) != 1:
        raise FormatError(f"the runbook has {len(cells)} cells tagged {TAG}, expected one")
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse("".join(cells[0]["source"])).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f"line {statement.lineno} is no `name = literal`")
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    except (ValueError, SyntaxError) as error:
        raise FormatError(f"the runbook's {TAG} cell can't be read: {error}") from error
    return found


def check(notebook: Mapping[str, Any], kind: type[Action], given: Mapping[str, Any]) -> Action:
    """Make the action from what a runbook is given over its defaults.

    Raises:
        ParameterError: a name is unknown, a value is missing or of another type; all faults at once.
    """
    values = declared(notebook)
    confirm = given.get(CONFIRM, values.get(CONFIRM, ""))
    if not isinstance(confirm, str):
        raise ParameterError(f"{CONFIRM} is {confirm!r}, expected a plan's digest, auto or nothing")
    values = {name: value for name, value in values.items() if name != CONFIRM}
    return kind.check({**values, **{name: value for name, value in given.items() if name != CONFIRM}})


def from_text(kind: type[Action], pairs: Mapping[str, str]) -> dict[str, Any]:
    """Turn ``-p name=text`` of the command line into typed values; what can't be stays text, for the check.

    Unlike papermill's own ``-p``, the text ``0012`` stays text where the action wants text.
    """
    kinds = {item.name: item.kind for item in kind.parameters()}
    return {name: _typed(text, kinds.get(name, str)) for name, text in pairs.items()}


def _typed(text: str, kind: type) -> Any:
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind is int:
        try:
            return int(text)
        except ValueError:
            return text
    return text
