"""After an action changed the directory: have the boot scripts say the same, and tell if they do not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from statelesskit.action import check
from statelesskit.config import Site
from statelesskit.directory.authorship import Change
from statelesskit.errors import StatelessError
from statelesskit.names import printable

_CHECK, _GOOD = "boot scripts", "as the directory says"


def boot_scripts_follow(site: Site, changes: Collection[Change]) -> list[dict[str, Any]]:
    """Make the scripts right that these changes touch; return a check, or none where nothing is published.

    Does not raise: the directory was changed, and that must be told whatever becomes of the scripts.
    """
    from statelesskit.directory import open_directory
    from statelesskit.publish.pointers import follow, publishes

    if not changes or not publishes(site):
        return []
    try:
        with open_directory(site) as directory:
            changed = follow(site, directory, changes)
    except (StatelessError, OSError) as error:
        text = error.message if isinstance(error, StatelessError) else f"{type(error).__name__}: {error}"
        return [check(_CHECK, _GOOD, f"{printable(text)} (statelesskit publish refresh mends it)")]
    return [{**check(_CHECK, _GOOD, _GOOD), "changed": len(changed), "paths": changed[:20]}]
