"""What a tree says it is: its os-release, and its kernels."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from statelesskit.contents import Contents

OS_RELEASE = (b"etc/os-release", b"usr/lib/os-release")  # the first that is there, os-release(5)
OS_RELEASE_MAX = 1024 * 1024  # bytes
IMAGES = re.compile(rb"vmlinu[xz]-(?P<version>.+)", re.S)
_ASSIGNMENT = re.compile(r"^([A-Z][A-Z0-9_]*)=(.*)$", re.M | re.A)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel version with its image, or with its modules where no image is kept in the tree."""

    version: str
    path: bytes


def os_release(contents: Contents) -> dict[str, str]:
    """Return the assignments of os-release; a line that no shell would read is left out.

    Raises:
        RefusedError: it is a megabyte long.
    """
    found = {}
    for path in OS_RELEASE:
        content = contents.read(path, OS_RELEASE_MAX)
        if content is None:
            continue
        for name, value in _ASSIGNMENT.findall(content.decode("utf-8", "replace")):
            try:
                found[name] = "".join(shlex.split(value)[:1])
            except ValueError:
                continue
        break
    return found


def kernels(contents: Contents) -> list[Kernel]:
    """Return the kernels, by version: images in /boot, and folders of modules (their image may lie in them)."""
    found: dict[bytes, bytes] = {}
    modules = contents.resolve(b"lib/modules") or contents.resolve(b"usr/lib/modules")
    for entry in contents.children(modules.path) if modules and modules.type == "dir" else ():
        if entry.type == "dir":
            image = entry.path + b"/vmlinuz"
            found[entry.path.rpartition(b"/")[2]] = image if contents.find(image) else entry.path
    for entry in contents.children(b"boot"):
        if (match := IMAGES.fullmatch(entry.path.rpartition(b"/")[2])) and entry.type == "file":
            found[match["version"]] = entry.path
    return [Kernel(version.decode("utf-8", "surrogateescape"), path) for version, path in sorted(found.items())]
