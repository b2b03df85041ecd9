"""What a format or a transport can't hold of a snapshot: computed from its manifest, said before it is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from statelesskit.errors import RefusedError
from statelesskit.names import printable
from statelesskit.tree import Finding

SAID, WAIVABLE, NEVER = "said", "waivable", "never"


@dataclass(frozen=True, slots=True)
class Loss(Finding):
    """One thing that is lost at one path.

    Attributes:
        weight: ``said`` changes nothing that programs do, so it is only told; ``waivable`` may change who may
            read what; of what is ``never`` in such a file, none can be made.
    """

    weight: str = SAID


def refuse(losses: Sequence[Loss], kind: str, *, waive: bool) -> None:
    """Refuse to lose what matters.

    Raises:
        RefusedError: a loss that is waivable and was not waived, or one for which nothing can be made.
    """
    never = [loss for loss in losses if loss.weight == NEVER]
    hurt = never or [loss for loss in losses if loss.weight == WAIVABLE and not waive]
    if not hurt:
        return
    hint = "export a tree, or an image of another kind"
    if not never:
        hint += ", or say --waive if access control lists do not matter here"
    raise RefusedError(
        f"{kind} can't hold all of this snapshot: {printable(os.fsdecode(hurt[0].path))}: {hurt[0].finding}"
        + (f", and {len(hurt) - 1} more" if len(hurt) > 1 else ""),
        hint=hint,
    )
