"""The tables of a page, as rows of plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_hub.finetuning.engine.stopwatch import STATIONS
from resnet_hub.finetuning.report.predictions import Predictions
from resnet_hub.results import ExportedWeights, Score, SplitRecord, TrainRecord

MAX_CLASS_ROWS = 2000  # of more classes the ones with the lowest F1; `report.json` has all
_PAIRS_SHOWN = 10

_STATION_TEXTS = {
    "fit_fc": "linear probe: fitting fc to features of the frozen network",
    "data": "waiting for images",
    "forward": "forward pass, with normalization and mixing",
    "backward": "backward pass",
    "optimizer": "loss over all processes, clipping and the optimizer's step",
    "evaluation": "validation and test",
    "saving": "writing checkpoints",
}


def tiles(
    splits: Mapping[str, SplitRecord],
    train: TrainRecord | None,
    exported: ExportedWeights | None,
    num_parameters: int | None,
    image_size: int | None,
) -> list[tuple[str, str, str]]:
    """Name, value and a note of the figures of a run that are not scores."""
    found = []
    if splits:
        parts = " · ".join(f"{split.num_images:,}\u00a0{name}" for name, split in splits.items())
        found.append(("Images", f"{sum(split.num_images for split in splits.values()):,}", parts))
    if train is not None:
        kept = (
            "linear probe"
            if exported and not exported.epoch
            else f"epoch {exported.epoch if exported else 0}"
        )
        if train.epochs:
            found.append(("Epochs", f"{train.epochs:,}", f"exported: {kept}" if exported else ""))
        else:
            found.append(("Training", "linear probe", "only fc is fitted"))
        found.append(("Time", duration(train.seconds), f"{train.images_per_second:,.0f} images/s"))
    if num_parameters is not None:
        size = f"{num_parameters / 1e6:.3g} M parameters" + (f", {image_size} px" if image_size else "")
        found.append(("Model size", f"{4 * num_parameters / 1e6:,.3g}\u00a0MB", size))
    return found


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.0f}\u00a0min" if seconds < 6000 else f"{seconds / 3600:.1f}\u00a0h"


def flat(
    values: Mapping[str, Any], prefix: str = "", *, besides: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Names and values of nested settings as rows: `machine.device`, `cpu`; what is unset is left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if key in besides:
            continue
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        elif value is not None and value not in ("", [], ()):
            rows.append((f"{prefix}{key}", text(value)))
    return rows


def data_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was understood of a data set, besides its splits."""
    if not data:
        return []
    sizes = {name: "×".join(map(str, size)) for name, size in data["image_sizes"].items()}
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in data["image_kinds"].items())
    return [
        ("columns", f"images in {data['image_column']!r}, labels in {data['label_column']!r}"),
        *([("labels", data["labels_read"])] if "labels_read" in data else []),
        ("image sizes", f"{sizes['smallest']} to {sizes['largest']}, median {sizes['median']}"),
        ("image files", kinds),
        *(
            (f"images per class, {name}", f"{min(counts):,} to {max(counts):,}")
            for name, counts in data["class_counts"].items()
        ),
        *(("note", note) for note in data["notes"]),
    ]


def class_rows(score: Score, predictions: Predictions | None) -> list[dict[str, Any]]:
    """A row per class; with the class that it is most often taken for, where classes exclude each other."""
    others = _taken_for(score, predictions)
    rows = [
        {
            "name": found.name,
            "num_images": found.num_images,
            "precision": found.precision,
            "recall": found.recall,
            "f1": found.f1,
            "taken_for": other,
        }
        for found, other in zip(score.per_class, others, strict=True)
    ]
    return rows if len(rows) <= MAX_CLASS_ROWS else sorted(rows, key=lambda row: row["f1"])[:MAX_CLASS_ROWS]


def station_rows(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Station, what is done there, seconds, and the share of all that was measured."""
    total = sum(seconds.values())
    return [
        {
            "name": name.replace("_", " "),
            "text": _STATION_TEXTS[name],
            "seconds": seconds[name],
            "share": seconds[name] / total,
        }
        for name in STATIONS
        if seconds.get(name, 0) > 0
    ]


def most_confused(predictions: Predictions, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The commonest confusions: true class, predicted class, images, and their share of the true class."""
    return [
        {
            "true": class_names[true],
            "predicted": class_names[predicted],
            "num_images": count,
            "share": count / int((predictions.labels == true).sum()),
        }
        for true, predicted, count in _confusions(predictions)[:_PAIRS_SHOWN]
    ]


def text(value: Any) -> str:
    """A value as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _taken_for(score: Score, predictions: Predictions | None) -> list[str]:
    names = [found.name for found in score.per_class]
    if predictions is None or predictions.is_multi_label:
        return [""] * len(names)
    commonest: dict[int, str] = {}
    for true, predicted, count in _confusions(predictions):
        commonest.setdefault(true, f"{names[predicted]} ({count})")
    return [commonest.get(number, "") for number in range(len(names))]


def _confusions(predictions: Predictions) -> list[tuple[int, int, int]]:
    """True class, predicted class and number of images of every confusion that occurs, commonest first."""
    num_classes = predictions.probabilities.shape[1]
    predicted = predictions.probabilities.argmax(axis=1)
    pairs = (predictions.labels * num_classes + predicted)[predicted != predictions.labels]
    codes, counts = np.unique(pairs, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    true, other = np.divmod(codes[order], num_classes)
    return list(zip(true.tolist(), other.tolist(), counts[order].tolist(), strict=True))
