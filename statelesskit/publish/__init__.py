"""The publication: what machines fetch to boot, as static files any web server can give out.

Below ``SITE/publish`` there are two folders. ``snapshots/NAME`` is made once and never changes: kernel, initrd,
image, what they are (``boot.json``), and the iPXE script that starts them. ``boot`` holds scripts of a few lines
that lead there, rendered from the directory: a machine's leads to its channel's, and that to the snapshot, so a
push rewrites one file however many machines follow. They work with the directory and this server's programs away.
"""

from __future__ import annotations
