from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from statelesskit.config import Site
from statelesskit.errors import (
    ExistsError,
    FormatError,
    NameInvalidError,
    NotFoundError,
    PermissionNeededError,
    RefusedError,
    UsageError,
)
from statelesskit.prototype import list_prototypes, load
from statelesskit.prototype.create import check_source, create
from statelesskit.prototype.registry import FILE, Prototype
from statelesskit.prototype.sandbox import run_in


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("etc", "usr"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    return tmp_path / "tree"


def test_an_adopted_tree_stays_where_it_stands_untouched(site: Site, tree: Path) -> None:
    before = tree.stat()
    made = create(site, "desktop", f"at:{tree}", note="for the lab")
    assert made == load(site, "desktop")
    assert list_prototypes(site) == [made]
    assert (made.tree, made.source, made.note, made.adopted) == (tree, f"at:{tree}", "for the lab", True)
    assert made.created_at.tzinfo is UTC
    assert [path.name for path in (site.prototypes / "desktop").iterdir()] == [FILE]
    assert tree.stat() == before


def test_a_relative_path_and_symlinks_are_made_absolute(
    site: Site, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.parent / "current").symlink_to("tree")
    monkeypatch.chdir(tree.parent)
    assert check_source(site, "at:current") == f"at:{tree}"


def test_the_description_keeps_fields_it_does_not_know(site: Site, tree: Path) -> None:
    create(site, "desktop", f"at:{tree}")
    path = site.prototypes / "desktop" / FILE
    newer = json.loads(path.read_bytes()) | {"colour": {"is": "green"}}
    path.write_text(json.dumps(newer))
    assert load(site, "desktop").as_json() == newer


def test_an_own_tree_is_found_beside_its_description(tmp_path: Path) -> None:
    made = Prototype("a", tmp_path / "tree", "dir:/x", datetime.now(UTC), "ann", "")
    assert "tree" not in made.as_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"format": 2}', '{"format": 1, "source": 3, "created_at": "2026-01-01"}']
)
def test_a_damaged_description_is_named(site: Site, text: str) -> None:
    (site.prototypes / "desktop").mkdir()
    (site.prototypes / "desktop" / FILE).write_text(text)
    with pytest.raises(FormatError, match=FILE):
        load(site, "desktop")


def test_an_unknown_name_is_answered_with_the_nearest(site: Site, tree: Path) -> None:
    create(site, "desktop", f"at:{tree}")
    with pytest.raises(NotFoundError, match="did you mean desktop"):
        load(site, "desktpo")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "A", "a\n", "-a", "a..b", "a" * 64])
def test_names_that_are_none(site: Site, tree: Path, name: str) -> None:
    with pytest.raises(NameInvalidError):
        create(site, name, f"at:{tree}")
    with pytest.raises(NameInvalidError):
        load(site, name)
    assert list(site.prototypes.iterdir()) == []


def test_a_taken_name_is_refused(site: Site, tree: Path) -> None:
    create(site, "desktop", f"at:{tree}")
    with pytest.raises(ExistsError, match="desktop"):
        create(site, "desktop", f"at:{tree}")


def test_one_tree_is_adopted_once(site: Site, tree: Path) -> None:
    create(site, "desktop", f"at:{tree}")
    with pytest.raises(ExistsError, match="adopted prototype desktop"):
        create(site, "laptop", f"at:{tree}")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "no such source"),
        ("desktop", "no such source"),
        ("zip:/x", "no such source"),
        ("oci:debian", "nothing to read"),
        ("ssh:host", "not there yet"),
        ("at:", "no path"),
        ("at:/nowhere/at/all", "nothing to read"),
        ("at:a\0b", "no path"),
        ("zip:\x1b[31m", r"\\x1b"),
    ],
)
def test_sources_that_are_none(site: Site, source: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        create(site, "desktop", source)
    assert list(site.prototypes.iterdir()) == []


def test_the_hint_lists_the_sources_there_are(site: Site) -> None:
    with pytest.raises(UsageError, match=r"dir:PATH.*at:PATH.*tar:PATH.*debootstrap:SUITE"):
        create(site, "desktop", "zip:/x")


def test_what_is_no_root_tree_is_described(site: Site, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "etc").mkdir(parents=True)
    (photos / "cat.jpg").touch()
    with pytest.raises(UsageError, match=r"looked for usr/ or bin/, found cat.jpg, etc"):
        create(site, "desktop", f"at:{photos}")
    with pytest.raises(UsageError, match="it is no folder"):
        create(site, "desktop", f"at:{photos / 'cat.jpg'}")
    assert list(site.prototypes.iterdir()) == []


@pytest.mark.parametrize("place", ["prototypes/x", "store", ".", ".."])
def test_a_tree_and_the_site_are_apart(site: Site, place: str) -> None:
    tree = site.root / place
    for name in ("etc", "usr"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    with pytest.raises(RefusedError, match="lie in one another"):
        create(site, "desktop", f"at:{tree}")


def test_others_than_root_are_told(site: Site, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PermissionNeededError, match="sudo"):
        create(site, "desktop", f"dir:{tree}")
    made = create(site, "desktop", f"at:{tree}")
    with pytest.raises(PermissionNeededError, match="sudo"):
        run_in(made, ["true"], site=site)
