"""After training: the numbers, the predictions, the pictures, and the exported model."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from resnet_hub.errors import HubError, RunError
from resnet_hub.finetuning.config import plain_values
from resnet_hub.finetuning.data import Split
from resnet_hub.finetuning.figures import draw_confusion_matrix, draw_learning_curves
from resnet_hub.finetuning.metrics import confusion, probabilities, score_predictions
from resnet_hub.finetuning.preparation import Run
from resnet_hub.finetuning.training import Training, evaluate
from resnet_hub.hub import push_folder, save_folder
from resnet_hub.results import RunReport, Score, SplitRecord, TrainRecord

EXAMPLE = "example.png"
_SPLITS = ("train", "validation", "test")
_EVALUATED = ("validation", "test")


class PublishingError(RunError):
    """A finished run that could not be published; the message ends with the command that tries again."""


def measure(run: Run, training: Training) -> tuple[RunReport, dict[str, Tensor]]:
    """The report of the best weights, and the logits of each evaluated split.

    This is the only place that reads the test split, once and last. The network computes in float32, as the
    exported weights do wherever they are loaded, so that the numbers are theirs.
    """
    accelerator = run.machine.accelerator
    # Without accelerate's own wrapping of `forward`, which computes in the run's precision.
    training.network = accelerator.unwrap_model(training.trainer.model, keep_fp32_wrapper=False)
    training.network.load_state_dict(training.best)
    logits: dict[str, Tensor] = {}
    scores: dict[str, Score | None] = {"validation": None, "test": None}
    for name in _EVALUATED:
        if getattr(run.data, name) is not None:
            split = _split(run, name)
            logits[name] = evaluate(run, training, split, full_precision=True)
            labels = torch.as_tensor(split.labels)
            scores[name] = score_predictions(logits[name], labels, run.data.class_names)
    return _make_report(run, training, scores), logits


def write_results(run: Run, training: Training, report: RunReport, logits: dict[str, Tensor]) -> None:
    """Write predictions, pictures, export and, last, the report that says that the run is finished."""
    folder = run.folder
    _write_predictions(run, logits)
    figures: dict[str, Path] = {}
    events = folder.events()
    if any(event["event"] == "train" for event in events):
        figures["Learning curves"] = draw_learning_curves(events, folder.plots / "learning_curves.png")
    shown = next((name for name in reversed(_EVALUATED) if name in logits), None)
    if shown is not None and not run.data.multi_label:
        labels = torch.as_tensor(_split(run, shown).labels)
        counts = confusion(logits[shown], labels)
        path = folder.plots / f"confusion_{shown}.png"
        figures[f"Confusion matrix ({shown})"] = draw_confusion_matrix(counts, report.class_names, path)
    _write_example(run, folder.path / EXAMPLE)
    save_folder(
        training.network,
        folder.export,
        class_names=report.class_names,
        report=report,
        figures=figures,
        overwrite=folder.export.exists(),  # a run that was killed between export and report
    )
    report.save(folder.report)


def publish_if_asked(run: Run) -> None:
    """Push the export if the configuration says so; raises PublishingError, which takes nothing back."""
    config = run.config
    if not config.push_to_hub:
        return
    try:
        record = push_folder(run.folder.export, run.repo_id, private=config.hub_private_repo)
    except HubError as error:
        raise PublishingError(f"The run is finished and whole, but not published. {error}") from error
    run.display.say(f"published {record.url}")


def _make_report(run: Run, training: Training, scores: dict[str, Score | None]) -> RunReport:
    progress, data = training.progress, run.data
    training.trainer.stopwatch.settle()
    environment = json.loads(run.folder.environment.read_text(encoding="utf-8"))
    return RunReport(
        model=run.origin.name,
        base_model=run.origin.base_model,
        base_license=run.origin.base_license,
        dataset=data.name,
        dataset_revision=data.revision,
        num_classes=len(data.class_names),
        class_names=data.class_names,
        multi_label=data.multi_label,
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
        seed=run.config.seed,
        resumed_from_step=training.resumed_from_step,
        recipe=plain_values(run.config),
        environment=environment,
    )


def _write_predictions(run: Run, logits: dict[str, Tensor]) -> None:
    """One row per evaluated image, in the order of its split.

    `row` is the image's row in the data set as it came, counted through all its splits.
    """
    names = run.data.class_names
    tables = []
    for split, values in logits.items():
        shares = probabilities(values, multi_label=run.data.multi_label)
        best = shares.max(dim=1)
        labels = _split(run, split).labels
        columns = {
            "split": [split] * len(values),
            "row": _split(run, split).rows,
            "label": [_label_text(label, names) for label in labels],
            "predicted": [names[number] for number in best.indices.tolist()],
            "probability": best.values.tolist(),
            "probabilities": shares.tolist(),
        }
        tables.append(pa.table(columns))
    if tables:
        pq.write_table(pa.concat_tables(tables), run.folder.predictions)


def _label_text(label: object, names: tuple[str, ...]) -> str:
    """The class name of a label; of a multi-label one the names, as JSON."""
    values = torch.as_tensor(label)
    if values.ndim == 0:
        return names[int(values)]
    return json.dumps(
        [name for name, value in zip(names, values.tolist(), strict=True) if value], ensure_ascii=False
    )


def _write_example(run: Run, path: Path) -> None:
    """Save the first test image, for the three lines that show how to use the export."""
    split = run.data.test or run.data.validation or run.data.train
    assert split is not None
    split.image(0).save(path)


def _split(run: Run, name: str) -> Split:
    split = getattr(run.data, name)
    assert split is not None
    return split
