"""Tables as spreadsheets write them: UTF-8 with or without a byte order mark, commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import InputError


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it stands in the file."""

    header: list[str]
    """Names of the columns as written; [] where there is none."""
    rows: list[tuple[int, list[str]]]
    """(line in the file, values), without the empty ones."""
    delimiter: str

    @property
    def names(self) -> list[str]:
        """The columns' names to compare with: lower case, no spaces around."""
        return [name.strip().lower() for name in self.header]


def read_text(path: Path, what: str) -> str:
    """The text of a table without its byte order mark; `what` it is for messages: "the verdicts". Raises InputError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text. Received: {error}", hint='Save the table as "CSV UTF-8".'
        ) from None


def read_table(path: Path) -> Table:
    """Reads a whole table; a first line `sep=;` and empty lines are skipped. Raises InputError that names `path`."""
    lines = read_text(path, "the table").splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.strip() and not line.lower().startswith("sep=")), None)
    if start is None:
        return Table([], [], ",")
    delimiter = max(",;\t", key=lines[start].count)
    reader = csv.reader(io.StringIO("".join(lines[start:]), newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        header = next(reader)
        before = reader.line_num
        for values in reader:
            line, before = start + before + 1, reader.line_num
            if any(v.strip() for v in values):
                rows.append((line, values))
    except csv.Error as error:
        raise InputError(f"{path}: line {start + reader.line_num}: not valid CSV: {error}") from None
    return Table(header, rows, delimiter)
