"""The sources a prototype can be made of, one module each."""

from __future__ import annotations

from statelesskit.errors import UsageError
from statelesskit.names import printable
from statelesskit.prototype.source import Source
from statelesskit.prototype.sources import adopted, archive, debian, folder, image

SOURCES = {
    source.scheme: source for source in (folder.SOURCE, adopted.SOURCE, archive.SOURCE, image.SOURCE, debian.SOURCE)
}
NOT_YET = ("ssh", "dnf", "zypper")


def parse(source: str) -> tuple[Source, str]:
    """Split ``dir:/srv/desktop`` into its source and the argument.

    Raises:
        UsageError: there is no such source, or not yet.
    """
    scheme, _, argument = source.partition(":")
    if scheme in SOURCES:
        return SOURCES[scheme], argument
    known = ", ".join(f"{one.scheme}:{one.argument} ({one.meaning})" for one in SOURCES.values())
    fault = "the source is not there yet" if scheme in NOT_YET else "there is no such source"
    raise UsageError(f"{fault}: {printable(source)!r}", hint=f"the sources are {known}")
