"""Pictures of a run: learning curves and the confusion matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

MAX_DRAWN_CLASSES = 1000  # of more than this a confusion matrix has more cells than a picture has pixels
MAX_NAMED_CLASSES = 40  # more names than this cannot be read along an axis


def draw_learning_curves(events: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Loss and validation accuracy over the epochs, from the events of `metrics.jsonl`."""
    steps = [event for event in events if event["event"] == "train"]
    scores = [event for event in events if event["event"] == "validation"]
    figure = new_figure(width=9, height=3.6)
    losses, accuracies = figure.subplots(1, 2)
    losses.plot([e["epoch"] for e in steps], [e["loss"] for e in steps], label="training", linewidth=1)
    losses.plot([e["epoch"] for e in scores], [e["loss"] for e in scores], label="validation", marker=".")
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    losses.legend()
    accuracies.plot(
        [e["epoch"] for e in scores], [100 * e["accuracy"] for e in scores], marker=".", color="tab:orange"
    )
    accuracies.set(xlabel="epoch", ylabel="validation accuracy in %")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
    return save_figure(figure, path)


def draw_confusion_matrix(counts: np.ndarray, class_names: Sequence[str], path: Path) -> Path:
    """Confusion matrix, rows true and columns predicted, in shares of the true class."""
    return save_figure(confusion_figure(counts, class_names), path)


def confusion_figure(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The figure of a confusion matrix, with names and counts where the classes are few enough to read."""
    num_classes = len(class_names)
    is_named = num_classes <= MAX_NAMED_CLASSES
    size = min(12.0, 3.0 + 0.35 * num_classes)
    figure = new_figure(width=size + 1, height=size)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    axes.set(xlabel="predicted", ylabel="true")
    if is_named:
        names = [_shorten(name) for name in class_names]
        axes.set_xticks(range(num_classes), names, rotation=90, parse_math=False)
        axes.set_yticks(range(num_classes), names, parse_math=False)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour
            )
    return figure


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure, its size in inches."""
    with mpl.rc_context({"font.size": 9}):
        return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> Path:
    """The path of the figure's picture, written in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


def _shorten(name: str, *, limit: int = 24) -> str:
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
