"""What differs between two sets of packages, and in which direction the versions went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from statelesskit.packages.model import Package


@dataclass(frozen=True, slots=True)
class PackageChange:
    """One package that differs.

    Attributes:
        change: ``added``, ``removed``, ``upgraded``, ``downgraded``; ``changed`` when the versions cannot be ordered.
        before, after: the versions.
    """

    package: str
    arch: str
    manager: str
    change: str
    before: str | None
    after: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def package_changes(before: Iterable[Package], after: Iterable[Package]) -> list[PackageChange]:
    """Return what differs, by name. Of what is there in several versions, as kernels are, each counts for itself."""
    old, new = _versions(before), _versions(after)
    found = []
    for key in sorted(old.keys() | new.keys()):
        manager, name, arch = key
        was, now = sorted(old[key] - new[key]), sorted(new[key] - old[key])
        if len(was) == len(now) == 1 and len(old[key]) == len(new[key]) == 1:
            found.append(PackageChange(name, arch, manager, _direction(manager, was[0], now[0]), was[0], now[0]))
            continue
        found += [PackageChange(name, arch, manager, "removed", version, None) for version in was]
        found += [PackageChange(name, arch, manager, "added", None, version) for version in now]
    return sorted(found, key=lambda change: (change.package, change.arch, change.manager))


def _versions(packages: Iterable[Package]) -> defaultdict[tuple[str, str, str], set[str]]:
    found: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for package in packages:
        found[package.manager, package.name, package.arch].add(package.version)
    return found


def _direction(manager: str, old: str, new: str) -> str:
    match compare_versions(manager, old, new):
        case -1:
            return "upgraded"
        case 1:
            return "downgraded"
    return "changed"


def compare_versions(manager: str, one: str, other: str) -> int:
    """Return -1, 0 or 1 by the manager's own rules; 0 also when one of them is no version."""
    from univers.debian import Version
    from univers.rpm import RpmVersion
    from univers.versions import AlpineLinuxVersion

    rules: dict[str, Callable[[str], Any]] = {
        "dpkg": Version.from_string,
        "rpm": RpmVersion.from_string,
        "apk": AlpineLinuxVersion,
    }
    try:
        first, second = rules[manager](one), rules[manager](other)
        return int(first > second) - int(first < second)
    except (ValueError, TypeError, AttributeError, IndexError):  # whatever the library makes of garbage
        return 0
