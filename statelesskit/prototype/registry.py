"""What a site knows about its prototypes: ``prototypes/NAME/prototype.json``, beside ``tree/``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from statelesskit.config import Site
from statelesskit.errors import FormatError, NotFoundError
from statelesskit.names import check_name

FORMAT = 1
FILE = "prototype.json"


@dataclass(frozen=True, slots=True)
class Prototype:
    """An editable root tree, the paragon for many machines.

    Attributes:
        tree: absolute; below the site's ``prototypes/NAME/``, or where an adopted tree stands.
        source: what it was made from, such as ``debootstrap:bookworm`` or ``at:/srv/desktop``.
        created_by: the login name that asked for it; a claim.
        unknown: fields a newer version wrote; kept when the file is written again.
    """

    name: str
    tree: Path
    source: str
    created_at: datetime
    created_by: str
    note: str
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def adopted(self) -> bool:
        """Whether the tree stands elsewhere and is not ours to remove."""
        return self.source.startswith("at:")

    def as_json(self) -> dict[str, Any]:
        """Return what ``prototype.json`` holds; a tree of our own is found beside it, so a site can move."""
        return {
            **self.unknown,
            **({"tree": str(self.tree)} if self.adopted else {}),
            "created_at": self.created_at.isoformat(),
            "created_by": self.created_by,
            "format": FORMAT,
            "note": self.note,
            "source": self.source,
        }


def load(site: Site, name: str) -> Prototype:
    """Read what is known about a prototype.

    Raises:
        NotFoundError: there is none of that name; the nearest that exists is in the hint.
        FormatError: its file is damaged, or written by a newer version.
    """
    path = site.prototypes / check_name(name, "prototype") / FILE
    try:
        return _parse(path, json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise _not_found(site, name) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is no description of a prototype: {type(error).__name__} {error}") from error


def list_prototypes(site: Site) -> list[Prototype]:
    """Return all prototypes of the site, by name."""
    return [load(site, name) for name in _names(site)]


def _names(site: Site) -> list[str]:
    return sorted(path.parent.name for path in site.prototypes.glob(f"[!.]*/{FILE}"))


def _not_found(site: Site, name: str) -> NotFoundError:
    near = difflib.get_close_matches(name, _names(site), n=1)
    hint = f"did you mean {near[0]}?" if near else "`statelesskit prototype list` shows those there are"
    return NotFoundError(f"there is no prototype {name}", hint=hint)


def _parse(path: Path, data: dict[str, Any]) -> Prototype:
    if data.pop("format") != FORMAT:
        raise FormatError(f"{path} is not of format {FORMAT}", hint="it may need a newer statelesskit")
    source, created_at = data.pop("source"), datetime.fromisoformat(data.pop("created_at"))
    tree = Path(data.pop("tree")) if source.startswith("at:") else path.parent / "tree"
    return Prototype(
        name=path.parent.name,
        tree=tree,
        source=source,
        created_at=created_at,
        created_by=data.pop("created_by"),
        note=data.pop("note"),
        unknown=data,
    )
