"""Enter into the directory what the site's disk has, when the directory can be reached."""

from __future__ import annotations

from statelesskit.config import Site
from statelesskit.errors import DirectoryUnavailableError


def enter(site: Site) -> bool:
    """Register what is missing; False when the directory is away, which the next contact mends."""
    from statelesskit.directory.listening import is_listening

    if not is_listening(site):
        return False
    from statelesskit.directory import open_directory
    from statelesskit.register import register

    try:
        with open_directory(site) as directory:
            register(site, directory)
    except DirectoryUnavailableError:
        return False
    return True
