"""apk's database, ``lib/apk/db/installed``: paragraphs of ``X:value`` lines; apk-package(5) lists the letters."""

from __future__ import annotations

import re
from collections.abc import Iterator

from statelesskit.contents import Contents
from statelesskit.packages.model import DATABASE_MAX, Package
from statelesskit.tree import Finding

PATHS = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")  # the second with a merged /usr
_FIELD = re.compile(r"^([PVAo]):(.*?)\r?$", re.M)


def read(contents: Contents, findings: list[Finding]) -> Iterator[Package]:
    """Yield the packages of an Alpine tree."""
    # With lib a symlink both are one file.
    found = {entry.path for path in PATHS if (entry := contents.resolve(path)) and entry.type == "file"}
    for path in sorted(found):
        strange = 0
        content = contents.read(path, DATABASE_MAX) or b""
        for paragraph in content.decode("utf-8", "replace").split("\n\n"):
            if not paragraph.strip():
                continue
            fields = dict(_FIELD.findall(paragraph))
            name, version = fields.get("P", ""), fields.get("V", "")
            package = Package("apk", name, fields.get("A", ""), version, fields.get("o") or name, version)
            if package.plausible:
                yield package
            else:
                strange += 1
        if strange:
            findings.append(Finding(path, f"{strange} paragraphs describe no package"))
