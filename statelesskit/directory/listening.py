"""The private slapd's socket: where it is, and whether anybody listens there.

Apart from the rest, because most commands need to know no more than that the directory is away.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from statelesskit.config import Site
from statelesskit.errors import DirectoryAwayError, DirectoryUnavailableError, LockedError
from statelesskit.lock import held

START_HINT = "statelesskit site start"
SOCKET_PATH_LIMIT = 106  # bytes; unix(7) allows 107, of which slapd cuts the last one off (measured)


def socket_file(site: Site) -> Path:
    """Return where slapd listens: in the site, unless its path is too long for a unix socket.

    Whoever calls finds the same place, so it depends on the site alone, not on the environment.
    """
    inside = site.directory.resolve() / "ldapi"
    if len(os.fsencode(inside)) <= SOCKET_PATH_LIMIT:
        return inside
    owner = site.root.stat().st_uid
    known_by = hashlib.sha256(os.fsencode(site.root.resolve())).hexdigest()[:16]
    if owner == 0:
        return Path("/run/statelesskit", known_by, "ldapi")
    return Path("/tmp", f"statelesskit-{owner}-{known_by}", "ldapi")  # noqa: S108 owner and mode are checked


def check_socket_folder(site: Site) -> None:
    """Refuse a socket in a folder where somebody else could have put it.

    Raises:
        DirectoryUnavailableError: the folder is not there, or others than the site's owner may look or write into it.
    """
    folder = socket_file(site).parent
    try:
        info = folder.lstat()
    except OSError as error:
        raise DirectoryUnavailableError(
            f"the directory does not run: its folder cannot be reached ({error})", hint=START_HINT
        ) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != site.root.stat().st_uid or info.st_mode & 0o066:
        raise DirectoryUnavailableError(
            f"{folder} is not a folder that belongs to the site's owner alone",
            hint=f"find out who made it; then: chmod 711 {folder}, or remove it",
        )


def is_listening(site: Site) -> bool:
    """Say whether somebody listens on the socket; who that is, and if it answers, is not asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(str(socket_file(site))) not in (errno.ENOENT, errno.ECONNREFUSED)


def check_listening(site: Site) -> None:
    """Refuse a private slapd that does not run, at once: nobody starts it by itself. One being started is awaited.

    Raises:
        DirectoryAwayError: nobody listens on its socket.
    """
    check_socket_folder(site)
    if is_listening(site):
        return
    with (
        suppress(LockedError, OSError),
        held(site.lock_file("directory"), what="it", doing="await it", wait_s=site.server.patience_s, shared=True),
    ):
        pass
    if not is_listening(site):
        raise DirectoryAwayError(f"the directory does not run: nothing listens on {socket_file(site)}", hint=START_HINT)
