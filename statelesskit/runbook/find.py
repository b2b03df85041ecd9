"""Which runbooks there are, and what each is for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import statelesskit
from statelesskit.action import Action
from statelesskit.actions import ACTIONS
from statelesskit.errors import FormatError, NotFoundError
from statelesskit.names import printable

KEY = "statelesskit"  # of the notebook's metadata; below it "action" names the verb


@dataclass(frozen=True)
class Runbook:
    """One notebook that performs an action.

    Attributes:
        digest: ``sha256:…`` of its file.
    """

    name: str
    path: Path
    title: str
    action: type[Action]
    notebook: dict[str, Any]
    digest: str


def runbook_folder() -> Path:
    """Return where the runbooks are that came with this tool: in the wheel, or beside the package in a checkout."""
    package = Path(statelesskit.__file__).parent
    installed = package / "runbooks"
    return installed if installed.is_dir() else package.parent / "runbooks"


def list_runbooks(folder: Path | None = None) -> list[Runbook]:
    """Return the runbooks of a folder, in the order of their numbers."""
    return [read_runbook(path) for path in sorted((folder or runbook_folder()).glob("[0-9]*.ipynb"))]


def find_runbook(wanted: str) -> Runbook:
    """Return a runbook by name (``71-push-snapshot``) or by path.

    Raises:
        NotFoundError: there is none.
        FormatError: the file is no notebook with an action.
    """
    if "/" in wanted or wanted.endswith(".ipynb"):
        path = Path(wanted).absolute()
        if not path.is_file():
            raise NotFoundError(f"there is no runbook at {printable(wanted)}")
        return read_runbook(path)
    known = {path.stem: path for path in runbook_folder().glob("[0-9]*.ipynb")}
    if wanted not in known:
        near = get_close_matches(wanted, known, n=1)
        raise NotFoundError(
            f"there is no runbook {printable(wanted)!r}",
            hint=f"did you mean {near[0]}?" if near else "statelesskit runbook list shows all",
        )
    return read_runbook(known[wanted])


def is_ours(runbook: Runbook) -> bool:
    """Say whether a runbook, wherever it lies, is byte for byte one that came with this tool."""
    try:
        data = (runbook_folder() / f"{runbook.name}.ipynb").read_bytes()
    except OSError:
        return False
    return runbook.digest == "sha256:" + hashlib.sha256(data).hexdigest()


def read_runbook(path: Path) -> Runbook:
    """Read a runbook's file.

    Raises:
        FormatError: it is no notebook, or names no action that is known.
    """
    data = path.read_bytes()
    try:
        notebook = json.loads(data)
        action = ACTIONS[notebook["metadata"][KEY]["action"]]
        first = "".join(notebook["cells"][0]["source"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FormatError(
            f"{path} is no runbook: its metadata does not name an action ({error})",
            hint="copy one that came with this tool: statelesskit runbook copy DIR",
        ) from error
    return Runbook(
        name=path.stem,
        path=path,
        title=first.partition("\n")[0].strip("# "),
        action=action,
        notebook=notebook,
        digest="sha256:" + hashlib.sha256(data).hexdigest(),
    )
