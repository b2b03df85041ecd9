"""An action is one job of an admin: typed parameters, a plan that changes nothing, and an apply.

Command-line options, the check of a runbook's parameters, the form and the reference are all made
from the one dataclass; nothing is declared twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from statelesskit import __version__, scrub
from statelesskit.config import Site
from statelesskit.errors import ParameterError
from statelesskit.fs import canonical_json
from statelesskit.progress import Progress


@dataclass(frozen=True)
class Parameter:
    """One parameter of an action, as every front needs it.

    Attributes:
        kind: ``str``, ``int`` or ``bool``.
        choices: asked of the live site when a front wants to offer something; never the only check.
        positional: on the command line an argument rather than an option.
        flag: the option's name on the command line where it is not the parameter's.
        several: a text of names with spaces or commas between; on the command line as many arguments.
    """

    name: str
    kind: type
    help: str
    required: bool
    default: str | int | bool
    choices: Callable[[Site], Sequence[str]] | None
    positional: bool
    flag: str
    several: bool


def parameter(
    help: str,
    *,
    default: str | int | bool | None = None,
    choices: Callable[[Site], Sequence[str]] | None = None,
    positional: bool = False,
    flag: str = "",
    several: bool = False,
) -> Any:
    """Declare a field of an action. Without a default it must be given, and not be empty."""
    metadata = {"help": help, "choices": choices, "positional": positional, "flag": flag, "several": several}
    if default is None:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Plan:
    """What an action would do, and a digest of everything that decision rests on.

    Attributes:
        summary: one sentence.
        rows: the table a person reads; equal keys in every row.
        facts: what must not move until apply: serials, digests, the exact set of clients. JSON only.
        notes: what the person should know before confirming.
        changes: false when there is nothing to do.
        guard: why policy would not let this run unattended, or "".
    """

    verb: str
    parameters: Mapping[str, Any]
    summary: str
    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    notes: Sequence[str] = ()
    changes: bool = True
    guard: str = ""

    @property
    def digest(self) -> str:
        """``sha256:…`` over verb, parameters, facts, tool version and today's date (UTC)."""
        return self._digest(datetime.now(UTC).date())

    def confirmed_by(self, digest: str) -> bool:
        """Say whether this is the plan somebody confirmed; a confirmation expires with the next UTC day."""
        today = datetime.now(UTC).date()
        return digest in (self._digest(today), self._digest(today - timedelta(days=1)))

    def _digest(self, day: date) -> str:
        covered = {
            "day": day.isoformat(),
            "facts": self.facts,
            "parameters": self.parameters,
            "tool": __version__,
            "verb": self.verb,
        }
        return "sha256:" + hashlib.sha256(canonical_json(covered)).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return the plan as a record keeps it."""
        return {
            "changes": self.changes,
            "facts": self.facts,
            "guard": self.guard,
            "notes": list(self.notes),
            "parameters": dict(self.parameters),
            "plan_digest": self.digest,
            "rows": [dict(row) for row in self.rows],
            "summary": self.summary,
            "verb": self.verb,
        }


@dataclass(frozen=True)
class Work:
    """What an apply is told about the run it is part of.

    Attributes:
        by: the person who started it.
        record: the name of the record that is evidence of it.
    """

    by: str
    record: str
    progress: Progress


@dataclass(frozen=True)
class Action(ABC):
    """Base of all actions; a subclass is a frozen dataclass whose fields are made by :func:`parameter`.

    Attributes:
        verb: its words on the command line ("snapshot take").
        title: what a form's heading says.
        button: what the form's last button says ("Take the snapshot").
    """

    verb: ClassVar[str]
    title: ClassVar[str]
    button: ClassVar[str]

    @abstractmethod
    def objects(self) -> Sequence[str]:
        """Return the objects that stay locked from plan to end, such as ``prototype/desktop``."""

    def uses(self) -> Sequence[str]:
        """Return the objects that must stay as they are from plan to end, and that others may use meanwhile."""
        return []

    @abstractmethod
    def plan(self, site: Site) -> Plan:
        """Say what :meth:`apply` would do. Changes nothing.

        Raises:
            StatelessError: it cannot or must not be done; the message says why.
        """

    @abstractmethod
    def apply(self, site: Site, plan: Plan, work: Work) -> dict[str, Any]:
        """Do it, and return the facts of the result as JSON. Safe to run again after a crash."""

    def unchanged(self, plan: Plan) -> dict[str, Any]:
        """Return the result of a run that had nothing to do."""
        return {}

    def verify(self, site: Site, plan: Plan, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Look at the world after apply; return rows made by :func:`check`."""
        return []

    def as_parameters(self) -> dict[str, Any]:
        """Return the parameters as given, for plan and record."""
        return dataclasses.asdict(self)

    @classmethod
    @abstractmethod
    def survey(cls, site: Site) -> tuple[str, list[dict[str, Any]]]:
        """Return a heading and rows that say how things stand: what a person wants to see before and after."""

    @classmethod
    def parameters(cls) -> list[Parameter]:
        """Return the parameters in the order they are declared."""
        kinds = get_type_hints(cls)
        found = []
        for item in dataclasses.fields(cls):
            kind = _plain(kinds[item.name])
            found.append(
                Parameter(
                    name=item.name,
                    kind=kind,
                    help=item.metadata["help"],
                    required=item.default is dataclasses.MISSING,
                    default=kind() if item.default is dataclasses.MISSING else item.default,
                    choices=item.metadata["choices"],
                    positional=item.metadata["positional"],
                    flag=item.metadata["flag"],
                    several=item.metadata["several"],
                )
            )
        return found

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> Self:
        """Make the action from untyped values, as a notebook or a form gives them.

        Raises:
            ParameterError: one is unknown (with the nearest known name), missing, or of another type;
                all faults are named at once. Or one is a secret.
        """
        scrub.refuse_secrets(given)
        known = {item.name: item for item in cls.parameters()}
        faults = [_unknown(name, known) for name in given if name not in known]
        for name, item in known.items():
            value = given.get(name, item.default)
            if type(value) is not item.kind:
                faults.append(_mistyped(name, value, item.kind))
            elif item.required and value == item.kind() and item.kind is not bool:
                faults.append(f"{name} is missing ({item.help})")
        if faults:
            raise ParameterError(
                f"{cls.verb}: " + "; ".join(faults),
                hint="the parameters are: " + ", ".join(f"{p.name} ({p.kind.__name__})" for p in known.values()),
            )
        return cls(**{name: given[name] for name in known if name in given})


def _plain(kind: Any) -> type:
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if kind not in (str, int, bool):
        raise TypeError(f"a parameter is str, int or bool, not {kind}")
    return kind  # type: ignore[no-any-return]


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no parameter {name!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _mistyped(name: str, value: object, kind: type) -> str:
    fault = f"{name} is {value!r} ({type(value).__name__}), expected {kind.__name__}"
    if kind is str and isinstance(value, (int, float)):
        fault += "; papermill's -p turned it into a number, give it with -r (raw)"
    return fault


def check(what: str, expected: object, found: object) -> dict[str, Any]:
    """Return one row of a verification."""
    return {"check": what, "expected": expected, "found": found, "ok": expected == found}
