"""Where an archive or an image lies, as people write it: ``tar:PATH``, ``oci:PATH[:TAG]``, or a path alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from statelesskit.archive.gather import Gathering
from statelesskit.archive.layout import open_layout
from statelesskit.archive.pax import COMMENT
from statelesskit.archive.read import TarReader
from statelesskit.archive.stream import Stream, decompressed
from statelesskit.errors import DamagedError, FormatError, NotFoundError, UsageError
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress

LAYOUT_NAMES = ("blobs", "oci-layout", "index.json")


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """One tree that can be read out of an archive or an image.

    Attributes:
        kind: ``tar`` or ``oci``.
        tag: which image of a layout; "" for the only one.
    """

    kind: str
    path: Path
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}"

    @property
    def argument(self) -> str:
        """What follows the kind and its colon."""
        return str(self.path) + (f":{self.tag}" if self.tag else "")

    def look(self) -> tuple[int, str]:
        """Return how many bytes it is, and what tells it from what may lie there later.

        Raises:
            UsageError, DamagedError: of an image, as :meth:`Layout.image`.
        """
        if self.kind == "oci":
            image = open_layout(self.path).image(self.tag)
            return image.size_bytes, image.digest
        info = self.path.stat()
        return info.st_size, f"{info.st_size} {info.st_mtime_ns}"

    def gather(self, gathering: Gathering, progress: Progress = SILENT) -> None:
        """Read all of it; raises as :meth:`Gathering.add`."""
        if self.kind == "oci":
            layout = open_layout(self.path)
            layout.gather(layout.image(self.tag), gathering, progress)
            return
        progress.stage("reading the archive", unit="files")
        with self.path.open("rb") as file:
            gathering.add(Stream(decompressed(file)))


def parse_source(text: str) -> ArchiveSource:
    """Read what people write.

    Raises:
        UsageError: it is nothing of this.
        NotFoundError: nothing is at that path.
    """
    kind, colon, argument = text.partition(":")
    if kind not in ("tar", "oci") or not colon:
        kind, argument = "", text
    tag = ""
    if not argument or "\0" in argument:
        raise UsageError("the source names no path", hint="write it as tar:/srv/desktop.tar.zst or oci:/srv/image:TAG")
    if kind != "tar" and not os.path.lexists(argument) and ":" in argument:
        argument, _, tag = argument.rpartition(":")
    try:
        path = Path(argument).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise NotFoundError(f"there is nothing to read at {printable(argument)}: {error}") from error
    kind = kind or _guess(path)
    if kind == "tar" and not path.is_file():
        raise UsageError(f"{printable(path)} is no file, so it is no archive")
    return ArchiveSource(kind, path, tag)


def is_ours(path: Path) -> bool:
    """Say whether a file is an archive that we wrote: it begins with the header that names its manifest."""
    try:
        with path.open("rb") as file:
            reader = TarReader(Stream(decompressed(file)))
            return next(iter(reader), None) is not None and reader.comment.startswith(COMMENT)
    except DamagedError:
        return False


def _guess(path: Path) -> str:
    """Say what a path holds: a folder can only be a layout, and its first name tells of a file."""
    if path.is_dir():
        return "oci"
    if not path.is_file():
        raise UsageError(f"{printable(path)} is neither a file nor a folder")
    with path.open("rb") as file:
        for member in TarReader(Stream(decompressed(file))):
            first = os.fsdecode(member.name).removeprefix("./").partition("/")[0]
            if first not in ("", "."):
                return "oci" if first in LAYOUT_NAMES else "tar"
    raise FormatError(f"{printable(path)} is an archive with nothing in it")
