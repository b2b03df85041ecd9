"""The password we show a directory server: kept in a file or a systemd credential, read when it is needed.

It is never an argument, an environment variable, or part of an object that could be printed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from statelesskit.config import Site
from statelesskit.errors import ConfigError, PermissionNeededError
from statelesskit.names import printable

LIMIT = 4096  # bytes; a password file of more is some other file
FOLDER = "CREDENTIALS_DIRECTORY"  # systemd.exec(5): where a service finds its credentials


def password(site: Site, environ: Mapping[str, str] = os.environ) -> str:
    """Return the password of ``bind_dn``: of its file the text without the newline at the end.

    A name without a slash is a systemd credential where a service has one of that name; systemd
    guards that. A file must be its reader's, the site owner's or root's, and nobody else's to read.

    Raises:
        ConfigError: others may read it, it belongs to somebody else, or holds no password.
        PermissionNeededError: it may not be read by us.
    """
    name, folder = site.server.password_file, environ.get(FOLDER)
    if "/" not in name and folder and (Path(folder) / name).is_file():
        return _checked((Path(folder) / name).read_bytes(), name)
    path = site.root / name
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        raise PermissionNeededError(
            f"the password in {path} may not be read by this user", hint="use the user the site belongs to"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the password file {path} cannot be read: {error.strerror}",
            hint="put it back, or say under [directory] in site.toml where it is",
        ) from error
    with os.fdopen(file, "rb") as opened:
        info = os.fstat(opened.fileno())
        owners = {0, os.geteuid(), site.root.stat().st_uid}
        if not stat.S_ISREG(info.st_mode) or info.st_uid not in owners:
            raise ConfigError(
                f"{path} is not a plain file of the site's owner or root", hint="make one that is, with mode 600"
            )
        if info.st_mode & 0o077:
            raise ConfigError(
                f"others may read the password in {path} (mode {stat.S_IMODE(info.st_mode):o})",
                hint=f"chmod 600 {path}, and change the password: somebody may have read it",
            )
        return _checked(opened.read(LIMIT + 1), str(path))


def _checked(data: bytes, where: str) -> str:
    text = data.decode("utf-8", "surrogateescape").removesuffix("\n")
    # An empty password makes a bind anonymous, and servers say yes to that (RFC 4513, section 5.1.2).
    if not text or len(data) > LIMIT or not text.isprintable():
        raise ConfigError(f"{printable(where)} holds no password", hint="write it there, in one line of UTF-8")
    return text
