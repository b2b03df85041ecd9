"""Whatever is done to two sites, in whatever order and however it ends: no snapshot that was not deleted loses a byte.

A model beside them knows what the tree held when each snapshot was taken; hypothesis looks for a way to lose it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from statelesskit import collect as product
from statelesskit.collect import free
from statelesskit.config import Site
from statelesskit.export.tree import export_tree
from statelesskit.snapshot import list_snapshots, load, load_manifest, taking
from statelesskit.snapshot.deleted import delete
from statelesskit.snapshot.description import MANIFEST
from statelesskit.snapshot.repair import repair
from statelesskit.snapshot.source import open_source
from statelesskit.store import Store
from tests.two_sites import TwoSites, killed

pytestmark = pytest.mark.root

Tree = dict[str, bytes]
NAMES = st.sampled_from(["a", "z", "new/x", "new/y"])
CONTENTS = st.sampled_from([b"", b"small", b"other", b"m" * 3000, bytes(range(256)) * 1200])
MOMENTS = st.integers(0, 60)
ANY = st.integers(0, 2**16)


def delete_now(site: Site, name: str) -> None:
    delete(site, load(site, name), by="t", record="")


def collect(site: Site) -> None:
    free(site)


def repack(site: Site) -> None:
    free(site, repack=True)


class NothingLost(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="statelesskit-test-"))
        self.flush = os.fsync
        os.fsync = lambda fd: None  # nothing loses its power here; test_crash.py is about that
        self.sites = TwoSites(self.folder / "base")
        self.model: dict[str, dict[str, Tree]] = {"here": {}, "there": {}}
        self.places: set[tuple[str, str, int]] = set()  # in the order of each site's prototypes

    @initialize()
    def begin(self) -> None:
        self.take("here")

    # --- what is known ------------------------------------------------------------------------

    def site(self, name: str) -> Site:
        return self.sites.here if name == "here" else self.sites.there

    def tree(self) -> Tree:
        top = self.sites.tree
        return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    def learn(self, where: str, *, at_least: dict[str, Tree], new: Tree | None = None) -> None:
        """Look what is listed now: all that must be, and what may be new has the tree of now."""
        listed = {found.name: found for found in list_snapshots(self.site(where))}
        assert at_least.keys() <= listed.keys()
        for name in listed.keys() - self.model[where].keys():
            assert new is not None
            self.model[where][name] = new
            place = (where, listed[name].prototype, listed[name].sequence)
            assert place not in self.places, "a place in the order was given twice"
            self.places.add(place)
        for name in self.model[where].keys() - listed.keys():
            del self.model[where][name]

    def pick(self, where: str, which: int) -> str:
        names = sorted(self.model[where])
        return names[which % len(names)]

    # --- rules --------------------------------------------------------------------------------

    @rule(name=NAMES, content=CONTENTS)
    def write(self, name: str, content: bytes) -> None:
        self.sites.write(name, content)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        (self.sites.tree / name).unlink(missing_ok=True)

    @rule(where=st.sampled_from(["here", "there"]))
    def take(self, where: str) -> None:
        name = self.sites.take(self.site(where)).name
        assert name not in self.model[where]
        self.learn(where, at_least={**self.model[where], name: {}}, new=self.tree())

    @rule(at=MOMENTS)
    def take_and_die(self, at: int) -> None:
        killed(self.sites.take, at)
        self.learn("here", at_least=self.model["here"], new=self.tree())

    @rule(meanwhile=st.sampled_from([collect, repack]), late=st.booleans())
    def take_while_another(self, meanwhile: Callable[[Site], None], late: bool) -> None:
        """Somebody collects after the objects were looked up, before the snapshot has its name."""
        with between(late, lambda: meanwhile(self.sites.here)):
            self.take("here")

    @precondition(lambda self: len(self.model["here"]) > 1)
    @rule(which=ANY, late=st.booleans())
    def take_while_one_is_deleted_and_collected(self, which: int, late: bool) -> None:
        victim = self.pick("here", which)

        def meanwhile() -> None:
            if (self.sites.here.snapshots / victim).exists():  # a take that begins anew comes by again
                delete_now(self.sites.here, victim)
                collect(self.sites.here)

        with between(late, meanwhile):
            self.model["here"].pop(victim)
            self.take("here")

    @precondition(lambda self: len(self.model["here"]) > 1)
    @rule(which=ANY)
    def delete_one(self, which: int) -> None:
        victim = self.pick("here", which)
        delete_now(self.sites.here, victim)
        del self.model["here"][victim]
        self.learn("here", at_least=self.model["here"])

    @precondition(lambda self: len(self.model["here"]) > 1)
    @rule(which=ANY, at=MOMENTS)
    def delete_one_and_die(self, which: int, at: int) -> None:
        victim = self.pick("here", which)
        killed(lambda: delete_now(self.sites.here, victim), at)
        self.learn("here", at_least={name: {} for name in self.model["here"] if name != victim})

    @rule(how=st.sampled_from([collect, repack]), where=st.sampled_from(["here", "there"]))
    def collect_one(self, how: Callable[[Site], None], where: str) -> None:
        how(self.site(where))

    @rule(how=st.sampled_from([collect, repack]))
    def collect_while_a_take_ends(self, how: Callable[[Site], None]) -> None:
        """The snapshot comes after it was seen what is needed, and before anything is removed; it needs what is not."""
        self.sites.write("new/x", b"the content of a pack of its own, %d" % len(self.places))
        self.take("here")
        last = list_snapshots(self.sites.here, "desktop")[-1].name
        delete_now(self.sites.here, last)
        del self.model["here"][last]
        real, left = product.find_garbage, [self.take]

        def find_and_take(*args: Any, **named: Any) -> Any:
            found = real(*args, **named)
            if left:
                left.pop()("here")
            return found

        product.find_garbage = find_and_take
        try:
            how(self.sites.here)
        finally:
            product.find_garbage = real

    @rule(how=st.sampled_from([collect, repack]), at=MOMENTS)
    def collect_and_die(self, how: Callable[[Site], None], at: int) -> None:
        killed(lambda: how(self.sites.here), at)

    @precondition(lambda self: self.model["here"])
    @rule(which=ANY, at=st.none() | MOMENTS)
    def copy(self, which: int, at: int | None) -> None:
        self.copy_between("here", "there", which, at)

    @precondition(lambda self: self.model["there"])
    @rule(which=ANY, at=st.none() | MOMENTS)
    def copy_back(self, which: int, at: int | None) -> None:
        self.copy_between("there", "here", which, at)

    def copy_between(self, source: str, target: str, which: int, at: int | None) -> None:
        name = self.pick(source, which)

        def copy() -> None:
            self.sites.copy(name, self.site(source), self.site(target))

        if at is None:
            copy()
        else:
            killed(copy, at)
        must = self.model[target] | ({name: {}} if at is None else {})
        self.learn(target, at_least=must, new=self.model[source][name])

    @precondition(lambda self: self.model["there"])
    @rule(which=ANY, place=ANY, what=st.sampled_from(["flip", "cut", "remove", "manifest"]), at=st.none() | MOMENTS)
    def spoil_and_repair(self, which: int, place: int, what: str, at: int | None) -> None:
        """What the other site has too is repaired from there, also when a first attempt dies."""
        for name in self.model["there"]:
            if name not in self.model["here"]:
                self.sites.copy(name, self.sites.there, self.sites.here)
        self.learn("here", at_least=self.model["here"], new={})
        for name in self.model["there"]:
            self.model["here"][name] = self.model["there"][name]
        for name in self.model["here"]:
            if name not in self.model["there"]:
                self.sites.copy(name, self.sites.here, self.sites.there)
        self.learn("there", at_least=self.model["there"], new={})
        self.model["there"] = dict(self.model["here"])
        site = self.sites.here
        if what == "manifest":
            (site.snapshots / self.pick("here", which) / MANIFEST).unlink()
        else:
            packs = sorted((site.store / "packs").glob("*.pack"))
            spoil(packs[which % len(packs)], place, what)
        source = open_source(self.sites.there.root)
        if at is not None:
            killed(lambda: repair(site, list_snapshots(site), source), at)
        done = repair(site, list_snapshots(site), source)
        assert done.left == []

    # --- the end ------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            os.fsync = self.flush
            shutil.rmtree(self.folder)

    def check(self) -> None:
        found = self.sites.check_clean()
        assert set(found) == {(where, name) for where in self.model for name in self.model[where]}
        for where, names in self.model.items():
            for name, tree in names.items():
                site, target = self.site(where), self.folder / f"{where} {name}"
                export_tree(load_manifest(site, load(site, name)), Store(site.store), target)
                assert {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*")
                        if path.is_file()} == tree  # fmt: skip
        for site in (self.sites.here, self.sites.there):
            self.sites.take(site)
            collect(site)
        assert self.sites.leftovers() == []


def spoil(path: Path, place: int, what: str) -> None:
    data = bytearray(path.read_bytes())
    path.unlink()
    if what == "flip":
        data[place % len(data)] ^= 0x04
    elif what == "cut":
        del data[place % len(data) :]
    if what != "remove":
        path.write_bytes(data)


@contextmanager
def between(late: bool, meanwhile: Callable[[], Any]) -> Iterator[None]:
    """Do something while a take goes on: after it read the tree, or (early) before it knows what is in the store."""
    name = "publish" if late else "_write_manifest"
    real = getattr(taking, name)
    left = [meanwhile, meanwhile]  # a take that finds its objects gone begins anew, and does so twice

    def call(*args: Any, **named: Any) -> Any:
        if late and left:
            left.pop()()
        made = real(*args, **named)
        if not late and left:
            left.pop()()
        return made

    setattr(taking, name, call)
    try:
        yield
    finally:
        setattr(taking, name, real)


TestNothingLost = NothingLost.TestCase
TestNothingLost.settings = settings(
    max_examples=30,
    stateful_step_count=15,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
