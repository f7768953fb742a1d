"""After training: the numbers, the predictions, the pictures, and the exported model."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub.errors import HubError, RunError
from resnet_hub.files import write_atomically
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import plain_values
from resnet_hub.finetuning.data.load import Split
from resnet_hub.finetuning.engine.step import TrainingDivergedError
from resnet_hub.finetuning.machine.display import Display
from resnet_hub.finetuning.report.curves import regularizers
from resnet_hub.finetuning.report.figures import (
    MAX_DRAWN_CLASSES,
    confusion_matrix,
    learning_curves,
    save_figure,
    was_trained,
)
from resnet_hub.finetuning.report.html import save_thumbnail
from resnet_hub.finetuning.report.metrics import confusion_counts, score_predictions, value_of
from resnet_hub.finetuning.report.page import PICTURES_SHOWN, page_of_run, render_page
from resnet_hub.finetuning.report.predictions import Predictions, write_predictions
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.evaluation import evaluate
from resnet_hub.finetuning.training.state import Training
from resnet_hub.hub import is_on_hub, push_folder, save_folder
from resnet_hub.prediction.classify import probabilities
from resnet_hub.results import ExportedWeights, RunReport, Score, SplitRecord, TrainRecord

logger = logging.getLogger(__name__)

EXAMPLE = "example.png"
_SPLITS = ("train", "validation", "test")
_EVALUATED = ("validation", "test")
_NOTABLE = 0.01  # of accuracy; a percent, beyond what rounding does to a few images


class PublishingError(RunError):
    """A finished run that could not be published; the message ends with the command that tries again."""


def measure(run: Run, training: Training) -> tuple[RunReport, dict[str, Tensor]]:
    """The report of the best weights, and the logits of each evaluated split.

    This is the only place that reads the test split, once and last. The network computes in float32, as the
    exported weights do wherever they are loaded, so that the numbers are theirs.
    """
    if not training.best:
        raise TrainingDivergedError(
            "No validation of this run gave a loss that is a number, so there are no weights to export. "
            "Start again with a lower --learning_rate, or with --mixed_precision no."
        )
    accelerator = run.machine.accelerator
    # Without accelerate's own wrapping of `forward`, which computes in the run's precision.
    training.network = accelerator.unwrap_model(training.trainer.model, keep_fp32_wrapper=False)
    training.network.load_state_dict(training.best)
    logits: dict[str, Tensor] = {}
    scores: dict[str, Score | None] = {"validation": None, "test": None}
    for name in _EVALUATED:
        if getattr(run.data, name) is not None:
            split = _split(run, name)
            logits[name] = evaluate(run, training, split, training.network, full_precision=True)
            labels = torch.as_tensor(split.labels)
            scores[name] = score_predictions(logits[name], labels, run.data.class_names, own=run.metrics)
    if scores["validation"] is not None and run.machine.is_main:
        _say_what_precision_cost(run, training, scores["validation"])
    return _make_report(run, training, scores), logits


def _say_what_precision_cost(run: Run, training: Training, score: Score) -> None:
    """Warn where the weights answer worse in float32, as exported, than in the precision of the run.

    Rounding turns answers over in both directions, so a few images are chance: by the sign test, fewer than
    five that were lost and none won (0.5**5 = 0.03).
    """
    metric = run.settings.selection.metric_for_best_model
    before, now = training.progress.best_score, value_of(score, metric)
    is_more_than_chance = 0.5 ** ((before - now) * score.num_images) < 0.05
    if run.machine.precision != "no" and metric != "loss" and before - now > _NOTABLE and is_more_than_chance:
        logger.warning(
            "Validation's %s was %.4f in %s and is %.4f in float32, in which the model is exported: these "
            "images need finer features. Start again with --mixed_precision no.",
            metric,
            before,
            run.machine.precision,
            now,
        )


def write_results(run: Run, training: Training, report: RunReport, logits: dict[str, Tensor]) -> None:
    """Write predictions, pictures, export, page and, last, the report that says that the run is finished."""
    folder = run.folder
    training.log.flush()
    predictions = [_predictions(run, name, values) for name, values in logits.items()]
    write_predictions(predictions, report.class_names, folder.predictions)
    if predictions:
        _save_examples(run, predictions[-1])
    figures: dict[str, Path] = {}
    events = folder.events()
    if was_trained(events):
        name = "regularized" if regularizers(report.applied_recipe) else ""
        drawn = learning_curves(events, kept_epoch=training.progress.best_epoch, trained_with=name)
        figures["Learning curves"] = save_figure(drawn, folder.plots / "learning_curves.png")
    if predictions and not report.multi_label and len(report.class_names) <= MAX_DRAWN_CLASSES:
        shown = predictions[-1]
        drawn = confusion_matrix(confusion_counts(shown), report.class_names)
        path = folder.plots / f"confusion_{shown.split}.png"
        figures[f"Confusion matrix ({shown.split})"] = save_figure(drawn, path)
    _write_example(run, folder.path / EXAMPLE)
    save_folder(
        training.network,
        folder.export,
        class_names=report.class_names,
        report=report,
        figures=figures,
        license_id=run.settings.run.license,
        overwrite=folder.export.exists(),
        preprocessing=run.preprocessing,
        train_image_size=run.settings.images.train_image_size,
    )
    write_page(folder, report)
    report.save(folder.report)


def write_page(folder: RunFolder, report: RunReport) -> None:
    """Write `report.html`; a page that cannot be made is said, in full, and takes no finished run along."""
    try:
        write_atomically(folder.page, render_page(page_of_run(folder, report)))
    except Exception:  # numbers and weights are done; hours of training are worth more than their picture
        logger.exception(
            "The page %s could not be made; the run is finished and whole without it. To try again: "
            "resnet-hub compare %s --output FILE.html",
            folder.page,
            folder.path,
        )


def publish(folder: RunFolder, config: FinetuneConfig, *, was_asked: bool) -> None:
    """Push the export of a finished run; raises PublishingError, which takes nothing back.

    A new repository is private unless somebody `was_asked` whether it may be public, or told so.
    """
    repo_id = config.repo_id
    try:
        unasked = not (was_asked or config.hub_public_repo or config.hub_private_repo or is_on_hub(repo_id))
        record = push_folder(folder.export, repo_id, private=config.hub_private_repo or unasked)
    except HubError as error:
        raise PublishingError(f"The run is finished and whole, but not published. {error}") from error
    folder.note_publication(asdict(record))
    hint = " (private: nobody could be asked; its settings on the Hub make it public)" * unasked
    Display(is_main=True).say(f"published {record.url}{hint}")


def _make_report(run: Run, training: Training, scores: dict[str, Score | None]) -> RunReport:
    progress, data = training.progress, run.data
    training.trainer.stopwatch.settle()
    environment = dict(run.folder.records()["environment"])
    environment.pop("cwd", None)
    return RunReport(
        **data.dataset_fields(),
        model=run.origin.name,
        base_model=run.origin.base_model,
        base_license=run.origin.base_license,
        num_classes=len(data.class_names),
        image_size=run.preprocessing.image_size[0],
        splits={
            name: SplitRecord(num_images=len(_split(run, name)), how=_split(run, name).how)
            for name in _SPLITS
            if getattr(data, name) is not None
        },
        validation=scores["validation"],
        test=scores["test"],
        train=TrainRecord(
            epochs=progress.evaluated_epochs,
            steps=progress.step,
            seconds=round(progress.seconds, 3),
            images_per_second=round(progress.images / progress.seconds, 2),
            station_seconds={name: round(spent, 3) for name, spent in progress.station_seconds.items()},
        ),
        num_parameters=sum(tensor.numel() for tensor in training.network.parameters()),
        exported=_exported(run, training),
        seed=run.settings.seed,
        resumed_from_step=training.resumed_from_step,
        recipe=plain_values(run.settings.recorded),
        asked=_asked(run),
        environment=environment,
        data=data.facts.record(),
    )


def _exported(run: Run, training: Training) -> ExportedWeights:
    progress, metric = training.progress, run.settings.selection.metric_for_best_model
    sign = -1 if metric == "loss" else 1
    probe, trained = (
        None if value is None else sign * value
        for value in (progress.linear_probe_score, progress.best_epoch_score)
    )
    return ExportedWeights(
        epoch=progress.best_epoch, metric=metric, linear_probe_score=probe, best_epoch_score=trained
    )


def _asked(run: Run) -> dict[str, Any]:
    """The options that are not as they come, as plain values."""
    defaults = plain_values(FinetuneConfig())
    return {name: value for name, value in plain_values(run.asked).items() if value != defaults[name]}


def _predictions(run: Run, name: str, logits: Tensor) -> Predictions:
    split = _split(run, name)
    return Predictions(
        split=name,
        rows=split.rows,
        labels=np.asarray(split.labels),
        probabilities=probabilities(logits, multi_label=run.data.multi_label).numpy(),
    )


def _save_examples(run: Run, predictions: Predictions) -> None:
    """Keep small pictures of the mistakes and hard examples that the page shows, so that it needs no data."""
    split = _split(run, predictions.split)
    mistakes = predictions.confident_mistakes(PICTURES_SHOWN)
    shown = np.concatenate([mistakes, predictions.hardest(PICTURES_SHOWN, besides=mistakes)])
    for place in shown.tolist():
        path = run.folder.example(predictions.split, int(predictions.rows[place]))
        save_thumbnail(split.image(place), path)


def _write_example(run: Run, path: Path) -> None:
    """Save the first test image, for the three lines that show how to use the export."""
    split = run.data.test or run.data.validation or run.data.mapped_train
    split.image(0).save(path)


def _split(run: Run, name: str) -> Split:
    split = getattr(run.data, name)
    assert split is not None
    return split


def summarise(report: RunReport) -> str:
    """Accuracy, paths, and three lines of Python that load the export and classify an image."""
    folder = RunFolder(Path(report.recipe["output_dir"]))
    lines = [
        "",
        *(
            f"{name:11}{describe_score(score)}"
            for name, score in (("validation", report.validation), ("test", report.test))
            if score is not None
        ),
        f"training   {_describe_training(report.train)}",
        f"exported   {report.exported_text}",
        "",
        *([f"page       {folder.page}"] if folder.page.is_file() else []),
        f"report     {folder.report}",
        f"model      {folder.export}",
        f"card       {folder.export / 'README.md'}",
        "",
        "Use it from Python:",
        "",
        "    import resnet_hub",
        f"    model = resnet_hub.load({str(folder.export)!r})",
        f"    print(resnet_hub.classify(model, {str(folder.path / EXAMPLE)!r}))",
    ]
    return "\n".join(lines)


def _describe_training(train: TrainRecord) -> str:
    epochs = f"{train.epochs} epochs, " if train.epochs else ""
    return f"{epochs}{train.seconds:.0f} s, {train.images_per_second:.0f} images/s"


def describe_score(score: Score) -> str:
    """Accuracy with its interval, and the other numbers of a score, in a line."""
    low, high = score.accuracy_interval_95
    precision = score.mean_average_precision
    return (
        f"accuracy {score.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"{score.num_images} images, macro F1 {score.macro_f1:.4f}, "
        + (f"mAP {precision:.4f}, " if precision is not None else "")
        + f"loss {score.loss:.4f}"
        + "".join(f", {name} {value:.4f}" for name, value in score.metrics.items())
    )
