"""dpkg's database: ``var/lib/dpkg/status``, or one file for each package in ``status.d`` (images without dpkg).

Paragraphs of ``Field: value`` lines, ended by empty lines; deb-control(5) and dpkg-query(1) say what the
fields and the states mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from statelesskit.contents import Contents
from statelesskit.names import printable
from statelesskit.packages.model import DATABASE_MAX, Package
from statelesskit.tree import Finding

STATUS, STATUS_D = b"var/lib/dpkg/status", b"var/lib/dpkg/status.d"
ABSENT = {"not-installed", "config-files"}
SETTLED = {"installed", "triggers-awaited", "triggers-pending"}
_FIELD = re.compile(r"^(Package|Status|Architecture|Version|Source)[ \t]*:[ \t]*(.*?)[ \t\r]*$", re.M | re.I | re.A)
_SOURCE = re.compile(r"(?P<name>[^ ]+)(?: +\((?P<version>[^)]*)\))?", re.A)


def read(contents: Contents, findings: list[Finding]) -> Iterator[Package]:
    """Yield what dpkg says is there, including what it did not finish with, which is also a finding."""
    if (content := contents.read(STATUS, DATABASE_MAX)) is not None:
        yield from _packages(STATUS, content, "", findings)
    for entry in contents.children(STATUS_D):
        # Beside each package's file lies a list of its files.
        if not entry.path.endswith(b".md5sums") and (content := contents.read(entry.path, DATABASE_MAX)) is not None:
            yield from _packages(entry.path, content, "install ok installed", findings)


def _packages(path: bytes, content: bytes, status: str, findings: list[Finding]) -> Iterator[Package]:
    strange, unfinished = 0, []
    for paragraph in content.decode("utf-8", "replace").split("\n\n"):
        fields = {name.lower(): value for name, value in _FIELD.findall(paragraph)}
        state = fields.get("status", status).rpartition(" ")[2]
        if state in ABSENT or not paragraph.strip():
            continue
        package = _package(fields)
        if not package.plausible or not state:
            strange += 1
            continue
        if state not in SETTLED:
            unfinished.append(f"{package.name} ({state})")
        yield package
    if unfinished:
        findings.append(Finding(path, printable("dpkg did not finish with " + ", ".join(unfinished))))
    if strange:
        findings.append(Finding(path, f"{strange} paragraphs describe no package"))


def _package(fields: dict[str, str]) -> Package:
    name, version = fields.get("package", ""), fields.get("version", "")
    built = _SOURCE.fullmatch(fields.get("source", ""))
    return Package(
        "dpkg",
        name,
        fields.get("architecture", ""),
        version,
        source=built["name"] if built else name,
        source_version=(built and built["version"]) or version,
    )
