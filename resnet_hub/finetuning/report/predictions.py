"""The predictions of a run, as written to `predictions.parquet` and read back for its page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from resnet_hub.errors import DataError
from resnet_hub.files import atomic_file


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model said of the images of one split, in the order of the split."""

    split: str
    rows: NDArray[np.int64]
    """Row of each image in the data set as it came, counted through all its splits."""
    labels: NDArray[Any]
    """int64 (images,), or float32 (images, classes) of zeros and ones for multi-label data."""
    probabilities: NDArray[np.float32]
    """(images, classes)."""

    @property
    def is_multi_label(self) -> bool:
        """Whether an image has any number of labels."""
        return self.labels.ndim == 2

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The highest probability of each image."""
        return self.probabilities.max(axis=1)

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether the most probable class is the true one; for multi-label data, whether all labels are."""
        if self.is_multi_label:
            return ((self.probabilities > 0.5) == (self.labels > 0.5)).all(axis=1)
        return self.probabilities.argmax(axis=1) == self.labels

    @property
    def truth_probability(self) -> NDArray[np.float32]:
        """Probability of the true class; for multi-label data, the least of any right answer."""
        if self.is_multi_label:
            return np.where(self.labels > 0.5, self.probabilities, 1 - self.probabilities).min(axis=1)
        return self.probabilities[np.arange(len(self.labels)), self.labels]

    def confident_mistakes(self, at_most: int) -> NDArray[np.int64]:
        """Positions of the wrong answers, the most confident first."""
        wrong = np.flatnonzero(~self.is_right)
        sureness = 1 - self.truth_probability if self.is_multi_label else self.confidence
        return wrong[np.argsort(-sureness[wrong], kind="stable")][:at_most]

    def hardest(self, at_most: int, *, besides: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the images with the least probability for the truth that are not among `besides`."""
        order = np.argsort(self.truth_probability, kind="stable")
        return order[~np.isin(order, besides)][:at_most]


def write_predictions(parts: Sequence[Predictions], class_names: Sequence[str], path: Path) -> None:
    """Write one row per evaluated image."""
    tables = []
    for part in parts:
        best = part.probabilities.argmax(axis=1)
        columns = {
            "split": [part.split] * len(part.rows),
            "row": part.rows,
            "label": [_label_text(label, class_names) for label in part.labels],
            "predicted": [class_names[number] for number in best],
            "probability": part.confidence.astype(float),
            "probabilities": _as_lists(part.probabilities),
        }
        tables.append(pa.table(columns))
    if tables:
        with atomic_file(path) as scratch:
            pq.write_table(pa.concat_tables(tables), scratch)


def read_predictions(
    path: Path, split: str, class_names: Sequence[str], *, multi_label: bool
) -> Predictions | None:
    """The predictions on one split; None where the file has none. Raises DataError if it is damaged."""
    if not path.is_file():
        return None
    try:
        return _read(path, split, class_names, multi_label=multi_label)
    except (OSError, ValueError, KeyError) as error:  # of pyarrow, too
        raise DataError(
            f"{path} is damaged ({str(error)[:100]}). Remove it to do without, or write it again: resnet-hub "
            f"validate {path.parent} --output_dir NEW"
        ) from error


def _read(path: Path, split: str, class_names: Sequence[str], *, multi_label: bool) -> Predictions | None:
    table = pq.read_table(path, columns=["row", "label", "probabilities"], filters=[("split", "==", split)])
    if not table.num_rows:
        return None
    numbers = {name: number for number, name in enumerate(class_names)}
    texts = table["label"].to_pylist()
    if multi_label:
        labels = np.zeros((len(texts), len(class_names)), dtype=np.float32)
        for row, text in enumerate(texts):
            labels[row, [numbers[name] for name in json.loads(text)]] = 1
    else:
        labels = np.array([numbers[text] for text in texts], dtype=np.int64)
    lists: Any = table["probabilities"].combine_chunks()
    shares = lists.flatten().to_numpy()
    return Predictions(
        split=split,
        rows=table["row"].to_numpy().astype(np.int64),
        labels=labels,
        probabilities=shares.reshape(len(texts), len(class_names)).astype(np.float32),
    )


def _as_lists(values: NDArray[np.float32]) -> pa.LargeListArray:
    """A list for each row, whose numbers are not copied: of many classes they are gigabytes."""
    num_rows, num_columns = values.shape
    offsets = np.arange(num_rows + 1, dtype=np.int64) * num_columns
    return pa.LargeListArray.from_arrays(offsets, np.ascontiguousarray(values).ravel())


def _label_text(label: Any, names: Sequence[str]) -> str:
    """The class name of a label; of a multi-label one the names, as JSON."""
    if np.ndim(label) == 0:
        return names[int(label)]
    found = [name for name, value in zip(names, label, strict=True) if value]
    return json.dumps(found, ensure_ascii=False)
