"""Make a manifest of what an archive holds, its contents going straight into a store; nothing is unpacked.

An archive's members come in any order and may tell of one name twice; a manifest is in the order of paths and
holds each once. So the entries are gathered in memory, layer over layer, and sorted in the end.

What is refused: names that are absolute or hold ``..``, anything below what is no folder, a hard link to what did
not come before or is a folder, a folder with something in it that becomes a file. What is mended, with a
finding: folders that are missing, and what a manifest can't hold. Of two members of one name the last counts, as
it does for tar.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from statelesskit.archive.pax import COMMENT
from statelesskit.archive.read import Member, TarReader
from statelesskit.archive.stream import Stream
from statelesskit.errors import DamagedError, FormatError, RefusedError
from statelesskit.manifest import LINE_MAX, PATH_MAX, Entry, Manifest
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress
from statelesskit.store import LARGE, Writer
from statelesskit.tree import Finding

WEIGHT_MAX = 2**30  # bytes that all entries together may take, roughly: three million of them
MADE_MAX = 2**26  # bytes in the paths of folders that were missing
FINDINGS_MAX = 1000
ENTRY_WEIGHT, HOLE_WEIGHT = 300, 100
WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"  # image-spec, layer.md
SYMLINK_MODE = 0o777  # all that Linux knows; other systems' archives tell of other ones


Keep = Callable[[int, Iterator[bytes]], tuple[bytes, int]]  # expected size and content to digest and size


def kept_in(writer: Writer) -> Keep:
    """Return what keeps contents in a store; the writer is finished by the caller."""

    def keep(size: int, content: Iterator[bytes]) -> tuple[bytes, int]:
        if size > LARGE:
            return writer.add_stream(0, content)
        whole = b"".join(content)
        return writer.add(0, whole), len(whole)

    return keep


def hashed(size: int, content: Iterator[bytes]) -> tuple[bytes, int]:
    """Keep nothing of a content but its digest."""
    total, size = hashlib.sha256(), 0
    for piece in content:
        total.update(piece)
        size += len(piece)
    return total.digest(), size


@dataclass(slots=True)
class _Layer:
    """What one archive says: entries by path, what it takes away, and folders it empties first."""

    entries: dict[bytes, Entry] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)
    emptied: set[bytes] = field(default_factory=set)


class Gathering:
    """Gathers one tree from an archive, or from the layers of an image.

    Attributes:
        findings: what could not be kept as it was.
        files, bytes: of the manifest, once :meth:`manifest` has made it.
        claimed: the digest of the manifest that the archive says it holds, or "".
    """

    def __init__(self, keep: Keep, progress: Progress = SILENT) -> None:
        """Take what keeps a content: :func:`kept_in` a store, or :func:`hashed` and forgotten."""
        self.findings: list[Finding] = []
        self.files = self.bytes = 0
        self.claimed = ""
        self._keep, self._progress = keep, progress
        self._tree: dict[bytes, Entry] = {}
        self._linked: dict[int, Entry] = {}  # kept here, so that no other entry gets its id
        self._weight = 0
        self._more = 0

    def add(self, stream: Stream, *, whiteouts: bool = False, exact: bool = False) -> None:
        """Read one archive over what was gathered so far.

        Args:
            whiteouts: it is the layer of an image, in which names that begin with ``.wh.`` take something away.
            exact: it was written by us, so modes of symlinks are as they were.

        Raises:
            FormatError: it is damaged, or hostile; the message names the member.
        """
        reader, layer = TarReader(stream), _Layer()
        last = b""
        try:
            for member in reader:
                last = member.name
                exact = exact or reader.comment.startswith(COMMENT)
                self._put(layer, member, whiteouts=whiteouts, exact=exact)
                self._progress.advance()
        except FormatError as error:
            raise FormatError(f"{_where(last)}: {error.message}", hint=error.hint) from error
        self._lay(layer)
        if reader.comment.startswith(COMMENT):
            self.claimed = "sha256:" + reader.comment.removeprefix(COMMENT).decode("ascii", "replace")

    def manifest(self) -> Manifest:
        """Return the manifest of all that was gathered; every entry is checked.

        Raises:
            FormatError: some entry can't be, or has no folder to be in.
            DamagedError: it is not the one that the archive says it is.
        """
        manifest = Manifest([entry.encode() for entry in self._in_order()])
        self.files = self.bytes = 0
        for entry in manifest.entries():
            if entry.type == "file":
                self.files += 1
                self.bytes += entry.size
        if self.claimed and self.claimed != manifest.digest:
            raise DamagedError(
                f"the archive says that it holds the manifest {printable(self.claimed)}, "
                f"but it holds {manifest.digest}",
                hint="it was altered or damaged after it was written; export it again",
            )
        return manifest

    # --- one member ---------------------------------------------------------------------------

    def _put(self, layer: _Layer, member: Member, *, whiteouts: bool, exact: bool) -> None:
        path = _path(member.name)
        folder, _, name = path.rpartition(b"/")
        if whiteouts and name.startswith(WHITEOUT):
            self._weigh(len(path))
            if name == WHITEOUT:
                raise FormatError("it takes away a file without a name")
            if name == OPAQUE:
                layer.emptied.add(folder)
            elif name.startswith(WHITEOUT * 2):
                self._find(path, "it is a mark of aufs and is left out")
            else:
                layer.gone.add(folder + b"/" + name.removeprefix(WHITEOUT) if folder else name.removeprefix(WHITEOUT))
            return
        for finding in member.findings:
            self._find(path, finding)
        if member.type == "link":
            layer.entries[path] = self._linked_to(layer, path, _path(member.link))
            self._weigh(len(path))
            return
        if member.type == "symlink" and not exact:
            member.fields["mode"] = SYMLINK_MODE
        if member.type == "file":
            member.fields |= {"sha256": self._kept(member), "size": member.size}
        entry = Entry(path, member.type, **member.fields)
        length = len(entry.encode())
        if length > LINE_MAX:
            entry = self._fitting(entry)
        self._weigh(length + HOLE_WEIGHT * len(entry.holes))
        layer.entries[path] = entry

    def _kept(self, member: Member) -> str:
        """Put a file's content into the store, and see that its holes hold nothing; return its digest."""
        content = member.content
        if holes := member.fields.get("holes"):
            content = _with_holes(content, holes)
        digest, size = self._keep(member.size, content)
        if size != member.size:
            raise FormatError(f"its content is {size} bytes long, its header says {member.size}")
        return digest.hex()

    def _linked_to(self, layer: _Layer, path: bytes, target: bytes) -> Entry:
        entry = layer.entries.get(target)
        if entry is None and target not in layer.gone:
            entry = self._tree.get(target)
        if entry is None or entry.type == "dir" or path == target:
            why = "itself" if path == target else "which is no file that came before"
            raise FormatError(f"it is a hard link to {printable(os.fsdecode(target))}, {why}")
        self._linked[id(entry)] = entry
        return entry

    def _fitting(self, entry: Entry) -> Entry:
        if entry.holes:
            self._find(entry.path, f"it has {len(entry.holes)} holes, too many to keep; they are filled")
            entry = replace(entry, holes=())
        if len(entry.encode()) > LINE_MAX:
            self._find(entry.path, "its extended attributes are too large to keep; they are left out")
            entry = replace(entry, xattrs=())
        return entry

    def _weigh(self, size: int) -> None:
        self._weight += ENTRY_WEIGHT + size
        if self._weight > WEIGHT_MAX:
            raise RefusedError(
                "the archive has more members than fit into memory here; it is refused",
                hint="unpack it and make a prototype of the folder",
            )

    def _find(self, path: bytes, text: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(path, text))
        elif not self._more:
            self.findings.append(Finding(b"", f"there are more than {FINDINGS_MAX} findings; the others are left out"))
            self._more = 1

    # --- one layer over the others --------------------------------------------------------------

    def _lay(self, layer: _Layer) -> None:
        """Put a layer over what is there: first what it takes away, then what it brings."""
        replaced = {path for path, entry in layer.entries.items() if entry.type != "dir"}
        if self._tree:
            self._take_away(layer.gone | replaced, layer.emptied | replaced)
        self._tree |= layer.entries
        made = 0
        for path in layer.entries:
            while path:
                path = path.rpartition(b"/")[0]
                if path in self._tree:
                    break
                made += len(path)
                self._weigh(len(path))
                if made > MADE_MAX:
                    raise FormatError("too many folders are missing in it")
                self._tree[path] = Entry(path, "dir", mode=0o755)
                self._find(path, "the folder is not in the archive; it was made, with the mode 755")

    def _take_away(self, gone: set[bytes], emptied: set[bytes]) -> None:
        if not gone and not emptied:
            return
        left: dict[bytes, Entry] = {}
        inside = None  # the folder being emptied, with a slash; all that is in it sorts right after it
        for path in sorted(self._tree, key=_with_slash):
            if inside is not None and (path + b"/").startswith(inside):
                continue
            if path in gone or path in emptied:
                inside = path + b"/" if path else b""
            if path not in gone:
                left[path] = self._tree[path]
        self._tree = left

    def _in_order(self) -> Iterator[Entry]:
        first: dict[int, bytes] = {}
        for path in sorted(self._tree):
            entry = self._tree[path]
            if id(entry) in self._linked and first.setdefault(id(entry), path) != path:
                yield Entry(path, "link", link_to=first[id(entry)])
            else:
                yield entry if entry.path == path else replace(entry, path=path)


def _where(name: bytes) -> str:
    return f"at the member {printable(os.fsdecode(name[:PATH_MAX]))}, or the one after it" if name else "at its start"


def _with_slash(path: bytes) -> bytes:
    return path + b"/" if path else b""


def _path(name: bytes) -> bytes:
    """Return a member's name as a path in the tree.

    Raises:
        FormatError: it is absolute, or could lead out of it.
    """
    if name.startswith(b"/"):
        raise FormatError("the name is absolute", hint="make the archive in the tree's top: tar -C TREE -c .")
    names = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in names:
        raise FormatError("the name leads out of the tree")
    if not name:
        raise FormatError("a name is empty")
    return b"/".join(names)


def _with_holes(content: Iterable[bytes], holes: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """Hand a content through.

    Raises:
        FormatError: something else than zeros lies in a hole.
    """
    left, place = iter(holes), 0
    start, length = next(left)
    for piece in content:
        end = place + len(piece)
        while start < end:
            if piece[max(start - place, 0) : start + length - place].strip(b"\0"):
                raise FormatError(f"its header says a hole is at {start}, but there is data")
            if start + length > end:
                break
            start, length = next(left, (1 << 64, 0))
        place = end
        yield piece
