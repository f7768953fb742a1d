"""Predictions into a file, row by row as they come: CSV, JSON lines or Parquet."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from resnet_hub.errors import ConfigError, nearest
from resnet_hub.files import atomic_file, check_new_file
from resnet_hub.prediction.batches import ImagePrediction

_ROWS_AT_ONCE = 4096


class TableWriter(Protocol):
    """Takes one row after the other."""

    def add(self, row: ImagePrediction) -> None:
        """Write the predictions for one image."""
        ...


@contextmanager
def open_table(path: Path, *, top_k: int) -> Iterator[TableWriter]:
    """A writer for the file, which appears under its name once everything is in it.

    CSV has a column for each label and probability, JSON lines have a list of both in each line, Parquet
    has a list of labels and one of probabilities.
    """
    check_output(path)
    with atomic_file(path) as scratch:
        with _WRITERS[path.suffix](scratch, top_k) as writer:
            yield writer
        check_output(path)  # it may have come meanwhile


def check_output(path: Path) -> None:
    """Raise ConfigError for a file that exists or is of a kind that is not written here."""
    if path.suffix not in _WRITERS:
        raise ConfigError(f"--output {path}: {nearest(path.suffix, _WRITERS)}")
    check_new_file(path, flag="output")


class _CsvWriter:
    def __init__(self, file: TextIO, top_k: int) -> None:
        self._writer, self._top_k = csv.writer(file), top_k
        columns = (f"{what}_{place}" for place in range(1, top_k + 1) for what in ("label", "probability"))
        self._writer.writerow(["image", *columns])

    def add(self, row: ImagePrediction) -> None:
        cells = [cell for found in row.predictions for cell in (found.label, f"{found.probability:.6f}")]
        self._writer.writerow([row.name, *cells, *[""] * (2 * self._top_k - len(cells))])


class _JsonLinesWriter:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def add(self, row: ImagePrediction) -> None:
        self._file.write(json.dumps(as_record(row), ensure_ascii=False) + "\n")


class _ParquetWriter:
    def __init__(self, write: Callable[[dict[str, list[Any]]], None]) -> None:
        self._write = write
        self._rows: list[ImagePrediction] = []

    def add(self, row: ImagePrediction) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        columns = {
            "image": [row.name for row in self._rows],
            "labels": [[found.label for found in row.predictions] for row in self._rows],
            "probabilities": [[found.probability for found in row.predictions] for row in self._rows],
        }
        self._write(columns)
        self._rows = []


def as_record(row: ImagePrediction) -> dict[str, Any]:
    """A row for JSON."""
    return {"image": row.name, "predictions": [found._asdict() for found in row.predictions]}


@contextmanager
def _open_csv(path: Path, top_k: int) -> Iterator[TableWriter]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield _CsvWriter(file, top_k)


@contextmanager
def _open_json_lines(path: Path, top_k: int) -> Iterator[TableWriter]:
    with path.open("w", encoding="utf-8") as file:
        yield _JsonLinesWriter(file)


@contextmanager
def _open_parquet(path: Path, top_k: int) -> Iterator[TableWriter]:
    import pyarrow as pa  # noqa: PLC0415  only in some extras
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = pa.schema(
        {"image": pa.string(), "labels": pa.list_(pa.string()), "probabilities": pa.list_(pa.float32())}
    )
    with pq.ParquetWriter(path, schema) as file:
        writer = _ParquetWriter(lambda columns: file.write_table(pa.table(columns, schema=schema)))
        yield writer
        writer.flush()


_WRITERS = {".csv": _open_csv, ".jsonl": _open_json_lines, ".parquet": _open_parquet}
