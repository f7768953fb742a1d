"""The pictures of a run, all drawn by matplotlib: SVG inside a page, PNG beside a model card."""

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from resnet_hub.finetuning.report.reliability import ReliabilityBin
from resnet_hub.results import Score, wilson_interval

Events = Sequence[Mapping[str, Any]]

MAX_DRAWN_CLASSES = 1000  # of more than this a confusion matrix has more cells than a picture has pixels
MAX_NAMED_CLASSES = 40  # more names than this cannot be read along an axis

_WIDTH, _HEIGHT = 5.0, 3.4  # inches: 360 points, which a phone shows as 360 pixels
_FONT_SIZE = 12  # points, and so pixels on a phone
_MOST_MARKED = 40  # points that are marked on a curve; more run into each other
_SHEET_COLUMNS = 8
_SMALLEST_SHOWN = 64  # pixels; smaller images of a batch are enlarged by a whole factor

_INK = "#010203"  # in an SVG it becomes the text color of the page, dark or light
_MUTED = "#8a94a3"  # legible on white and on black, as are the colors of curves
_COLORS = ("#3b82f6", "#c47500", "#10a37f", "#a855f7", "#ef4444", "#0ea5b7", "#84a300", "#64748b")
_SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "mean_average_precision": "mAP"}
_RIGHT, _WRONG = (59, 130, 246), (239, 68, 68)  # of the confusion matrix, as red, green, blue


def was_trained(events: Events) -> bool:
    """Whether there are curves to draw: something was measured after a step of training."""
    return any(event["step"] > 0 for event in events if event["event"] in ("train", "validation"))


def loss_curve(
    runs: Mapping[str, Events], *, kept_epoch: int | None = None, trained_with: str = ""
) -> Figure | None:
    """Loss over the epochs, of training and of validation; None where nothing was trained.

    Training's is named by what sets it apart from validation's, `trained_with`.
    """
    figure, axes = _chart("epoch", "loss")
    return figure if _draw_losses(axes, runs, kept_epoch, trained_with) else None


def score_curve(runs: Mapping[str, Events], *, kept_epoch: int | None = None) -> Figure | None:
    """Validation accuracy over the epochs, with macro F1 for one run; None without validation."""
    figure, axes = _chart("epoch", _score_title(runs))
    return figure if _draw_scores(axes, runs, kept_epoch) else None


def learning_curves(events: Events, *, kept_epoch: int | None = None, trained_with: str = "") -> Figure:
    """Loss and validation scores of one run side by side."""
    runs = {"": events}
    figure, (losses, scores) = _charts(("epoch", "loss"), ("epoch", _score_title(runs)))
    _draw_losses(losses, runs, kept_epoch, trained_with)
    _draw_scores(scores, runs, kept_epoch)
    return figure


def rate_curve(events: Events) -> Figure | None:
    """Learning rate over the epochs; None where nothing was trained by steps."""
    figure, axes = _chart("epoch", "learning rate")
    _curve(axes, _of_kind(events, "train"), "learning_rate", color=_COLORS[2])
    return figure if axes.lines else None


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> Figure:
    """Accuracy of each bin with its 95 % interval, beside the line of perfect calibration."""
    figure, axes = _chart("confidence", "accuracy")
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle="--")
    heights = np.array([found.accuracy for found in bins])
    limits = [wilson_interval(found.accuracy * found.num_images, found.num_images) for found in bins]
    _bars(axes, bins, heights, color=_COLORS[0], alpha=0.35)
    axes.errorbar(
        [found.confidence for found in bins],
        heights,
        yerr=np.abs(np.array(limits).T - heights),
        fmt="o",
        markersize=4,
        color=_COLORS[0],
        elinewidth=1.5,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return figure


def confidence_histogram(bins: Sequence[ReliabilityBin]) -> Figure:
    """How many images were answered with which confidence."""
    figure, axes = _chart("confidence", "images")
    _bars(axes, bins, [found.num_images for found in bins], color=_MUTED)
    axes.set(xlim=(0, 1))
    return figure


def accuracy_intervals(scores: Mapping[str, Score]) -> Figure:
    """The accuracies of several runs with their 95 % intervals, one below the other."""
    figure, axes = _chart("accuracy, %", "", height=1.0 + 0.4 * len(scores))
    for number, score in enumerate(scores.values()):
        limits = [100 * limit for limit in score.accuracy_interval_95]
        axes.plot(limits, [number, number], color=_COLORS[0], alpha=0.4, linewidth=6)
        axes.plot(100 * score.accuracy, number, "o", color=_COLORS[0], markersize=6)
    axes.set_yticks(range(len(scores)), [_shorten(name) for name in scores], parse_math=False)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    return figure


def largest_confusion(counts: np.ndarray) -> float:
    """The largest share of a true class that is taken for one other class: the darkest red of the matrix."""
    return float(_shares(counts)[~np.eye(len(counts), dtype=bool)].max(initial=0))


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Confusion matrix, rows true and columns predicted, with counts where names can be read.

    The diagonal is colored by its share of the true class, everything else by its share of the largest
    share that is wrong: few mistakes of a good model would be invisible on the diagonal's scale.
    """
    names = [_shorten(name) for name in class_names]
    is_named = len(names) <= MAX_NAMED_CLASSES
    size = max(_WIDTH, 0.5 + 0.1 * max(map(len, names)) + 0.4 * len(names)) if is_named else _WIDTH
    figure, axes = _chart("predicted", "true", width=size, height=size)
    axes.imshow(_confusion_colors(counts), interpolation="none")
    axes.grid(visible=False)
    if is_named:
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        for row, column in np.argwhere(counts):
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", size=10, color=_INK)
    return figure


def draw_batch(images: Tensor, *, at_most: int = 64) -> Image.Image:
    """The first images of a batch side by side, in rows of eight.

    Args:
        images: uint8 (batch, channels, height, width), before normalization, as `Batch.images` are.
        at_most: Number of images shown.
    """
    grid = make_grid(images[:at_most], nrow=min(_SHEET_COLUMNS, len(images)), padding=2, pad_value=255)
    picture = to_pil_image(grid.to(torch.uint8))
    scale = max(1, _SMALLEST_SHOWN // images.shape[-1])
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def as_svg(figure: Figure, description: str) -> Markup:
    """The figure as an element of a page, in whose color and fonts its text appears."""
    file = io.StringIO()
    # The salt keeps the ids of two figures on a page apart.
    with _any_letters(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata={**nothing, "Title": description})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") + 4 :]
    # Out with what applies to the whole document around it, and with names that every figure has.
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<\w+) id="[a-z0-9.]+_\d+"', r"\1", svg)
    svg = re.sub(r'(<text style="[^"]*?font-family: )[^;"]*', r"\1inherit", svg)
    svg = re.sub(f"(fill|stroke): {_INK}", r"\1: currentColor", svg)
    style = f"--natural: {72 * figure.get_figwidth():.0f}px"
    return Markup(
        f'<svg class="chart" role="img" aria-label="{html.escape(description)}" style="{style}"{svg}'
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """The path of the figure's picture, written in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _any_letters():
        figure.savefig(path, dpi=120)
    return path


@contextmanager
def _any_letters() -> Iterator[None]:
    """Letters that matplotlib's font lacks are no warning: pages use the reader's fonts, PNGs show boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(*, width: float = _WIDTH, height: float = _HEIGHT) -> Figure:
    """An empty figure, its size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def _draw_losses(axes: Axes, runs: Mapping[str, Events], kept_epoch: int | None, trained_with: str) -> bool:
    for number, (name, events) in enumerate(runs.items()):
        color = _COLORS[number % len(_COLORS)]
        steps, scores = _of_kind(events, "train"), _of_kind(events, "validation")
        prefix, trained = (f"{name}: ", color) if len(runs) > 1 else ("", _MUTED)
        label = f"{prefix}training" + (f" ({trained_with})" if trained_with else "")
        _curve(axes, steps, "loss", color=trained, label=label, linewidth=1.3, linestyle="--")
        _curve(axes, scores, "loss", color=color, label=f"{prefix}validation")
        _mark_kept(axes, scores, "loss", kept_epoch)
    if axes.lines:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        _legend(axes)
    return bool(axes.lines)


def _score_title(runs: Mapping[str, Events]) -> str:
    return "validation, %" if len(runs) == 1 else "validation accuracy, %"


def _draw_scores(axes: Axes, runs: Mapping[str, Events], kept_epoch: int | None) -> bool:
    metrics = list(_SCORES) if len(runs) == 1 else ["accuracy"]
    for number, (name, events) in enumerate(runs.items()):
        for place, metric in enumerate(metrics):
            found = [event for event in _of_kind(events, "validation") if metric in event]
            percent = [{**event, metric: 100 * event[metric]} for event in found]
            style = {"linestyle": "--"} if place else {}  # they often lie on one another
            style |= {"color": _COLORS[(number + place) % len(_COLORS)]}
            _curve(axes, percent, metric, label=name if len(runs) > 1 else _SCORES[metric], **style)
        scores = [{**event, "accuracy": 100 * event["accuracy"]} for event in _of_kind(events, "validation")]
        _mark_kept(axes, scores, "accuracy", kept_epoch)
    if axes.lines:
        _legend(axes)
    return bool(axes.lines)


def _mark_kept(axes: Axes, scores: Events, value: str, kept_epoch: int | None) -> None:
    """A ring around the validation whose weights were exported; epoch 0 is the linear probe."""
    validated = [event for event in scores if bool(event["step"]) == bool(kept_epoch)]
    if kept_epoch is None or len(validated) < max(1, kept_epoch):
        return
    event = validated[max(0, kept_epoch - 1)]
    label = f"exported: epoch {kept_epoch}" if kept_epoch else "exported: linear probe"
    ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": _INK, "markeredgewidth": 1.8}
    axes.plot(event["epoch"], event[value], "o", **ring, label=label, clip_on=False, zorder=5)


def _of_kind(events: Events, kind: str) -> list[Mapping[str, Any]]:
    return [event for event in events if event["event"] == kind]


def _curve(axes: Axes, events: Events, value: str, *, label: str = "", **style: Any) -> None:
    if events:
        marker = "." if len(events) <= _MOST_MARKED and "linestyle" not in style else ""
        found = [(event["epoch"], event[value]) for event in events]
        axes.plot(*zip(*found, strict=True), marker=marker, label=_plain(label) or None, **style)


def _chart(x: str, y: str, *, width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure, (axes,) = _charts((x, y), width=width, height=height)
    return figure, axes


def _charts(
    *titles: tuple[str, str], width: float = _WIDTH, height: float = _HEIGHT
) -> tuple[Figure, list[Axes]]:
    """Axes side by side, each with the titles of its x and y axis, each `width` x `height` inches."""
    sides: Any = {f"axes.spines.{side}": False for side in ("top", "right")}
    inks: Any = dict.fromkeys(
        ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), _INK
    )
    with mpl.rc_context({"font.size": _FONT_SIZE, **sides, **inks}):
        figure = new_figure(width=width * len(titles), height=height)
        found = [figure.add_subplot(1, len(titles), number + 1) for number in range(len(titles))]
    for axes, (x, y) in zip(found, titles, strict=True):
        axes.set(xlabel=x, ylabel=y)
        axes.grid(color=_MUTED, alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
        if x == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, found


def _legend(axes: Axes) -> None:
    for text in axes.legend(frameon=False, fontsize=_FONT_SIZE - 1, labelcolor=_INK).get_texts():
        text.set_parse_math(False)


def _bars(axes: Axes, bins: Sequence[ReliabilityBin], heights: Any, **style: Any) -> None:
    width = bins[0].high - bins[0].low
    axes.bar([found.low + width / 2 for found in bins], heights, width=0.9 * width, **style)


def _confusion_colors(counts: np.ndarray) -> np.ndarray:
    """RGBA uint8 (classes, classes, 4); what is not there is transparent, so any page shows through."""
    shares, is_right = _shares(counts), np.eye(len(counts), dtype=bool)
    largest = max(largest_confusion(counts), 1e-9)
    strength = np.where(is_right, 0.7 * shares, (0.12 + 0.6 * shares / largest) * (shares > 0))
    color = np.where(is_right[..., None], _RIGHT, _WRONG)
    return np.concatenate([color, np.rint(255 * strength)[..., None]], axis=-1).astype(np.uint8)


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _shorten(name: str, *, limit: int = 24) -> str:
    flat = " ".join(_plain(name).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _plain(text: str) -> str:
    """The text without what XML does not allow, which would leave the figure blank."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
