"""Folders of a tree that is written, open by their paths: no path is handed to the kernel as a whole."""

from __future__ import annotations

import os
from collections import OrderedDict

from statelesskit.tree import OPEN_FOLDER


class Folders:
    """Open folders by path, the recently used ones kept open; belongs to one thread."""

    KEEP = 128

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def of(self, path: bytes) -> tuple[int, bytes]:
        """Return the open folder a path is in, valid until the next call, and its name there."""
        parent, _, name = path.rpartition(b"/")
        return self._opened(parent), name or b"."

    def _opened(self, path: bytes) -> int:
        missing = []
        above = path
        while above and above not in self._open:
            above, _, name = above.rpartition(b"/")
            missing.append(name)
        fd = self._root
        if above:
            self._open.move_to_end(above)
            fd = self._open[above]
        # One name at a time, so that no path is ever too long for the kernel and no link is ever followed.
        for name in reversed(missing):
            fd = os.open(name, OPEN_FOLDER, dir_fd=fd)
            above = above + b"/" + name if above else name
            self._open[above] = fd
            if len(self._open) > self.KEEP:
                os.close(self._open.popitem(last=False)[1])
        return fd

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
