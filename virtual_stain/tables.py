"""Tables as spreadsheets write and open them, read in one place: UTF-8 or UTF-16, commas, semicolons or tabs, capitals
in the header, empty rows, Excel's `sep=`; and what is written so that a spreadsheet opens it unharmed."""

from __future__ import annotations

import csv
import io
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import InputError

BYTE_ORDER_MARK = "\ufeff"
"""At the beginning of a UTF-8 table it makes spreadsheets read umlauts as they are."""
COMMA_HINT = "Are these decimal commas? They could as well part thousands: export with decimal points."
SURPLUS = "…"
"""Name of what a row holds beyond the named columns."""
_HEAD_BYTES = 4096
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DECLARED = re.compile(r"\"?sep=(.?)\"?\s*", re.IGNORECASE)
_NUMBER_WITH_COMMA = re.compile(r"[+-]?\d+(?:\.\d{3})*,\d+")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


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

    def records(self, *, decimals: Iterable[str] = ()) -> list[tuple[int, Mapping[str, str]]]:
        """(line, name → value without spaces around) of every row; a missing value is "".

        More values than columns stand under the name "…". `decimals`: columns of numbers with decimals. Between commas,
        a decimal comma without quotes fills two columns: two whole numbers side by side, the first of them in such a
        column, stand there joined ("3,5"), so that nobody reads 3; not two equal ones in two such columns.
        """
        names, wanted = self.names, set(decimals)
        found: list[tuple[int, Mapping[str, str]]] = []
        for line, values in self.rows:
            row = dict.fromkeys(names, "") | dict(zip(names, (v.strip() for v in values), strict=False))
            if any(v.strip() for v in values[len(names) :]):
                row[SURPLUS] = " ".join(values[len(names) :])
            for name, following in itertools.pairwise(names) if self.delimiter == "," else ():
                equal = following in wanted and row[name] == row[following]  # two slides of one pixel size
                if name in wanted and row[name].isdecimal() and row[following].isdecimal() and not equal:
                    row[name] = f"{row[name]},{row[following]}"
            found.append((line, row))
        return found


def _is_binary(head: bytes) -> bool:
    """Of the first bytes of a file. The last letter of text may be cut; a NUL alone is a mistake in a name."""
    no_text = head.decode("utf-8", errors="replace").rstrip("\ufffd").count("\ufffd")
    return b"\0" in head and bool(no_text) and not head.startswith(_UTF_16)


def read_text(path: Path, what: str, *, any_encoding: bool = False) -> str:
    """The text of a table without its byte order mark; `what` it is for messages: "the verdicts".

    UTF-16 is known by its mark. `any_encoding`: bytes that are no UTF-8 become "\ufffd" instead of an error, where only
    the names of columns can hold them. Raises InputError.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES)
            if _is_binary(data):  # told before gigabytes of a slide are read
                raise InputError(
                    f"{path}: expected {what}, a text file. Received: a binary file, as slides and pictures are.",
                    hint='Name the table here. Where a spreadsheet holds it, save it as "CSV UTF-8".',
                )
            data += file.read()
        if data.startswith(_UTF_16):
            return data.decode("utf-16")
        return data.decode("utf-8-sig", errors="replace" if any_encoding else "strict")
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text. Received: {error}", hint='Save the table as "CSV UTF-8".'
        ) from None


def read_table(path: Path, what: str = "the table") -> Table:
    """Reads a whole table. Raises InputError that names `path`."""
    return table_of(read_text(path, what), str(path))


def table_of(text: str, name: str, *, strict: bool = True) -> Table:
    """The table in `text`; a first line `sep=;` says what parts the columns, empty lines are skipped.

    `name`: of the file, for messages. `strict`: refuse stray quotes. Raises InputError.
    """
    lines = text.removeprefix(BYTE_ORDER_MARK).splitlines(keepends=True)
    declared = None
    start = 0
    while start < len(lines) and (not lines[start].strip(' \t\r\n,;"') or _DECLARED.fullmatch(lines[start])):
        found = _DECLARED.fullmatch(lines[start])
        declared = (found[1] or declared) if found else declared
        start += 1
    if start == len(lines):
        return Table([], [], declared or ",")
    delimiter = declared or max(",;\t", key=lines[start].count)
    reader = csv.reader(io.StringIO("".join(lines[start:]), newline=""), delimiter=delimiter, strict=strict)
    rows: list[tuple[int, list[str]]] = []
    try:
        header = next(reader)
        before = reader.line_num
        for values in reader:
            line, before = start + before + 1, reader.line_num
            if any(v.strip() for v in values):
                rows.append((line, values))
    except csv.Error as error:
        raise InputError(f"{name}: line {start + reader.line_num}: not valid CSV: {error}") from None
    return Table(header, rows, delimiter)


def require_no_surplus(header: Sequence[str], values: Sequence[str], where: str) -> None:
    """Raises InputError for a row that holds more than its header names: a comma without quotes has moved its values.

    `where`: file and line, for the message.
    """
    if any(v.strip() for v in values[len(header) :]):
        raise InputError(
            f"{where}: expected {len(header)} values, as in the header. Received {len(values)}: "
            f"{','.join(values)[:80]}",
            hint="A comma inside a value needs quotes, and numbers a decimal point.",
        )


def has_decimal_comma(text: str) -> bool:
    """Whether a text is a number as half of Europe writes it: 0,25 or 1.234,5."""
    return bool(_NUMBER_WITH_COMMA.fullmatch(text.strip()))


def parse_pixel_size(text: str) -> tuple[float, float]:
    """`0.25` or `0.25,0.26` → (x, y). Raises ValueError that says what was expected.

    `3,5` may be a decimal comma and is refused: read as two numbers it would be 3 by 5 µm/px.
    """
    parts = text.split(",")
    if len(parts) > 1 and not all("." in part for part in parts):
        raise ValueError(
            "expected µm/px with a decimal point (0.25, 8.0, or two as 0.25,0.26). "
            f"Received: {text!r}: a decimal comma?"
        )
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ValueError(f"expected µm/px, one number or two as X,Y. Received: {text!r}")
    return numbers[0], numbers[-1]


def find_file(folder: Path, text: str) -> Path:
    """`folder / text`, or the file there whose name differs in its Unicode form alone.

    A Mac writes ü as u and a mark, a spreadsheet as one letter; they look the same, and only one of them opens.
    """
    path = folder / text
    try:
        if path.exists():
            return path
    except OSError:  # e.g. a name longer than the system takes: the opening says so
        return path
    found = Path(path.anchor) if path.is_absolute() else Path()
    for part in path.relative_to(path.anchor).parts if path.is_absolute() else path.parts:
        following = found / part
        if part != ".." and not following.exists():
            same = _same_look(found, part)
            if same is None:
                return path
            following = same
        found = following
    return found


def _same_look(folder: Path, name: str) -> Path | None:
    """The one entry of the folder that looks like `name`; None: there is none, or several."""
    plain = unicodedata.normalize("NFC", name)
    try:
        found = [entry for entry in folder.iterdir() if unicodedata.normalize("NFC", entry.name) == plain]
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


def quote_formula(text: str) -> str:
    """A text that a spreadsheet would run as a formula, marked as text; `unquoted` takes the mark off again."""
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def unquoted(text: str) -> str:
    """The text before `quote_formula`."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text
