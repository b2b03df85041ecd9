"""The unified diff of one file in two trees, safe to show on a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from statelesskit.contents import Contents
from statelesskit.errors import NotFoundError, RefusedError
from statelesskit.manifest import Entry
from statelesskit.names import printable
from statelesskit.run import run

TEXT_MAX = 16 * 1024 * 1024  # bytes of one file
BINARY_HEAD = 8000  # bytes: a NUL among the first so many makes it binary, as for git
TIMEOUT_S = 60  # diff takes seconds for what may be that long, unless somebody made it to take hours


@dataclass(frozen=True, slots=True)
class TextDiff:
    """How one file differs.

    Attributes:
        lines: of the unified diff, without newlines; what a terminal would act on is escaped. Empty if the
            contents are equal, or binary.
    """

    path: bytes
    binary: bool
    lines: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        path = self.path.decode("utf-8", "surrogateescape")
        return {"path": path, "binary": self.binary, "diff": list(self.lines)}


def text_diff(before: Contents, after: Contents, path: bytes, names: tuple[str, str]) -> TextDiff:
    """Compare one file, by its content, or by its target if it is a symlink.

    Args:
        names: of the two trees, for the first two lines of the diff.

    Raises:
        NotFoundError: neither tree has the path.
        RefusedError: it is no file or symlink in one of them, or too long.
    """
    entries = before.find(path), after.find(path)
    shown = printable(path.decode("utf-8", "surrogateescape"))
    if entries == (None, None):
        raise NotFoundError(f"neither {names[0]} nor {names[1]} has {shown}")
    old, new = (_text(tree, entry) for tree, entry in zip((before, after), entries, strict=True))
    if old == new:
        return TextDiff(path, False, ())
    if b"\0" in old[:BINARY_HEAD] or b"\0" in new[:BINARY_HEAD]:
        return TextDiff(path, True, ())
    labels = (f"{name}/{shown}" if entry else "/dev/null" for name, entry in zip(names, entries, strict=True))
    return TextDiff(path, False, tuple(map(_visible, _unified(old, new, *labels))))


def _text(tree: Contents, entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    if entry.type == "symlink":
        return b"-> " + entry.target + b"\n"
    if entry.type != "file":
        shown = printable(entry.path.decode("utf-8", "surrogateescape"))
        raise RefusedError(f"{shown} is no file or symlink: it is of the type {entry.type}")
    return b"".join(tree.pieces(entry, TEXT_MAX))


def _unified(old: bytes, new: bytes, old_label: str, new_label: str) -> list[str]:
    with TemporaryDirectory(prefix="statelesskit-") as folder:
        one, two = Path(folder, "one"), Path(folder, "two")
        # What diff prints is read as text, which would take a carriage return for the end of a line.
        one.write_bytes(old.replace(b"\r", b"\\r"))
        two.write_bytes(new.replace(b"\r", b"\\r"))
        labels = ["--label", old_label, "--label", new_label]
        done = run(["diff", "--unified", "--text", *labels, "--", one, two], check=False, timeout_s=TIMEOUT_S)
    return done.stdout.split("\n")[:-1]


def _visible(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)
