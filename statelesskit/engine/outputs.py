"""What cells print: as it comes in a file of the record, and in the notebook as much as a person would read.

A cell that prints a gigabyte would make a notebook that nothing opens. What the notebook leaves out says so there,
and is all in ``output.txt`` of the record. While the run goes on that file grows with everything printed, for
whoever follows it; when the notebook has everything, it is removed at the end.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from statelesskit import fs, scrub
from statelesskit.runbook.follow import OUTPUT

CELL_BYTES, RUN_BYTES = 256 << 10, 8 << 20  # in the notebook: of one cell, and of all
TAIL_BYTES = 16 << 10  # the last words of a cell that printed more; they are often why it failed
SHOWN_BYTES = 16 << 10  # of one line of a traceback
ALL_BYTES = 256 << 20  # in the file: what a runaway loop may cost


class Outputs:
    """Keeps the outputs of one run's cells."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / OUTPUT
        self._fd: int | None = None
        self._left_run = RUN_BYTES
        self._left_all = ALL_BYTES
        self._begin_cell()
        self._whole = True  # the notebook has everything

    def _begin_cell(self) -> None:
        self._left_cell = min(CELL_BYTES, self._left_run)
        self._left_out, self._tail, self._stream = 0, "", "stdout"
        self._headed = False

    def take(self, message: dict[str, Any], index: int) -> dict[str, Any] | None:
        """Return what of a kernel's message goes into the notebook; None for nothing of it."""
        kind, content = message["msg_type"], scrub.plain(message["content"])
        message = {**message, "content": content}
        if kind == "stream":
            self._append(index, content["text"])
            return self._stream_taken(message, content["name"], content["text"])
        if kind in ("display_data", "execute_result", "update_display_data"):
            return self._data_taken(message, content, index)
        if kind == "error":
            return self._error_taken(message, content, index)
        return message

    def end_cell(self, index: int) -> dict[str, Any] | None:
        """Return what is to be shown below a cell that has ended: what was left out, and its last words."""
        shown = None
        if self._left_out:
            where = "all of it is" if self._left_all > 0 else f"its first {ALL_BYTES >> 20} MiB are"
            text = f"\n[{self._left_out} bytes were left out here; {where} in {OUTPUT} of the record]\n{self._tail}"
            shown = {"output_type": "stream", "name": self._stream, "text": text}
        self._left_run -= min(CELL_BYTES, self._left_run) - self._left_cell
        self._begin_cell()
        if self._fd is not None:
            fs.fsync(self._fd)
        return shown

    def close(self) -> None:
        """Leave the file only where it holds more than the notebook."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            if self._whole:
                fs.unlink(self._path)
            elif (clean := scrub.data(data := self._path.read_bytes())) != data:  # one that came in two parts
                fs.write_file(self._path, clean)

    def _stream_taken(self, message: dict[str, Any], stream: str, text: str) -> dict[str, Any] | None:
        data = text.encode(errors="backslashreplace")
        kept = data[: self._left_cell].decode(errors="ignore") if self._left_cell < len(data) else text
        self._left_cell -= len(kept.encode(errors="backslashreplace"))
        if kept == text:
            return message
        rest = text[len(kept) :]
        self._left_cell, self._whole, self._stream = 0, False, stream  # nothing later goes before what is left out
        self._tail += rest
        cut = max(0, len(self._tail) - TAIL_BYTES)
        self._left_out += len(self._tail[:cut].encode(errors="backslashreplace"))
        self._tail = self._tail[cut:]
        return {**message, "content": {"name": stream, "text": kept}} if kept else None

    def _data_taken(self, message: dict[str, Any], content: dict[str, Any], index: int) -> dict[str, Any]:
        text = json.dumps(content["data"])
        if message["msg_type"] == "update_display_data":  # it replaces what was counted
            fits = len(text) <= CELL_BYTES
        else:
            fits = len(text) <= self._left_cell
            self._left_cell -= len(text) if fits else 0
        if fits:
            return message
        self._append(index, text + "\n")
        self._whole = False
        kinds = ", ".join(sorted(content["data"]))
        note = f"[{len(text)} bytes of {kinds} were left out here; they are in {OUTPUT} of the record, as JSON]"
        return {**message, "content": {**content, "data": {"text/plain": note}}}

    def _error_taken(self, message: dict[str, Any], content: dict[str, Any], index: int) -> dict[str, Any]:
        lines = [content.get("evalue", ""), *content.get("traceback", [])]
        if all(len(line) <= SHOWN_BYTES for line in lines):
            return message
        self._append(index, "\n".join(lines) + "\n")
        self._whole = False
        value, *traceback = [_shortened(line) for line in lines]
        return {**message, "content": {**content, "evalue": value, "traceback": traceback}}

    def _append(self, index: int, text: str) -> None:
        """Add to the file. Not flushed: a crash costs its end, which is no evidence before the cell has ended."""
        data = text.encode(errors="backslashreplace")[: max(0, self._left_all)]
        if not data:
            return
        self._left_all -= len(data)
        with fs.disk_full_named(self._path):
            if self._fd is None:
                self._fd = fs.open_log(self._path, 0o644)
            if not self._headed:
                self._headed = True
                fs.write_all(self._fd, f"--- cell {index}\n".encode())
            fs.write_all(self._fd, data)


def _shortened(line: str) -> str:
    if len(line) <= SHOWN_BYTES:
        return line
    half = SHOWN_BYTES // 2
    return f"{line[:half]}\n[{len(line) - 2 * half} characters were left out here; {OUTPUT} has them]\n{line[-half:]}"
