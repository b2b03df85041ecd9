"""The hash tree of RFC 6962: its root, and the proofs that an entry is in it and that it only grew.

Hashes of leaves go in, in order. A proof is checked with what RFC 9162, sections 2.1.3.2 and 2.1.4.2 say, so
whoever checks needs nothing but the proof and the two roots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one entry."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees beside each other."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the hash of the whole tree; that of nothing has one too."""
    if not leaves:
        return hashlib.sha256().digest()
    level = list(leaves)
    while len(level) > 1:  # an odd one at the end goes up as it is: the same tree as RFC 6962's, from below
        above = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = above + level[len(level) & ~1 :]
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes that lead from the leaf at ``index`` to the root."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} among {len(leaves)}")
    if len(leaves) == 1:
        return []
    cut = _split(len(leaves))
    if index < cut:
        return [*inclusion_proof(leaves[:cut], index), root_hash(leaves[cut:])]
    return [*inclusion_proof(leaves[cut:], index - cut), root_hash(leaves[:cut])]


def consistency_proof(leaves: Sequence[bytes], before: int) -> list[bytes]:
    """Return the hashes that prove that the tree of the first ``before`` leaves is the beginning of this one."""
    if not 0 < before <= len(leaves):
        raise IndexError(f"there is no tree of {before} leaves within one of {len(leaves)}")
    return _consistency(leaves, before, whole=True)


def _consistency(leaves: Sequence[bytes], before: int, *, whole: bool) -> list[bytes]:
    if before == len(leaves):
        return [] if whole else [root_hash(leaves)]
    cut = _split(len(leaves))
    if before <= cut:
        return [*_consistency(leaves[:cut], before, whole=whole), root_hash(leaves[cut:])]
    return [*_consistency(leaves[cut:], before - cut, whole=False), root_hash(leaves[:cut])]


def _split(count: int) -> int:
    """Return the largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether a proof shows that the leaf is at ``index`` of the tree with that size and root."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for other in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(other, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, other)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(before: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether a proof shows that the tree of ``before`` leaves with the old root became this one by growing."""
    if before == size:
        return not proof and old_root == root
    if not 0 < before < size or not proof:
        return False
    path = [old_root, *proof] if before & (before - 1) == 0 else list(proof)
    at, last = before - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for other in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(other, old), node_hash(other, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, other)
        at, last = at >> 1, last >> 1
    return last == 0 and (old, new) == (old_root, root)
