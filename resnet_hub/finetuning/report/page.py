"""The page of a run: one HTML file that asks nothing of a network.

A `Page` is a plain record; `page_of_run` reads one from a run's folder, at the end of the run or years later,
and whoever scores a model without training it can make one with the curves left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import plain_values
from resnet_hub.finetuning.report import page_figures, page_tables
from resnet_hub.finetuning.report.figures import MAX_DRAWN_CLASSES
from resnet_hub.finetuning.report.html import document, embedded_picture
from resnet_hub.finetuning.report.metrics import count_confusions
from resnet_hub.finetuning.report.predictions import Predictions, read_predictions
from resnet_hub.finetuning.report.reliability import reliability_bins
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.results import RunReport, Score, SplitRecord, TrainRecord

PICTURES_SHOWN = 12  # mistakes, and as many hard examples
PICTURE_SIZE = 192  # pixels of the longer side
_SHEET_WIDTH = 960  # pixels

_SHEETS = {
    "train_batch.png": "The first images of training, as the network gets them, augmentation included.",
    "validation_batch.png": "The first images of validation, as the network gets them.",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows; a part that is empty or None is left out."""

    model: str
    dataset: str
    class_names: Sequence[str]
    multi_label: bool = False
    base_model: str | None = None
    dataset_revision: str | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Split -> score; the last one is what the page is about."""
    splits: Mapping[str, SplitRecord] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """What was understood of the data set, as `RunReport.data`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Option -> value, as `config.yaml` has them."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Option -> value that it has when it is not given."""
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
    sheets: Mapping[str, Path] = field(default_factory=dict)
    """Caption -> picture of a batch."""

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
    return Page(
        model=report.model,
        base_model=report.base_model,
        dataset=report.dataset,
        dataset_revision=report.dataset_revision,
        class_names=report.class_names,
        multi_label=report.multi_label,
        scores=found,
        splits=report.splits,
        data=report.data,
        settings=report.recipe,
        defaults=plain_values(FinetuneConfig()),
        environment=report.environment,
        commands=_commands(report),
        events=folder.events(),
        train=report.train,
        predictions=read_predictions(
            folder.predictions, shown, report.class_names, multi_label=report.multi_label
        ),
        pictures=_pictures(folder, shown),
        sheets={caption: path for caption, path in sheets.items() if path.is_file()},
    )


def render_page(page: Page) -> str:
    """The HTML of a page; every text from outside is escaped."""
    shown = list(page.scores)[-1] if page.scores else None
    is_trained = any(event["event"] == "train" for event in page.events)
    return document(
        "report.html",
        title=page.title,
        page=page,
        shown=shown,
        score=page.scores[shown] if shown else None,
        settings=page_tables.changed_settings(page.settings, page.defaults),
        all_settings=page_tables.flat(page.settings),
        data_rows=page_tables.data_rows(page.data),
        curves=_curves(page) if is_trained else {},
        class_rows=page_tables.class_rows(page.scores[shown], page.predictions) if shown else [],
        stations=page_tables.station_rows(page.train.station_seconds) if page.train else [],
        environment=page_tables.flat(page.environment, besides=("facts", "command")),
        sheets={caption: embedded_picture(path, width=_SHEET_WIDTH) for caption, path in page.sheets.items()},
        **_of_predictions(page),
    )


def _curves(page: Page) -> dict[str, str]:
    figures = {
        "Loss of training (mean of ten steps, with augmentation and label smoothing) and of validation.": (
            page_figures.loss_curve({page.model: page.events})
        ),
        "Accuracy on the validation split after every epoch.": page_figures.accuracy_curve(
            {page.model: page.events}
        ),
        "Learning rate.": page_figures.rate_curve(page.events),
    }
    return {caption: figure for caption, figure in figures.items() if figure is not None}


def _of_predictions(page: Page) -> dict[str, Any]:
    """What the template shows of single predictions; empty values where there are none."""
    predictions = page.predictions
    nothing: dict[str, Any] = {"confusion": None, "confused": [], "reliability": None, "histogram": None}
    if predictions is None:
        return nothing | {"mistakes": [], "hardest": [], "num_mistakes": 0}
    mistakes = predictions.confident_mistakes(PICTURES_SHOWN)
    hardest = predictions.hardest(PICTURES_SHOWN, besides=mistakes)
    examples = {
        "mistakes": [_example(page, predictions, int(place)) for place in mistakes],
        "hardest": [_example(page, predictions, int(place)) for place in hardest],
        "num_mistakes": int((~predictions.is_right).sum()),
    }
    if predictions.is_multi_label:
        return nothing | examples
    bins = reliability_bins(predictions.confidence.astype(np.float64), predictions.is_right)
    return examples | {
        "confusion": _confusion_matrix(predictions, page.class_names),
        "confused": page_tables.most_confused(predictions, page.class_names),
        "reliability": page_figures.reliability_diagram(bins),
        "histogram": page_figures.confidence_histogram(bins),
    }


def _confusion_matrix(predictions: Predictions, class_names: Sequence[str]) -> str | None:
    """The figure; None of so many classes that nothing could be seen."""
    if len(class_names) > MAX_DRAWN_CLASSES:
        return None
    counts = count_confusions(predictions.labels, predictions.probabilities.argmax(axis=1), len(class_names))
    return page_figures.confusion_matrix(counts, class_names)


def _example(page: Page, predictions: Predictions, place: int) -> dict[str, Any]:
    """One image with what is true of it and what was said of it."""
    row = int(predictions.rows[place])
    path = page.pictures.get(row)
    shares = predictions.probabilities[place]
    if predictions.is_multi_label:
        true = np.flatnonzero(predictions.labels[place] > 0.5).tolist()
        said = np.flatnonzero(shares > 0.5).tolist()
    else:
        true, said = [int(predictions.labels[place])], [int(shares.argmax())]
    return {
        "row": row,
        "picture": embedded_picture(path) if path is not None else None,
        "true": [page.class_names[number] for number in true],
        "said": [(page.class_names[number], float(shares[number])) for number in said],
        "truth_probability": float(predictions.truth_probability[place]),
        "is_right": bool(predictions.is_right[place]),
    }


def _pictures(folder: RunFolder, split: str) -> dict[int, Path]:
    """Row -> file of the pictures that the run has kept of a split."""
    files = folder.examples.glob(f"{split}-*.webp")
    return {int(path.stem.removeprefix(f"{split}-")): path for path in files}


def _commands(report: RunReport) -> dict[str, str]:
    repeat = "accelerate launch -m resnet_hub.finetuning --config config.yaml --output_dir ../again"
    typed = report.environment.get("command")
    return {"Repeats the run, typed in its folder": repeat} | ({"What was typed": typed} if typed else {})
