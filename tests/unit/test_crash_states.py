"""The crash states themselves: careless writing is seen through, careful writing stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from statelesskit import fs
from tests.crash import Recording, State, recorded

OLD, NEW = b"old", b"new and longer"


def contents(recording: Recording, *, at_the_end: bool = False) -> set[bytes | None]:
    """Return what the file can hold after a crash."""

    def content(state: State) -> bytes | None:
        return state["file"][0] if "file" in state else None

    return {content(state) for _, whole, state in recording.states() if whole or not at_the_end}


def careful(path: Path) -> None:
    fs.write_file(path, NEW)


def in_place(path: Path) -> None:
    fs.unlink(path)
    fd = fs.create(path, 0o644)
    fs.write_all(fd, NEW)
    fs.fsync(fd)


def without_flushing_the_content(path: Path) -> None:
    with fs.new_file(path, durable=False) as fd:
        fs.write_all(fd, NEW)
    fs.fsync_folder(path.parent)


def without_flushing_the_folder(path: Path) -> None:
    temporary, fd = fs.new_partial_file(path, 0o644)
    fs.write_all(fd, NEW)
    fs.fsync(fd)
    fs.rename(temporary, path)


@pytest.mark.parametrize(
    ("write", "possible", "in_the_end"),
    [
        (careful, {OLD, NEW}, {NEW}),
        (in_place, {OLD, NEW, None, b"", NEW[:7], bytes(14)}, {OLD, NEW, None}),
        (without_flushing_the_content, {OLD, NEW, b"", NEW[:7], bytes(14)}, {b"", NEW, NEW[:7], bytes(14)}),
        (without_flushing_the_folder, {OLD, NEW}, {OLD, NEW}),
    ],
)
def test_every_state_and_no_other_comes_up(
    tmp_path: Path, write: Callable[[Path], None], possible: set[bytes | None], in_the_end: set[bytes | None]
) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with recorded(tmp_path) as recording:
        write(tmp_path / "file")
    assert recording.beside == []
    assert (tmp_path / "file").read_bytes() == NEW
    known = {OLD, NEW, None, b"", NEW[:7], bytes(14)}
    assert contents(recording) & known == possible
    assert contents(recording, at_the_end=True) & known == in_the_end
    if write in (careful, without_flushing_the_folder):
        assert contents(recording) <= known  # no garbage, no part of it


def test_removing_a_tree_leaves_parts_of_it_at_most(tmp_path: Path) -> None:
    for name in ("tree/a", "tree/sub/b", "tree/sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    with recorded(tmp_path) as recording:
        fs.remove_tree(tmp_path / "tree")
    found = [state for _, _, state in recording.states()]
    assert {} in found
    assert any("tree" in state and "a" not in state["tree"] for state in found)
    recording.lay(found[0])
    assert (tmp_path / "tree/sub/b").read_text() == "tree/sub/b"


def test_what_is_written_by_another_way_is_told(tmp_path: Path) -> None:
    with recorded(tmp_path) as recording:
        (tmp_path / "new").write_text("x")
        (tmp_path / "new").rename(tmp_path / "other")
        (tmp_path / "other").unlink()
        (tmp_path / "other").exists()
    assert [line.split()[0] for line in recording.beside] == ["open", "os.rename", "os.remove"]


def test_folders_are_made_with_their_names_on_the_disk(tmp_path: Path) -> None:
    with recorded(tmp_path) as recording:
        fs.make_folders(tmp_path / "a/b")
        fs.make_folders(tmp_path / "a/b")
    assert [state for _, whole, state in recording.states() if whole] == [{"a": {"b": {}}}]
