"""Prototypes: the editable root trees that snapshots are taken of."""

from statelesskit.prototype.create import check_source, create
from statelesskit.prototype.registry import Prototype, list_prototypes, load
from statelesskit.prototype.sandbox import run_in

__all__ = ["Prototype", "check_source", "create", "list_prototypes", "load", "run_in"]
