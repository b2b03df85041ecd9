"""Whatever comes, goes and is merged: the index of a store says just what its packs hold."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit import store as store_module
from statelesskit.pack import Pack
from statelesskit.repack import remove_packs, rewrite
from statelesskit.store import Store, Writer

CONTENTS = [f"content {number}".encode() for number in range(40)]
DIGESTS = {hashlib.sha256(content).digest(): content for content in CONTENTS}

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sets(st.integers(0, 39), max_size=12)),
        st.tuples(st.just("write twice"), st.sets(st.integers(0, 39), min_size=1, max_size=4)),
        st.tuples(st.just("lose"), st.integers(0, 9)),
        st.tuples(st.just("rewrite"), st.sets(st.integers(0, 39), max_size=30)),
        st.tuples(st.just("spoil the index"), st.integers(0, 2000)),
        st.tuples(st.just("remove the index"), st.none()),
        st.tuples(st.just("look"), st.none()),
    ),
    max_size=25,
)


@given(steps=steps, few=st.integers(0, 20), few_packs=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_index_is_what_the_packs_hold(steps: list[tuple[str, object]], few: int, few_packs: int) -> None:
    before = store_module.FEW_OBJECTS, store_module.FEW_PACKS
    store_module.FEW_OBJECTS, store_module.FEW_PACKS = few, few_packs
    try:
        with tempfile.TemporaryDirectory(prefix="statelesskit-test-") as folder:
            store = Store(Path(folder))
            store.packs.mkdir()
            for step, argument in steps:
                act(store, step, argument)
                check(store)
                check(Store(Path(folder)))
            assert Store(Path(folder)).mend_index() == ""
    finally:
        store_module.FEW_OBJECTS, store_module.FEW_PACKS = before


def act(store: Store, step: str, argument: object) -> None:
    packs = sorted(store.packs.glob("*.pack"))
    if step == "write":
        write(store, argument)
    elif step == "write twice":  # two at once, who know nothing of each other
        with Writer(Store(store.packs.parent), 1) as first:
            for number in sorted(argument):  # type: ignore[call-overload]
                first.add(0, CONTENTS[number])
            write(Store(store.packs.parent), argument)
            first.finish()
    elif step == "lose" and packs:
        packs[argument % len(packs)].unlink()  # type: ignore[operator]
    elif step == "rewrite":
        digests = list(DIGESTS)
        rewrite(store, packs, {digests[number] for number in argument}, level=2)  # type: ignore[attr-defined]
        made = {path.name for path in store.packs.glob("*.pack")}
        remove_packs(store, [path for path in packs if path.name in made][: len(packs) // 2])
    elif step == "spoil the index" and store.index_file.exists():
        data = bytearray(store.index_file.read_bytes())
        data[argument % len(data)] ^= 0x10  # type: ignore[operator]
        store.index_file.write_bytes(data)
    elif step == "remove the index":
        store.index_file.unlink(missing_ok=True)
    elif step == "look":
        store.forget()
    store.forget()


def write(store: Store, numbers: object) -> None:
    with Writer(store, 1) as writer:
        for number in sorted(numbers):  # type: ignore[call-overload]
            writer.add(0, CONTENTS[number])
        writer.finish()


def check(store: Store) -> None:
    held = {digest for path in store.packs.glob("*.pack") for digest in Pack(path).digests()}
    assert {digest for digest in DIGESTS if digest in store} == held
    assert set(store.missing(DIGESTS)) == DIGESTS.keys() - held
    for few in (set(list(DIGESTS)[:2]), set(DIGESTS)):
        ordered = store.in_stored_order(few)
        assert sorted(ordered) == sorted(few)
        assert set(ordered[: len(few & held)]) == few & held
    for digest in held:
        assert b"".join(store.read(digest)) == DIGESTS[digest]
        place = store.place(digest)
        assert place
        assert place[0].digest(place[1]) == digest
