"""What cells print: the notebook holds what a person reads, the record's file the rest, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import papermill  # noqa: F401 # it loads the engine, and must be loaded first
from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit.engine.outputs import CELL_BYTES, OUTPUT, RUN_BYTES, SHOWN_BYTES, TAIL_BYTES, Outputs


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"msg_type": "stream", "content": {"name": name, "text": text}}


def shown_of(outputs: Outputs, texts: list[str], index: int = 0) -> str:
    taken = [outputs.take(stream(text), index) for text in texts]
    rest = outputs.end_cell(index)
    return "".join(one["content"]["text"] for one in taken if one) + (rest["text"] if rest else "")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.integers(1, 60_000)), max_size=12))
def test_nothing_printed_is_lost(tmp_path_factory: Any, parts: list[tuple[str, int]]) -> None:
    folder = tmp_path_factory.mktemp("record")
    texts = [text * times for text, times in parts]
    everything = "".join(texts)
    outputs = Outputs(folder)
    shown = shown_of(outputs, texts)
    outputs.close()
    if len(everything.encode(errors="backslashreplace")) <= CELL_BYTES:
        assert shown == everything
        assert not (folder / OUTPUT).exists()
    else:
        assert len(shown.encode()) <= CELL_BYTES + 5 * TAIL_BYTES + 200
        assert everything.startswith(shown.partition("\n[")[0][:1000])
        kept = (folder / OUTPUT).read_bytes()
        assert kept == b"--- cell 0\n" + everything.encode(errors="backslashreplace")


def test_the_last_words_are_shown(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    shown = shown_of(outputs, ["x" * CELL_BYTES, "y" * 50_000, "the reason"])
    assert shown.endswith("the reason")
    assert f"[{50_010 - TAIL_BYTES} bytes were left out here; all of it is in {OUTPUT} of the record]" in shown


def test_all_cells_together_have_a_limit(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    sizes = [len(shown_of(outputs, ["x" * CELL_BYTES], index)) for index in range(RUN_BYTES // CELL_BYTES + 2)]
    assert sum(sizes[:-2]) == RUN_BYTES
    assert max(sizes[-2:]) < TAIL_BYTES + 200


def test_a_picture_too_large_is_beside(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    data = {"image/png": "A" * CELL_BYTES, "text/plain": "<picture>"}
    message = {"msg_type": "display_data", "content": {"data": data, "metadata": {}}}
    taken = outputs.take(message, 3)
    assert taken
    assert "image/png, text/plain were left out" in taken["content"]["data"]["text/plain"]
    assert list(taken["content"]["data"]) == ["text/plain"]
    outputs.close()
    first, second = (tmp_path / OUTPUT).read_text().splitlines()
    assert first == "--- cell 3"
    assert json.loads(second) == data


def test_a_traceback_keeps_both_ends(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    value = "begin" + "x" * (3 * SHOWN_BYTES) + "end"
    taken = outputs.take({"msg_type": "error", "content": {"ename": "E", "evalue": value, "traceback": ["t"]}}, 0)
    assert taken
    assert len(taken["content"]["evalue"]) < SHOWN_BYTES + 200
    assert taken["content"]["evalue"].startswith("begin")
    assert taken["content"]["evalue"].endswith("end")
    assert taken["content"]["traceback"] == ["t"]
    outputs.close()
    assert value in (tmp_path / OUTPUT).read_text()
