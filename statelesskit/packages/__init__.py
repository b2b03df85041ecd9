"""What is installed in a snapshot, read offline from the package databases among its own objects."""

from statelesskit.packages.changes import PackageChange, package_changes
from statelesskit.packages.installed import Installed, read_installed
from statelesskit.packages.model import Package

__all__ = ["Installed", "Package", "PackageChange", "package_changes", "read_installed"]
