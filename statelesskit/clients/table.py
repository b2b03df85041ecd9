"""Tables of clients as CSV: what a spreadsheet, another tool or an export of ours wrote.

A spreadsheet takes a cell that begins with one of :data:`FORMULA` for a formula, and runs it. So an export puts
an apostrophe before such a cell, and an import takes it away again.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from statelesskit.directory.model import Client
from statelesskit.errors import UsageError
from statelesskit.names import printable

COLUMNS = ("name", "mode", "mac", "channel", "pin", "groups", "note")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
CELL_LIMIT = 1 << 20  # characters; a longer one is a file of another kind
_SEPARATORS = ",;\t"  # what spreadsheets write, depending on where they run


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the line of the file it begins in, and its cells by column."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row.

    Attributes:
        field: a column, or "" for the row as a whole.
    """

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {f'{self.field}: ' if self.field else ''}{self.reason}"


def read_table(data: bytes) -> tuple[list[Row], list[Fault]]:
    """Read a CSV file: UTF-8, a header, separated by commas, semicolons or tabs. Nothing is looked up.

    Raises:
        UsageError: it is no such file; the message says where it ends to be one.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError("the table is UTF-16", hint="save it as CSV in UTF-8")
    # What is no UTF-8 becomes halves of characters, so that the row can be named.
    text = data.decode("utf-8-sig", "surrogateescape")
    first = text[: text.find("\n")]
    separator = max(_SEPARATORS, key=first.count)
    csv.field_size_limit(max(csv.field_size_limit(), CELL_LIMIT))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, faults, line, header = [], [], 1, None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UsageError(
                f"the table cannot be read from line {line} on: {error}", hint="look for a quote that is not closed"
            ) from None
        if header is None:
            header = _header(cells)
        elif len(cells) == len(header):
            cleared = {name: _cleared(name, cell) for name, cell in zip(header, cells, strict=True)}
            rows.append(Row(line, cleared))
            faults += [Fault(line, *wrong) for name in header if (wrong := _unreadable(name, cleared[name]))]
        elif any(cells):
            faults.append(Fault(line, "", f"it has {len(cells)} cells, the header has {len(header)}"))
        line = reader.line_num + 1
    if header is None:
        raise UsageError("the table is empty", hint=f"its first line names its columns: {', '.join(COLUMNS)}")
    return rows, faults


def rows_of(records: Iterable[Mapping[str, object]]) -> list[Row]:
    """Make rows of records, as a DataFrame's ``to_dict("records")`` gives them; absent values are empty cells.

    Raises:
        UsageError: a column is unknown.
    """
    rows = []
    for number, record in enumerate(records, 1):
        if number == 1:
            _header(list(record))
        rows.append(Row(number, {name: _cell(value) for name, value in record.items()}))
    return rows


def write_table(clients: Iterable[tuple[Client, Iterable[str]]]) -> Iterator[str]:
    """Yield the lines of a table of clients and the groups of each, the header first; :func:`read_table` reads it."""
    writer = csv.writer(_Through(), lineterminator="\n")
    for cells in _cells(clients):
        yield str(writer.writerow(cells))  # which returns what write() does


class _Through:
    def write(self, line: str) -> str:
        return line


def _cells(clients: Iterable[tuple[Client, Iterable[str]]]) -> Iterator[Iterable[str]]:
    yield COLUMNS
    for client, groups in clients:
        row = as_row(client, groups)
        yield [defused(row[name]) for name in COLUMNS]


def as_row(client: Client, groups: Iterable[str]) -> dict[str, str]:
    """Return the cells of a client by column."""
    return {
        "name": client.name,
        "mode": client.mode,
        "mac": " ".join(client.macs),
        "channel": client.channel or "",
        "pin": client.pin or "",
        "groups": " ".join(sorted(groups)),
        "note": client.note,
    }


def defused(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return "'" + cell if cell.startswith((*FORMULA, "'")) else cell


def _cleared(name: str, cell: str) -> str:
    if cell.startswith("'") and cell[1:].startswith((*FORMULA, "'")):
        cell = cell[1:]
    return cell if name == "note" else cell.strip()


def _unreadable(name: str, cell: str) -> tuple[str, str] | None:
    if cell.isprintable():  # which halves of characters are not
        return None
    if "\0" in cell:
        return name, "it holds a NUL"
    if any("\ud800" <= c <= "\udfff" for c in cell):
        return name, f"{printable(cell)!r} is no UTF-8"
    return None


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    faults = []
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            faults.append(f"there is no column {printable(name)!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    faults += [f"the column {name!r} is there twice" for name in COLUMNS if names.count(name) > 1]
    if "name" not in names:
        faults.append("there is no column 'name'")
    if faults:
        raise UsageError(
            f"the header is not right: {'; '.join(faults[:20])}",
            hint=f"the first line names the columns; these are known: {', '.join(COLUMNS)}",
        )
    return names


def _cell(value: object) -> str:
    if value is None or value != value:  # as what is absent in a DataFrame
        return ""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple, set, frozenset)) else str(value)
