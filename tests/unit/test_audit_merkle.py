"""The tree against the vectors of certificate transparency's own tests, and its proofs against every wrong one."""

from __future__ import annotations

import hashlib

import pytest

from statelesskit.audit import merkle

# google/certificate-transparency, merkletree tests: the entries, and the roots of the first so many.
ENTRIES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
MANY = [merkle.leaf_hash(b"%d" % number) for number in range(33)]


def test_roots_are_those_of_certificate_transparency() -> None:
    assert [merkle.root_hash(LEAVES[:size]).hex() for size in range(1, 9)] == ROOTS
    assert merkle.root_hash([]) == hashlib.sha256(b"").digest()


def test_a_known_path() -> None:
    """The path of entry 0 among 8, from the same tests."""
    assert [step.hex() for step in merkle.inclusion_proof(LEAVES, 0)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_inclusion_is_proven_and_no_other(size: int) -> None:
    root = merkle.root_hash(MANY[:size])
    for index in range(size):
        proof = merkle.inclusion_proof(MANY[:size], index)
        assert merkle.is_included(MANY[index], index, size, proof, root)
        assert not merkle.is_included(MANY[index - 1] if size > 1 else root[::-1], index, size, proof, root)
        assert not merkle.is_included(MANY[index], index, size, [*proof, root], root)
        assert not merkle.is_included(MANY[index], index + size, size, proof, root)
        for at in range(len(proof)):
            assert not merkle.is_included(MANY[index], index, size, proof[:at] + proof[at + 1 :], root)


@pytest.mark.parametrize("size", range(1, 34))
def test_every_growth_is_proven_and_no_other(size: int) -> None:
    root = merkle.root_hash(MANY[:size])
    for before in range(1, size + 1):
        old, proof = merkle.root_hash(MANY[:before]), merkle.consistency_proof(MANY[:size], before)
        assert merkle.is_consistent(before, old, size, root, proof)
        assert not merkle.is_consistent(before, old[::-1], size, root, proof)
        assert not merkle.is_consistent(before, old, size, root[::-1], proof)
        assert not merkle.is_consistent(before, old, size, root, [*proof, root])
        if proof:
            assert not merkle.is_consistent(before, old, size, root, proof[:-1])


def test_what_is_not_there_has_no_proof() -> None:
    for wrong in (-1, 8):
        with pytest.raises(IndexError):
            merkle.inclusion_proof(LEAVES, wrong)
    for wrong in (0, 9):
        with pytest.raises(IndexError):
            merkle.consistency_proof(LEAVES, wrong)
    assert not merkle.is_consistent(0, b"", 8, b"", [])
