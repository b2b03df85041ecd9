"""``oci:REF``: an OCI image, from a layout on the disk, or fetched from a registry by skopeo."""

from __future__ import annotations

import re
from pathlib import Path

from statelesskit import fs
from statelesskit.archive.source import ArchiveSource, parse_source
from statelesskit.config import Site
from statelesskit.errors import CommandError, FormatError, NotFoundError, UsageError
from statelesskit.names import printable
from statelesskit.progress import Progress
from statelesskit.prototype.source import Source, run_to_the_end
from statelesskit.prototype.unpacking import unpack
from statelesskit.run import find_tool, run
from statelesskit.tree import Finding

REGISTRY = "docker://"
ANSWER_S = 60  # for a registry to name an image
# As docker.io's "reference" has it, wide enough: skopeo checks it. It has no blanks and can't pass for an option.
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def check(site: Site, argument: str) -> str:
    if argument.startswith(REGISTRY):
        if not _REFERENCE.fullmatch(argument.removeprefix(REGISTRY)):
            raise UsageError(f"{printable(argument)} names no image", hint="write it as oci:docker://debian:bookworm")
        find_tool("skopeo")
        return argument if "@" in argument else _pinned(argument)
    try:
        source = parse_source(f"oci:{argument}")
    except NotFoundError as error:
        raise NotFoundError(error.message, hint=f"one in a registry is written oci:{REGISTRY}NAME:TAG") from error
    source.look()
    return source.argument


def _pinned(argument: str) -> str:
    """Name an image by the digest that its tag stands for now, so that what was planned is what is fetched."""
    try:
        said = run(["skopeo", "inspect", "--no-tags", "--format", "{{.Digest}}", argument], timeout_s=ANSWER_S).stdout
    except CommandError as error:
        error.hint = "is the name right? if the registry wants to know who asks: `skopeo login REGISTRY`"
        raise
    if not _DIGEST.fullmatch(digest := said.strip()):
        raise FormatError(f"skopeo says that {printable(argument)} has the digest {printable(digest)}")
    folder, slash, last = argument.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}@{digest}"


def version(argument: str) -> str:
    return "" if argument.startswith(REGISTRY) else parse_source(f"oci:{argument}").look()[1]


def build(argument: str, tree: Path, progress: Progress) -> list[Finding]:
    if not argument.startswith(REGISTRY):
        return unpack(parse_source(f"oci:{argument}"), tree, progress)
    # Only fetched by it: what it brings is held against its digests and read as any image.
    fetched = tree.with_name("image")
    progress.stage(f"fetching {printable(argument)}")
    run_to_the_end(["skopeo", "copy", "--quiet", argument, f"oci:{fetched}:image"], progress)
    findings = unpack(ArchiveSource("oci", fetched, "image"), tree, progress)
    fs.remove_tree(fetched)
    return findings


SOURCE = Source(
    scheme="oci",
    argument="PATH[:TAG] or docker://NAME[:TAG]",
    meaning="an OCI image, its layers laid over one another",
    check=check,
    build=build,
    version=version,
)
