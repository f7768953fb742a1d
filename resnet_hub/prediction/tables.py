"""Write predictions row by row as CSV, JSON lines or Parquet."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from resnet_hub.csv_cells import to_cell
from resnet_hub.errors import ConfigError, nearest
from resnet_hub.files import atomic_file, check_new_file
from resnet_hub.prediction.batches import ImagePrediction

AddRow = Callable[[ImagePrediction], None]

_ROWS_AT_ONCE = 4096


@contextmanager
def open_table(path: Path, *, top_k: int) -> Iterator[AddRow]:
    """A function that adds rows; the file appears once all of them are written.

    CSV has a column for each label and probability, with an apostrophe before texts that a spreadsheet would
    take for a formula; JSON lines have a list of both in each line, Parquet
    has a list of labels and one of probabilities.
    """
    check_output(path)
    with atomic_file(path) as scratch:
        with _WRITERS[path.suffix](scratch, top_k) as add:
            yield add
        check_output(path)  # it may have come meanwhile


def check_output(path: Path) -> None:
    """Raise ConfigError for a file that exists or has an unknown ending."""
    if path.suffix not in _WRITERS:
        raise ConfigError(f"--output {path}: {nearest(path.suffix, _WRITERS)}")
    check_new_file(path, flag="output")


def as_record(row: ImagePrediction) -> dict[str, Any]:
    """A row for JSON."""
    return {"image": row.name, "predictions": [found._asdict() for found in row.predictions]}


@contextmanager
def _open_csv(path: Path, top_k: int) -> Iterator[AddRow]:
    head = [f"{what}_{place}" for place in range(1, top_k + 1) for what in ("label", "probability")]

    def add(row: ImagePrediction) -> None:
        cells = ((to_cell(found.label), f"{found.probability:.6f}") for found in row.predictions)
        writer.writerow([to_cell(row.name), *chain.from_iterable(cells)])

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *head])
        yield add


@contextmanager
def _open_json_lines(path: Path, top_k: int) -> Iterator[AddRow]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda row: print(json.dumps(as_record(row), ensure_ascii=False), file=file)


@contextmanager
def _open_parquet(path: Path, top_k: int) -> Iterator[AddRow]:
    import pyarrow as pa  # noqa: PLC0415  only in some extras
    import pyarrow.parquet as pq  # noqa: PLC0415

    labels, shares = pa.list_(pa.string()), pa.list_(pa.float32())
    schema = pa.schema({"image": pa.string(), "labels": labels, "probabilities": shares})
    rows: list[dict[str, Any]] = []

    def write() -> None:
        file.write_table(pa.Table.from_pylist(rows, schema=schema))
        rows.clear()

    def add(row: ImagePrediction) -> None:
        names = [found.label for found in row.predictions]
        values = [found.probability for found in row.predictions]
        rows.append({"image": row.name, "labels": names, "probabilities": values})
        if len(rows) == _ROWS_AT_ONCE:
            write()

    with pq.ParquetWriter(path, schema) as file:
        yield add
        write()


_WRITERS = {".csv": _open_csv, ".jsonl": _open_json_lines, ".parquet": _open_parquet}
