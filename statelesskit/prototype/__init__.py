"""Prototypes: the editable root trees that snapshots are taken of."""

from statelesskit.prototype.registry import Prototype, list_prototypes, load

__all__ = ["Prototype", "list_prototypes", "load"]
