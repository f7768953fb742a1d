"""Tables as files: CSV, TSV, JSON lines and Parquet, read without guessing what a text might mean."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from resnet_hub.errors import DataError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
_SEPARATORS = (",", ";", "\t", "|")
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def is_table(path: Path) -> bool:
    """Whether a file is one that can name images; Parquet with the images in it is none."""
    kind = path.suffix.lower()
    return (
        kind in TABLE_SUFFIXES
        and not path.name.startswith((".", "~$"))  # hidden, or the lock of a spreadsheet
        and not (kind == ".parquet" and _has_bytes(path))
    )


def _has_bytes(parquet: Path) -> bool:
    try:
        types = pq.read_schema(parquet).types
    except (ValueError, OSError):
        return True  # `datasets` says what is wrong with it
    return any(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)
        for kind in types
    )


def read_table(path: Path) -> pa.Table:
    """The rows of a table file; DataError, with the file's name, if it is none.

    In CSV and TSV a cell is the text that stands there: `001`, `NA`, `None` and `nan` are texts like any
    other, and only an empty cell is missing. A column becomes whole numbers if each of its texts is written
    as numbers are, so that no two texts become one number; it becomes fractions if all texts are decimal
    numbers and one of them is no whole number.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        text = path.read_text(encoding="utf-8-sig")
        return _read_lines(path, text) if "json" in path.suffix.lower() else _read_cells(path, text)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text. Save it as UTF-8 (in a spreadsheet: CSV UTF-8)."
        ) from error
    except DataError:
        raise
    except (csv.Error, ValueError, OSError) as error:  # the errors of pyarrow are ValueErrors
        raise DataError(f"{path} cannot be read as a table: {error}. Repair or remove it.") from error


def _read_cells(path: Path, text: str) -> pa.Table:
    first_line, _, rest = text.partition("\n")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=first_line.count)
    is_spaced = rest.count(separator) == rest.count(f"{separator} ")  # `1.jpg, cat` in all rows
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=is_spaced, strict=True
    )
    header = [name.strip() for name in next(lines, [])]
    named = [name for name in header if name]  # tables written with row numbers leave the first name empty
    if not named or len(set(named)) < len(named):
        raise DataError(f"{path} has no header with a different name for each column: {first_line!r}.")
    rows: list[list[str]] = []
    for row in lines:
        if row and len(row) != len(header):
            raise DataError(
                f"Line {lines.line_num} of {path} has {len(row)} cells, the header has {len(header)}. Put "
                "texts with a separator in them in quotes."
            )
        rows += [row] if row else []
    return pa.table(
        {name: _as_column([row[number] for row in rows]) for number, name in enumerate(header) if name}
    )


def _as_column(cells: list[str]) -> pa.Array:
    filled = [cell if cell.strip() else None for cell in cells]
    if all(cell is None or _WHOLE_NUMBER.fullmatch(cell) for cell in filled) and any(filled):
        return pa.array([None if cell is None else int(cell) for cell in filled], pa.int64())
    if all(cell is None or _DECIMAL.fullmatch(cell) for cell in filled):
        numbers = [None if cell is None else float(cell) for cell in filled]
        if any(number is not None and not number.is_integer() for number in numbers):
            return pa.array(numbers, pa.float64())
    return pa.array(filled, pa.string())


def _read_lines(path: Path, text: str) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise DataError(f"Line {number} of {path} is no JSON object with a field per column.")
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: as_values([row.get(name) for row in rows]) for name in names})


def as_values(values: list[Any]) -> pa.Array:
    """The values with their own types; texts, if they have several."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else _as_text(value) for value in values], pa.string())


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
