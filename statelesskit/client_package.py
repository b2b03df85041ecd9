"""The Debian package for prototypes: the reporter and its units. The same version gives the same bytes.

Made here, byte by byte, as deb(5) says: an archive of three members. So it is made on any host, and no tool's
version shows in it. What boots a client is not in it: an initrd is built with the hook of the server that will
serve it.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from importlib.resources import files

from statelesskit import __version__

NAME = "statelesskit-client"
UNITS = "usr/lib/systemd/system"
TIMER = "statelesskit-report.timer"
PROGRAM = "usr/bin/statelesskit-report"
CONTROL = """\
Package: {name}
Version: {version}
Section: admin
Priority: optional
Architecture: all
Maintainer: statelesskit
Installed-Size: {size_kib}
Depends: python3 (>= 3.10)
Recommends: openssh-client
Description: client of a statelesskit site
 Says what this machine runs, and how full the overlay over its root is, to
 the report door of its site.
"""
COPYRIGHT = "statelesskit, licensed under the Apache License, Version 2.0: /usr/share/common-licenses/Apache-2.0\n"


def debian_package() -> bytes:
    """Return the package."""
    contents = _contents()
    size_kib = sum(-(-len(data) // 1024) for data, _ in contents.values())
    control = {
        "control": (CONTROL.format(name=NAME, version=__version__, size_kib=size_kib).encode(), 0o644),
        "md5sums": (b"".join(map(_md5_line, contents.items())), 0o644),
    }
    links = {f"{UNITS}/timers.target.wants/{TIMER}": f"../{TIMER}"}  # enabled, with no script that runs as root
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": _tar(control, {}),
        "data.tar.xz": _tar(contents, links),
    }
    return b"!<arch>\n" + b"".join(_member(name, data) for name, data in members.items())


def program() -> bytes:
    """Return the reporter, which is one file."""
    return files("statelesskit").joinpath("client/report.py").read_bytes()


def _contents() -> dict[str, tuple[bytes, int]]:
    """Return content and mode of each file, by its path."""
    ours = files("statelesskit")
    units = {f"{UNITS}/{name}": name for name in ("statelesskit-report.service", TIMER)}
    return {
        PROGRAM: (program(), 0o755),
        **{path: (ours.joinpath(f"resources/client/{name}").read_bytes(), 0o644) for path, name in units.items()},
        f"usr/share/doc/{NAME}/copyright": (COPYRIGHT.encode(), 0o644),
    }


def _tar(contents: dict[str, tuple[bytes, int]], links: dict[str, str]) -> bytes:
    folders = {path[:at] for path in (*contents, *links) for at, one in enumerate(path) if one == "/"}
    raw = io.BytesIO()
    with tarfile.TarFile(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted({"", *folders, *contents, *links}):
            info = tarfile.TarInfo(f"./{path}")  # owner root, and the beginning of 1970
            if path in contents:
                data, info.mode = contents[path]
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                continue
            info.type, info.mode = (tarfile.SYMTYPE, 0o777) if path in links else (tarfile.DIRTYPE, 0o755)
            info.linkname = links.get(path, "")
            tar.addfile(info)
    return lzma.compress(raw.getvalue(), preset=6)


def _member(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)


def _md5_line(item: tuple[str, tuple[bytes, int]]) -> bytes:
    path, (data, _) = item
    return f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {path}\n".encode()
