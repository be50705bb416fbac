"""Text that people and programs write: CSV, JSON and numbers, read in one way everywhere.

Files are UTF-8, with or without a byte order mark. CSV is separated by comma, semicolon or tab;
blanks around values do not count, and "nan", as pandas writes what is missing, is an empty value.
What would be read wrong without a word is refused: two columns
or two keys of one name, rows of another length than the header, "nan" where a number is wanted.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowpipe.errors import AnnotationError, nearest_name, some

# What pandas, numpy and spreadsheets write where a value is missing.
MISSING_VALUES = frozenset({"nan", "NaN", "<NA>", "#N/A", "NaT"})


def csv_table(path: Path) -> list[tuple[str, list[str]]]:
    """Return the rows of a CSV file that hold anything, each with its place in the file in front.

    Values are separated by what the first line holds: comma, else semicolon, else tab.
    """
    lines = read_lines(path)
    blank = next((i for i, line in enumerate(lines) if line.strip()), 0)
    lines = lines[blank:]
    first = lines[0] if lines else ""
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=True)
    rows = []
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if any(values):
                rows.append((f"{path}, line {blank + reader.line_num}", values))
    except csv.Error as error:
        raise AnnotationError(
            f"{path}, line {blank + reader.line_num}: not valid CSV: {error}"
        ) from error
    return rows


def csv_rows(path: Path) -> tuple[list[str], list[tuple[str, Mapping[str, str]]]]:
    """Return (columns, rows) of a CSV file with a header; a row has its place in front."""
    table = csv_table(path)
    columns = table[0][1] if table else []
    return columns, with_header(path, columns, table[1:])


def with_header(
    path: Path, columns: Sequence[str], table: Sequence[tuple[str, Sequence[str]]]
) -> list[tuple[str, Mapping[str, str]]]:
    """Return rows by column; each must have as many values as there are columns."""
    if twice := [name for name, count in Counter(columns).items() if count > 1 and name]:
        raise AnnotationError(f"{path}: two columns are called {some(twice)}; rename one")
    rows: list[tuple[str, Mapping[str, str]]] = []
    for where, values in table:
        if len(values) != len(columns):
            raise AnnotationError(
                f"{where}: the row must have {len(columns)} values, like the header, but has "
                f"{len(values)}; put values that hold a comma into quotes"
            )
        known = ["" if value in MISSING_VALUES else value for value in values]
        rows.append((where, dict(zip(columns, known, strict=True))))
    return rows


def check_column(path: Path, columns: Sequence[str], *wanted: str, form: str = "") -> None:
    """Refuse columns that do not exist; `form` is what the columns should be."""
    for column in wanted:
        if column not in columns:
            raise AnnotationError(
                f'{path}: no column "{column}"{nearest_name(column, columns)}; '
                f"there are: {', '.join(columns) or '(none)'}{form and f'; the form is {form}'}"
            )


def find_column(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the first column called as one of those wanted, upper and lower case alike."""
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in wanted if name in lower), None)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text; only line breaks end them, not the separators of Unicode."""
    return io.StringIO(read_text(path)).readlines()


def read_text(path: Path) -> str:
    """Return a UTF-8 text without its byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: must be UTF-8 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Return what a JSON text holds; a key that is there twice is refused, as one would be lost."""
    try:
        return json.loads(text, object_pairs_hook=_table)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{where}: not valid JSON: {error}") from error


def parse_number(value: object, where: str) -> float:
    """Return a finite number; "1_000", true and nan are none, though Python takes them."""
    try:
        text = str(value)
        number = math.nan if isinstance(value, bool) or "_" in text else float(text)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise AnnotationError(f'{where}: "{str(value)[:60]}" is no finite number')
    return number


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"{some(twice)} is there twice in one table; keep one")
    return table
