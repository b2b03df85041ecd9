"""What papermill writes last, after every engine: whole, and not at all where it is there."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from papermill.iorw import local_file_io_cwd, papermill_io, write_ipynb

from statelesskit.errors import NoSpaceError


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    notebook, output = nbformat.v4.new_notebook(), tmp_path / "out.ipynb"
    write_ipynb(notebook, str(output))
    before = output.stat()
    write_ipynb(notebook, str(output))
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    notebook.cells.append(nbformat.v4.new_markdown_cell("more"))
    write_ipynb(notebook, str(output))
    assert output.stat().st_ino != before.st_ino
    assert nbformat.read(output, as_version=4).cells[0].source == "more"
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.ipynb"
    papermill_io.write("{}", str(output))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("statelesskit.fs.write_all", full)
    with pytest.raises(NoSpaceError):
        papermill_io.write('{"cells": []}', str(output))
    assert output.read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]


def test_a_relative_path_is_from_where_papermill_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with local_file_io_cwd():
        monkeypatch.chdir(tmp_path / "elsewhere")
        papermill_io.write("{}", "out.ipynb")
    assert (tmp_path / "out.ipynb").read_text() == "{}"
