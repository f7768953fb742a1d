"""The figures of a page as SVG data URIs: they need no file beside the page and can run no script."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from resnet_hub.finetuning.report.figures import confusion_figure
from resnet_hub.finetuning.report.reliability import ReliabilityBin
from resnet_hub.results import Score, wilson_interval

Events = Sequence[Mapping[str, Any]]

_WIDTH, _HEIGHT = 4.6, 3.0  # inches; two figures stand side by side on a wide page, one fills a phone's
_MOST_MARKED = 40  # points that are marked on a curve; more run into each other
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#475569")


def loss_curve(runs: Mapping[str, Events]) -> str | None:
    """Loss over the epochs, of training and of validation; None where nothing was trained."""
    figure, axes = _axes("epoch", "loss")
    for number, (name, events) in enumerate(runs.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        steps, scores = _of_kind(events, "train"), _of_kind(events, "validation")
        label = f"{name}: " if len(runs) > 1 else ""
        _curve(axes, steps, "loss", color=colour, label=f"{label}training", linewidth=1, alpha=0.8)
        validation = colour if len(runs) > 1 else _COLOURS[1]
        _curve(axes, scores, "loss", color=validation, label=f"{label}validation", linestyle="--")
    if not axes.lines:
        return None
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    return _with_legend(figure, axes)


def accuracy_curve(runs: Mapping[str, Events]) -> str | None:
    """Validation accuracy in percent over the epochs; None where there was no validation."""
    figure, axes = _axes("epoch", "validation accuracy, %")
    for number, (name, events) in enumerate(runs.items()):
        scores = [{**event, "percent": 100 * event["accuracy"]} for event in _of_kind(events, "validation")]
        colour = _COLOURS[number % len(_COLOURS)] if len(runs) > 1 else _COLOURS[1]
        _curve(axes, scores, "percent", color=colour, label=name)
    if not axes.lines:
        return None
    return _with_legend(figure, axes) if len(runs) > 1 else _data_uri(figure)


def rate_curve(events: Events) -> str | None:
    """Learning rate over the epochs; None where nothing was trained by steps."""
    figure, axes = _axes("epoch", "learning rate")
    _curve(axes, _of_kind(events, "train"), "learning_rate", color=_COLOURS[2])
    return _data_uri(figure) if axes.lines else None


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> str:
    """Accuracy of each bin with its 95 % interval, beside the line of one that is as right as it is sure."""
    figure, axes = _axes("confidence", "accuracy")
    width = bins[0].high - bins[0].low
    axes.plot([0, 1], [0, 1], color="#64748b", linewidth=1, linestyle="--")
    heights = np.array([found.accuracy for found in bins])
    limits = np.array(
        [wilson_interval(found.accuracy * found.num_images, found.num_images) for found in bins]
    )
    errors = np.abs(limits.T - heights)
    axes.bar([found.low + width / 2 for found in bins], heights, width=0.9 * width, color="#93c5fd")
    axes.errorbar(
        [found.confidence for found in bins],
        heights,
        yerr=errors,
        fmt="o",
        markersize=3,
        color=_COLOURS[0],
        elinewidth=1,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _data_uri(figure)


def confidence_histogram(bins: Sequence[ReliabilityBin]) -> str:
    """How many images were answered with which confidence."""
    figure, axes = _axes("confidence", "images")
    width = bins[0].high - bins[0].low
    places = [found.low + width / 2 for found in bins]
    axes.bar(places, [found.num_images for found in bins], width=0.9 * width, color="#94a3b8")
    axes.set(xlim=(0, 1))
    return _data_uri(figure)


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """The confusion matrix, named and with counts where the classes are few enough."""
    return _data_uri(confusion_figure(counts, class_names))


def accuracy_intervals(scores: Mapping[str, Score]) -> str:
    """The accuracies of several runs with their 95 % intervals, one below the other."""
    figure, axes = _axes("accuracy, %", "", height=0.8 + 0.3 * len(scores), width=2 * _WIDTH)
    for number, score in enumerate(scores.values()):
        low, high = score.accuracy_interval_95
        axes.plot([100 * low, 100 * high], [number, number], color="#93c5fd", linewidth=5)
        axes.plot(100 * score.accuracy, number, "o", color=_COLOURS[0], markersize=5)
    axes.set_yticks(range(len(scores)), [_plain(name) for name in scores], parse_math=False)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    return _data_uri(figure)


def _of_kind(events: Events, kind: str) -> list[Mapping[str, Any]]:
    return [event for event in events if event["event"] == kind]


def _curve(axes: Axes, events: Events, value: str, *, label: str = "", **style: Any) -> None:
    if not events:
        return
    marker = "." if len(events) <= _MOST_MARKED else ""
    found = [(event["epoch"], event[value]) for event in events]
    axes.plot(*zip(*found, strict=True), marker=marker, label=_plain(label) or None, **style)


def _axes(x: str, y: str, *, width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height))
        axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _with_legend(figure: Figure, axes: Axes) -> str:
    for text in axes.legend(frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    return _data_uri(figure)


def _data_uri(figure: Figure) -> str:
    """The figure with its text left as text, so that the reader's own fonts show every script."""
    file = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "resnet_hub"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts are used
        metadata = {"Date": None, "Creator": None}
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata=metadata)
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def _plain(text: str) -> str:
    """The text without what XML does not allow, which would leave the figure blank."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
