"""The page of a run: one HTML file that asks nothing of a network.

A `Page` is a plain record; `page_of_run` reads one from a run's folder, at the end of the run or years later,
and whoever scores a model without training it can make one with the curves left out.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resnet_hub.csv_cells import from_cell
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import plain_values
from resnet_hub.finetuning.network.build import IN_MEMORY
from resnet_hub.finetuning.report import figures, page_tables
from resnet_hub.finetuning.report.curves import curve_charts
from resnet_hub.finetuning.report.figures import MAX_DRAWN_CLASSES, as_svg
from resnet_hub.finetuning.report.html import document, embedded_picture, fragment
from resnet_hub.finetuning.report.metrics import confusion_counts
from resnet_hub.finetuning.report.predictions import Predictions, read_predictions
from resnet_hub.finetuning.report.reliability import reliability_bins
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.results import DatasetRecord, ExportedWeights, RunReport, Score, SplitRecord, TrainRecord

Part = Literal["scores", "curves", "mistakes"]

PICTURES_SHOWN = 12  # mistakes, and as many hard examples
SUSPECTS_SHOWN = 20
_SHEET_WIDTH = 960  # pixels

_SHEETS = {
    "train_batch.png": "The first images of training, as the network gets them, augmentation included.",
    "validation_batch.png": "The first images of validation, as the network gets them.",
}


@dataclass(frozen=True, kw_only=True)
class Page(DatasetRecord):
    """What a page shows; a part that is empty or None is left out."""

    model: str
    base_model: str | None = None
    num_parameters: int | None = None
    image_size: int | None = None
    exported: ExportedWeights | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Split -> score; the last one is what the page is about."""
    splits: Mapping[str, SplitRecord] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """What was understood of the data set, as `RunReport.data`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Option -> value of those that had an effect."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Option -> value of those that the user gave."""
    decided: Mapping[str, Any] = field(default_factory=dict)
    """Option -> value of those that the rule decided."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    """What it does -> command."""
    events: Sequence[Mapping[str, Any]] = ()
    """The lines of `metrics.jsonl`."""
    train: TrainRecord | None = None
    predictions: Predictions | None = None
    """On the last split of `scores`."""
    pictures: Mapping[int, Path] = field(default_factory=dict)
    """Row of an image in the data set -> file that shows it."""
    suspects: Sequence[Mapping[str, str]] = ()
    """The lines of `suspects.csv`, the strongest first."""
    suspect_pictures: Mapping[int, Path] = field(default_factory=dict)
    """As `pictures`, of the training split."""
    sheets: Mapping[str, Path] = field(default_factory=dict)
    """Caption -> picture of a batch."""

    @property
    def shown(self) -> str:
        """The split that the page is about; empty where nothing was scored."""
        return list(self.scores)[-1] if self.scores else ""

    @property
    def title(self) -> str:
        """What the page is about, in one line."""
        return f"{self.model} on {self.dataset}"


def page_of_run(folder: RunFolder, report: RunReport) -> Page:
    """The page of a run, from the files of its folder; `report` may not have been written yet."""
    scores = {"validation": report.validation, "test": report.test}
    found = {name: score for name, score in scores.items() if score is not None}
    shown = list(found)[-1] if found else ""
    sheets = {caption: folder.plots / name for name, caption in _SHEETS.items()}
    applied = report.applied_recipe
    asked = {name: value for name, value in report.asked.items() if name in applied}
    return Page(
        **report.dataset_fields(),
        model=report.model,
        base_model=report.base_model,
        num_parameters=report.num_parameters,
        image_size=report.image_size,
        exported=report.exported,
        scores=found,
        splits=report.splits,
        data=report.data,
        settings=applied,
        asked=asked,
        decided={
            name: applied[name]
            for name, default in plain_values(FinetuneConfig()).items()
            if asked and default is None and name not in asked and applied.get(name) is not None
        },
        environment=report.environment,
        commands=_commands(report),
        events=folder.events(),
        train=report.train,
        predictions=read_predictions(
            folder.predictions, shown, report.class_names, multi_label=report.multi_label
        ),
        pictures=_pictures(folder, shown),
        suspects=_suspects(folder),
        suspect_pictures=_pictures(folder, "train"),
        sheets={caption: path for caption, path in sheets.items() if path.is_file()},
    )


def render_page(page: Page) -> str:
    """The HTML of a page; every text from outside is escaped."""
    shown = page.shown
    return document(
        "report.html",
        title=page.title,
        asked=page_tables.flat(page.asked),
        decided=page_tables.flat(page.decided),
        settings=page_tables.flat(page.settings),
        data_rows=page_tables.data_rows(page.data),
        class_rows=page_tables.class_rows(page.scores[shown], page.predictions) if shown else [],
        suspects=[_suspect(page, line) for line in page.suspects[:SUSPECTS_SHOWN]],
        stations=page_tables.station_rows(page.train.station_seconds) if page.train else [],
        environment=page_tables.flat(page.environment, besides=("facts", "command")),
        sheets={caption: embedded_picture(path, width=_SHEET_WIDTH) for caption, path in page.sheets.items()},
        **_score_values(page),
        **_curve_values(page),
        **_example_values(page),
        **_prediction_charts(page),
    )


def page_fragment(page: Page, parts: Sequence[Part] = ("scores", "curves", "mistakes")) -> str:
    """Parts of a page as HTML for a notebook: it stands alone, and its style applies to nothing around it."""
    values = {"scores": _score_values, "curves": _curve_values, "mistakes": _example_values}
    found = _score_values(page)
    for part in parts:
        found |= values[part](page)
    return fragment("fragment.html", parts=parts, **found)


def _score_values(page: Page) -> dict[str, Any]:
    return {
        "page": page,
        "shown": page.shown,
        "score": page.scores[page.shown] if page.shown else None,
        "tiles": page_tables.tiles(
            page.splits, page.train, page.exported, page.num_parameters, page.image_size
        ),
        "lost_to_probe": _lost_to_probe(page),
    }


def _lost_to_probe(page: Page) -> str:
    """What to say where epochs of training were for nothing; empty otherwise."""
    if page.exported is None or page.exported.epoch or page.train is None or not page.train.epochs:
        return ""
    return f"Exported: {page.exported.describe(page.train.epochs)}"


def _curve_values(page: Page) -> dict[str, Any]:
    kept = None if page.exported is None else page.exported.epoch
    drawn = curve_charts(
        page.events,
        page.settings,
        num_classes=len(page.class_names),
        multi_label=page.multi_label,
        kept_epoch=kept,
    )
    return {"curves": drawn}


def _example_values(page: Page) -> dict[str, Any]:
    """The mistakes and the hardest other images; empty without predictions."""
    predictions = page.predictions
    if predictions is None:
        return {"mistakes": [], "hardest": [], "num_mistakes": 0}
    mistakes = predictions.confident_mistakes(PICTURES_SHOWN)
    hardest = predictions.hardest(PICTURES_SHOWN, besides=mistakes)
    return {
        "mistakes": [_example(page, predictions, int(place)) for place in mistakes],
        "hardest": [_example(page, predictions, int(place)) for place in hardest],
        "num_mistakes": int((~predictions.is_right).sum()),
    }


def _prediction_charts(page: Page) -> dict[str, Any]:
    """Confusion and calibration, which multi-label data has not."""
    predictions = page.predictions
    if predictions is None or predictions.is_multi_label:
        return {
            "confusion": None,
            "largest_confusion": 0.0,
            "confused": [],
            "reliability": None,
            "histogram": None,
        }
    counts = confusion_counts(predictions)
    drawn = None
    if len(counts) <= MAX_DRAWN_CLASSES:  # of more nothing could be seen
        drawn = as_svg(
            figures.confusion_matrix(counts, page.class_names),
            f"Confusion matrix of the {predictions.split} split",
        )
    bins = reliability_bins(predictions.confidence.astype(np.float64), predictions.is_right)
    return {
        "confusion": drawn,
        "largest_confusion": figures.largest_confusion(counts),
        "confused": page_tables.most_confused(predictions, page.class_names),
        "reliability": as_svg(figures.reliability_diagram(bins), "Reliability diagram"),
        "histogram": as_svg(figures.confidence_histogram(bins), "Histogram of confidence"),
    }


def _example(page: Page, predictions: Predictions, place: int) -> dict[str, Any]:
    """One image with what is true of it and what was predicted."""
    row = int(predictions.rows[place])
    path = page.pictures.get(row)
    shares = predictions.probabilities[place]
    if predictions.is_multi_label:
        true = np.flatnonzero(predictions.labels[place] > 0.5).tolist()
        predicted = np.flatnonzero(shares > 0.5).tolist()
    else:
        true, predicted = [int(predictions.labels[place])], [int(shares.argmax())]
    return {
        "row": row,
        "picture": embedded_picture(path) if path is not None else None,
        "true": [page.class_names[number] for number in true],
        "predicted": [(page.class_names[number], float(shares[number])) for number in predicted],
        "truth_probability": float(predictions.truth_probability[place]),
        "is_right": bool(predictions.is_right[place]),
    }


def _suspects(folder: RunFolder) -> list[dict[str, str]]:
    """The lines of `suspects.csv`; none where labels were not looked at."""
    if not folder.suspects.is_file():
        return []
    with folder.suspects.open(encoding="utf-8", newline="") as lines:
        return [{name: from_cell(cell) for name, cell in line.items()} for line in csv.DictReader(lines)]


def _suspect(page: Page, line: Mapping[str, str]) -> dict[str, Any]:
    path = page.suspect_pictures.get(int(line["row"]))
    return {**line, "picture": embedded_picture(path) if path is not None else None}


def _pictures(folder: RunFolder, split: str) -> dict[int, Path]:
    """Row -> file of the pictures that the run has kept of a split."""
    files = folder.examples.glob(f"{split}-*.webp")
    return {int(path.stem.removeprefix(f"{split}-")): path for path in files}


def _commands(report: RunReport) -> dict[str, str]:
    repeat = "accelerate launch -m resnet_hub.finetuning --config config.yaml --output_dir ../again"
    typed = report.environment.get("command")
    has_names = report.recipe.get("dataset_name") or report.recipe.get("train_dir")
    is_repeatable = has_names and report.base_model != IN_MEMORY  # a file names no objects
    found = {"Repeat the run, from its folder": repeat} if is_repeatable else {}
    return found | ({"Command of this run": typed} if typed else {})
