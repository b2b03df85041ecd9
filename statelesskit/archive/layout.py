"""Read an OCI image layout (image-spec 1.1), a folder or an uncompressed tar of one, trusting none of it.

Every blob is held against the digest and the size of the descriptor that named it, and every layer against the
image's ``diff_ids``. Only what is on the disk is read; no registry is asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from statelesskit.archive.gather import Gathering
from statelesskit.archive.read import TarReader
from statelesskit.archive.stream import Stream, decompressed
from statelesskit.errors import DamagedError, FormatError, NotFoundError, RefusedError, UsageError
from statelesskit.names import printable
from statelesskit.progress import SILENT, Progress

JSON_MAX = 4 * 1024 * 1024  # bytes; what registries take
LAYERS_MAX = 1000
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
LAYER_TYPE = re.compile(
    r"application/vnd\.oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.diff\.tar(\.gzip)?"
)
REF_NAME = "org.opencontainers.image.ref.name"
DIGEST = "statelesskit.digest"  # annotation of an image that we wrote: the manifest's
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, Any]

    @classmethod
    def of(cls, data: Any) -> Descriptor:
        """Read one; raises FormatError."""
        try:
            media_type, digest, size = data["mediaType"], data["digest"], data["size"]
            notes = data.get("annotations") or {}
        except (TypeError, KeyError, AttributeError) as error:
            raise FormatError("a descriptor lacks its type, digest or size") from error
        if not isinstance(media_type, str) or type(size) is not int or size < 0 or not isinstance(notes, dict):
            raise FormatError("a descriptor's type, size or annotations are of the wrong kind")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise FormatError(f"the digest {printable(digest)} is no sha256, and no other kind is read")
        return cls(media_type, digest, size, notes)


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a layout.

    Attributes:
        digest: of its manifest.
        layers: the lowest first, each with the digest of its uncompressed archive.
        claimed: the digest of the snapshot's manifest, if we wrote the image; else "".
    """

    name: str
    digest: str
    layers: tuple[tuple[Descriptor, str], ...]
    claimed: str

    @property
    def size_bytes(self) -> int:
        return sum(layer.size for layer, _ in self.layers)


class Layout:
    """An open layout; see :func:`open_layout`."""

    def __init__(self, path: Path, parts: dict[str, tuple[int, int]] | None) -> None:
        self._path = path
        self._parts = parts  # of a tar: where each file is in it

    def image(self, tag: str = "") -> Image:
        """Return the image of that name, or the only one.

        Raises:
            UsageError: there is none, or there are several.
            FormatError, DamagedError: what leads to it is not as it should be.
        """
        with self._open("oci-layout", None) as file:
            version = _json(file.read(JSON_MAX), "oci-layout").get("imageLayoutVersion")
        if version != "1.0.0":
            raise FormatError(f"the layout has the version {printable(version)}; this tool reads 1.0.0")
        with self._open("index.json", None) as file:
            index = _json(file.read(JSON_MAX), "index.json")
        found = _descriptors(index, "manifests")
        names = [str(one.annotations.get(REF_NAME, "")) for one in found]
        chosen = [one for one, name in zip(found, names, strict=True) if tag in ("", name)]
        if len(chosen) != 1:
            raise UsageError(
                f"{printable(self._path)} holds {len(chosen)} images" + (f" named {printable(tag)}" if tag else ""),
                hint="name one of: " + (", ".join(printable(name) for name in names if name) or "none has a name"),
            )
        (descriptor,) = chosen
        if descriptor.media_type in INDEX_TYPES:
            descriptor = self._of_platforms(descriptor)
        return self._image(tag, descriptor)

    def _of_platforms(self, descriptor: Descriptor) -> Descriptor:
        data = self._json(descriptor)
        found = [
            Descriptor.of(one)
            for one in data.get("manifests") or []
            if not isinstance(one, dict) or (one.get("platform") or {}).get("os") != "unknown"  # attestations
        ]
        if len(found) != 1 or found[0].media_type not in MANIFEST_TYPES:
            raise UsageError(
                f"the image is there for {len(found)} platforms",
                hint="take one out: skopeo --override-arch amd64 copy oci:LAYOUT:TAG oci:OTHER:TAG",
            )
        return found[0]

    def _image(self, name: str, descriptor: Descriptor) -> Image:
        if descriptor.media_type not in MANIFEST_TYPES:
            raise FormatError(f"{printable(descriptor.media_type)} is no image")
        manifest = self._json(descriptor)
        layers = _descriptors(manifest, "layers")
        config = self._json(Descriptor.of(manifest.get("config")))
        rootfs = config.get("rootfs")
        ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(ids, list) or len(ids) != len(layers) or not all(isinstance(one, str) for one in ids):
            raise FormatError("the image's configuration does not list as many diff_ids as there are layers")
        for layer in layers:
            if not LAYER_TYPE.fullmatch(layer.media_type):
                raise FormatError(f"a layer of the type {printable(layer.media_type)} can't be read here")
        notes = manifest.get("annotations")
        claimed = notes.get(DIGEST, "") if isinstance(notes, dict) else ""
        return Image(name, descriptor.digest, tuple(zip(layers, ids, strict=True)), str(claimed))

    def gather(self, image: Image, gathering: Gathering, progress: Progress = SILENT) -> None:
        """Read all layers of an image into a tree.

        Raises:
            FormatError, DamagedError, RefusedError: as :meth:`Gathering.add`, or a digest is wrong.
        """
        for number, (layer, diff_id) in enumerate(image.layers, start=1):
            progress.stage(f"reading layer {number} of {len(image.layers)}", unit="files")
            total = hashlib.sha256()
            with self._blob(layer) as file:
                stream = Stream(decompressed(file), see=total.update)
                gathering.add(stream, whiteouts=True, exact=bool(image.claimed))
            if "sha256:" + total.hexdigest() != diff_id:
                raise DamagedError(f"layer {number} holds another archive than the image's configuration says")
        gathering.claimed = image.claimed

    def _json(self, descriptor: Descriptor) -> dict[str, Any]:
        if descriptor.size > JSON_MAX:
            raise FormatError(f"a description of {descriptor.size} bytes is refused; at most {JSON_MAX} are read")
        with self._blob(descriptor) as file:
            return _json(file.read(), descriptor.digest)

    @contextmanager
    def _blob(self, descriptor: Descriptor) -> Iterator[io.BufferedReader[Any]]:
        """Yield a blob; what was not read of it is read at the end, and the whole held against its digest."""
        kind, _, hexadecimal = descriptor.digest.partition(":")
        with self._open(f"blobs/{kind}/{hexadecimal}", descriptor.size) as file:
            checked = _Checked(file)
            buffered = io.BufferedReader(checked, 2**18)
            yield buffered
            while buffered.read(2**20):
                pass
        if "sha256:" + checked.total.hexdigest() != descriptor.digest:
            raise DamagedError(
                f"the blob {descriptor.digest} is damaged: its digest is sha256:{checked.total.hexdigest()}"
            )

    @contextmanager
    def _open(self, name: str, size: int | None) -> Iterator[io.RawIOBase]:
        path = self._path if self._parts is not None else self._path / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DamagedError(f"the layout's {name} can't be read: {error.strerror}") from error
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise FormatError(f"the layout's {name} is no file")
            start, found = 0, info.st_size
            if self._parts is not None:
                if name not in self._parts:
                    raise DamagedError(f"the layout's {name} is missing")
                start, found = self._parts[name]
            if size is not None and found != size:
                raise DamagedError(f"the blob {name} is {found} bytes long, its descriptor says {size}")
            yield _Part(fd, start, found)
        finally:
            os.close(fd)


class _Part(io.RawIOBase):
    """A range of an open file."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd, self._at, self._end = fd, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._fd, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Checked(io.RawIOBase):
    """Hashes what is read."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self.total = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)
        self.total.update(memoryview(buffer)[:count])
        return count


def open_layout(path: Path) -> Layout:
    """Open a layout.

    Raises:
        NotFoundError, FormatError: nothing is there, or it is no layout.
    """
    if path.is_dir():
        if not (path / "oci-layout").is_file():
            raise FormatError(f"{printable(path)} is no OCI layout: it holds no file oci-layout")
        return Layout(path, None)
    if not path.is_file():
        raise NotFoundError(f"there is no layout at {printable(path)}")
    parts: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        if decompressed(file) is not file:
            raise FormatError("a compressed layout is not read", hint="decompress it first, or unpack it into a folder")
        stream = Stream(file)
        for count, member in enumerate(TarReader(stream)):
            if count > 100 * LAYERS_MAX:
                raise RefusedError("the layout holds too many files")
            if member.type == "file" and "holes" not in member.fields:
                name = os.fsdecode(member.name).removeprefix("./")
                parts[name] = (stream.position, member.size)
    if "oci-layout" not in parts:
        hint = "skopeo copy docker-archive:FILE oci:LAYOUT:TAG makes a layout of it" if "manifest.json" in parts else ""
        raise FormatError(f"{printable(path)} is no OCI layout: it holds no file oci-layout", hint=hint)
    return Layout(path, parts)


def _descriptors(data: dict[str, Any], key: str) -> list[Descriptor]:
    found = data.get(key)
    if not isinstance(found, list) or len(found) > LAYERS_MAX:
        raise FormatError(f"its {key} are no list, or more than {LAYERS_MAX}")
    return [Descriptor.of(one) for one in found]


def _json(text: bytes, what: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is no JSON: {printable(error)}") from error
    if not isinstance(data, dict):
        raise FormatError(f"{what} is no JSON object")
    return data
