"""The fleet directory: a real LDAP server that says which client runs which snapshot.

Names are loaded when they are first used, because ldap3 is slow to import and most commands never
talk to the directory. Process control is in :mod:`statelesskit.directory.slapd`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statelesskit.directory.fleet import Directory as Directory
    from statelesskit.directory.fleet import open_directory as open_directory
    from statelesskit.directory.model import Channel as Channel
    from statelesskit.directory.model import Client as Client
    from statelesskit.directory.model import Group as Group
    from statelesskit.directory.model import PrototypeEntry as PrototypeEntry
    from statelesskit.directory.model import SnapshotEntry as SnapshotEntry
    from statelesskit.directory.resolution import Assignment as Assignment
    from statelesskit.directory.resolution import assignments as assignments
    from statelesskit.directory.resolution import resolve as resolve

_HOME = {
    "Assignment": "resolution",
    "Channel": "model",
    "Client": "model",
    "Directory": "fleet",
    "Group": "model",
    "PrototypeEntry": "model",
    "SnapshotEntry": "model",
    "assignments": "resolution",
    "open_directory": "fleet",
    "resolve": "resolution",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
