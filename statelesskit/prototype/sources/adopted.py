"""``at:PATH``: a tree adopted where it stands; nothing is copied, and nothing there is touched."""

from __future__ import annotations

from statelesskit.config import Site
from statelesskit.errors import ExistsError
from statelesskit.names import printable
from statelesskit.prototype.registry import list_prototypes
from statelesskit.prototype.source import Source, existing_path, outside_site, require_root_tree


def check(site: Site, argument: str) -> str:
    tree = existing_path(argument)
    outside_site(site, tree)
    require_root_tree(tree, printable(tree))
    for other in list_prototypes(site):
        # Two names for one tree would be two locks for it.
        if other.adopted and (tree.is_relative_to(other.tree) or other.tree.is_relative_to(tree)):
            raise ExistsError(f"{printable(tree)} shares files with the adopted prototype {other.name}")
    return str(tree)


SOURCE = Source(scheme="at", argument="PATH", meaning="adopted where it stands", check=check, build=None)
