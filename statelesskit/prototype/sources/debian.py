"""``debootstrap:SUITE``: a minimal Debian or Ubuntu from where this host's own apt points, made by mmdebstrap."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from statelesskit.config import Site
from statelesskit.errors import MissingToolError, NotFoundError, UsageError
from statelesskit.names import printable
from statelesskit.progress import Progress
from statelesskit.prototype.source import Source, run_to_the_end
from statelesskit.run import find_tool, run
from statelesskit.tree import Finding

VENDORS = ("Debian", "Ubuntu")
POCKETS = ("", "updates", "security")  # not backports, not proposed
TARGET_FIELDS = ("REPO_URI", "RELEASE", "CODENAME", "SUITE", "COMPONENT", "ORIGIN", "SOURCESENTRY")
# How this host reaches its package servers; everything else in its apt configuration is its own affair.
SETTING = re.compile(r'Acquire::(?:Check-(?:Valid-Until|Date)|Retries|https?::(?:Timeout|Proxy(?:::[^" ]+)?)) ".*";')
# Options of one entry of the host's sources that the same entry in the tree needs.
OPTIONS = ("signed-by", "trusted", "check-valid-until", "check-date")


@dataclass(frozen=True, slots=True)
class Target:
    """One component of one suite that this host's apt fetches.

    Attributes:
        entry: file and number of the stanza (or line) that says so, such as ``…/debian.sources:1``.
    """

    uri: str
    release: str
    codename: str
    suite: str
    component: str
    origin: str
    entry: str

    def belongs_to(self, suite: str) -> bool:
        """Say whether this is ``suite`` (under any of its names), its updates or its security fixes."""
        names = {self.release, self.codename, self.suite}
        return self.release.partition("-")[2] in POCKETS and suite in {name.partition("-")[0] for name in names}


def host_targets() -> list[Target]:
    """Return what this host's apt fetches from Debian or Ubuntu; third parties are left out."""
    form = "|".join(f"$({name})" for name in TARGET_FIELDS)
    lines = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]).stdout.splitlines()
    targets = [Target(*line.split("|")) for line in lines if line.count("|") == len(TARGET_FIELDS) - 1]
    return [target for target in targets if target.origin in VENDORS]


def host_settings() -> str:
    """Return, as an apt.conf, how this host's apt reaches its servers; "" on a host without apt."""
    try:
        lines = run(["apt-config", "dump"]).stdout.splitlines()
    except MissingToolError:
        return ""
    return "".join(f"{line}\n" for line in lines if SETTING.fullmatch(line))


def sources_for(targets: Iterable[Target]) -> str:
    """Return a deb822 ``.sources`` file for the targets, with the options of the host's own entries."""
    stanzas: dict[tuple[str, str, str], list[str]] = {}
    for target in targets:
        components = stanzas.setdefault((target.uri, target.release, target.entry), [])
        if target.component not in components:
            components.append(target.component)
    written = []
    for (uri, release, entry), components in stanzas.items():
        lines = ["Types: deb", f"URIs: {uri}", f"Suites: {release}", f"Components: {' '.join(components)}"]
        lines += [f"{name.title()}: {value}" for name, value in _options(entry).items()]
        written.append("\n".join(lines) + "\n")
    return "\n".join(written)


def _options(entry: str) -> dict[str, str]:
    path, _, number = entry.rpartition(":")
    text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    if path.endswith(".sources"):
        found = _stanzas(text)[int(number) - 1]
    else:
        bracket = re.search(r"\[(.*?)\]", text.splitlines()[int(number) - 1])
        pairs = [word.partition("=") for word in bracket[1].split()] if bracket else []
        found = {name.lower(): value for name, _, value in pairs}
    return {name: found[name] for name in OPTIONS if name in found}


def _stanzas(text: str) -> list[dict[str, str]]:
    """Read deb822 as apt counts it: comments are no lines, and a stanza of comments alone is none."""
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
        elif line[0].isspace():
            stanzas[-1][name] += f"\n{line}"
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            stanzas[-1][name] = value.strip()
    return [stanza for stanza in stanzas if stanza]


def check(site: Site, argument: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]*", argument):
        raise UsageError(f"{printable(argument)!r} is no suite", hint="write it as debootstrap:bookworm")
    find_tool("mmdebstrap")
    _targets_of(argument)
    return argument


def _targets_of(suite: str) -> list[Target]:
    targets = host_targets()
    if found := [target for target in targets if target.belongs_to(suite)]:
        return found
    known = sorted({target.codename for target in targets if "-" not in target.codename})
    raise NotFoundError(
        f"this host's apt has no packages of the suite {suite}; it has {', '.join(known) or 'none of any'}",
        hint="add the suite to the host's apt sources" if known else "run apt-get update, then try again",
    )


def build(argument: str, tree: Path, progress: Progress) -> list[Finding]:
    targets = _targets_of(argument)
    sources = sources_for(targets)
    progress.stage(f"installing {argument}")
    tree.parent.chmod(0o711)  # apt fetches as a user of its own, who must be able to come by
    with tempfile.TemporaryDirectory() as place:
        # In files, not on the command line: a proxy's address may hold a password.
        settings, entries = Path(place, "apt.conf"), Path(place, "host.sources")
        settings.write_text(f'{host_settings()}Acquire::Languages "none";\n', encoding="utf-8")
        entries.write_text(sources, encoding="utf-8", errors="surrogateescape")
        run_to_the_end(
            [
                "mmdebstrap",
                "--mode=root",
                "--format=directory",
                "--variant=minbase",
                # So that packages can be installed at once, without apt-get update.
                "--skip=cleanup/apt/lists",
                f"--aptopt={settings}",
                *(["--include=ca-certificates"] if "https:" in sources else []),
                argument,
                tree,
                entries,
            ],
            progress,
        )
    _unbind_from_host(tree, sources)
    return []


def _unbind_from_host(tree: Path, sources: str) -> None:
    """Take away what mmdebstrap copied of this host, and add the keys that only this host had."""
    apt = tree / "etc/apt"
    (apt / "apt.conf.d/99mmdebstrap").unlink()
    (apt / "sources.list.d/0000host.sources").rename(apt / "sources.list.d/host.sources")
    (tree / "etc/hostname").unlink(missing_ok=True)
    # Kept as an empty file: the network that a machine boots in writes it.
    resolv_conf = tree / "etc/resolv.conf"
    resolv_conf.unlink(missing_ok=True)
    resolv_conf.touch()
    resolv_conf.chmod(0o644)
    for keys in re.findall(r"^Signed-By: (/.*)$", sources, flags=re.MULTILINE):
        for key in re.split(r"[,\s]+", keys):
            inside = tree / key.lstrip("/")
            if not inside.exists():
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.write_bytes(Path(key).read_bytes())
                inside.chmod(0o644)


SOURCE = Source(
    scheme="debootstrap",
    argument="SUITE",
    meaning="a minimal Debian or Ubuntu from this host's package sources",
    check=check,
    build=build,
    prepared=True,
)
