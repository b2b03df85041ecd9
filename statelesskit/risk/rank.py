"""Every rule over one step, the worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from statelesskit.contents import Contents
from statelesskit.errors import RefusedError
from statelesskit.risk.accounts import accounts
from statelesskit.risk.boot import kernels, units
from statelesskit.risk.config import config
from statelesskit.risk.model import SEVERITIES, Risk, Step
from statelesskit.risk.rights import rights

RULES: tuple[Callable[[Step], Iterator[Risk]], ...] = (rights, accounts, kernels, units, config)


def risks(before: Contents, after: Contents) -> list[Risk]:
    """Return what to look at, by severity, then by path.

    Raises:
        DamagedError: an object that a rule reads is missing from the store, or damaged there.
    """
    step = Step.between(before, after)
    found: list[Risk] = []
    for rule in RULES:
        try:
            found += rule(step)
        except RefusedError as error:
            found.append(Risk("medium", rule.__name__, b"", f"not judged: {error.message}"))
    return sorted(found, key=lambda risk: (SEVERITIES.index(risk.severity), risk.path, risk.kind))
