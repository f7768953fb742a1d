"""Scoring a trained model on a split, as it is scored at the end of training."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch import Tensor, nn

from resnet_hub.errors import DataError
from resnet_hub.files import atomic_folder
from resnet_hub.finetuning.batches.augment import EvaluationTransform
from resnet_hub.finetuning.batches.loader import ViewBatches
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.options import DataOptions, MachineOptions
from resnet_hub.finetuning.data.load import load_data, load_split
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.engine.forward import compute_split
from resnet_hub.finetuning.machine.machine import Machine, choose_num_workers, start_machine
from resnet_hub.finetuning.network.class_matching import match_classes
from resnet_hub.finetuning.report.metrics import score_predictions
from resnet_hub.finetuning.report.page import Page, render_page
from resnet_hub.finetuning.report.predictions import Predictions, write_predictions
from resnet_hub.finetuning.run_folder.environment import describe_environment
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import class_names_of, probabilities
from resnet_hub.prediction.open_model import open_model
from resnet_hub.results import DatasetRecord, Score, SplitRecord

Augmentation = Literal["none", "flip"]
SCORES, PREDICTIONS = "scores.json", "predictions.parquet"


@dataclass(frozen=True, kw_only=True)
class ValidationRequest:
    """Which model to score on what."""

    model: str
    """A run's folder, a model folder, a Hub repository, or a name with weights."""
    data: DataOptions | None = None
    """Where the images come from; None for the data set that the run was made with."""
    split: str | None = None
    """Split, slice or sum of splits; found by name if None. Of a run's own: validation or test, else both."""
    image_size: int | None = None
    """Height and width in pixels; those that the model was evaluated with if None."""
    crop_fraction: float | None = None
    """Share of the resized short side that the centre crop keeps; the model's if None."""
    test_time_augmentation: Augmentation = "none"
    """flip: the mean of the logits of an image and its mirror image."""
    batch_size: int = 64
    num_workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationResult(DatasetRecord):
    """What `scores.json` holds; the classes are the model's."""

    model: str
    num_classes: int
    num_parameters: int
    image_size: int
    crop_fraction: float
    test_time_augmentation: Augmentation
    splits: dict[str, str]
    """Name of each split -> how it came about."""
    scores: dict[str, Score]
    environment: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it as JSON that a person can read too."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Data(DatasetRecord):
    splits: dict[str, Split]


def validate(request: ValidationRequest) -> tuple[ValidationResult, list[Predictions]]:
    """The scores of the model on each split, and what it said of every image.

    The network computes in float32 on the best device; every process of a launch gets the same result.
    """
    model = open_model(request.model)
    class_names = tuple(class_names_of(model))
    preprocessing = _preprocessing(request, model)
    is_multi_label = bool(getattr(model, "multi_label", False))
    if request.data is None:
        data = _load_run_data(request)
    else:
        data = _load_named_data(request, request.data, multi_label=is_multi_label)
    if data.multi_label != is_multi_label:
        raise DataError(
            f"The images of {data.dataset} have several labels or none, and the model is "
            "single-label. Score it on images of one class each, or fine-tune a model on this data set first."
        )
    places = match_classes(data.class_names, class_names)
    machine = _start_machine()
    model = model.to(machine.accelerator.device, memory_format=machine.memory_format)  # pyright: ignore
    scores, predictions = {}, []
    for name, split in data.splits.items():
        labels = _model_labels(split.labels, places, len(class_names))
        logits = _compute(request, model, split, preprocessing, machine=machine)
        scores[name] = score_predictions(logits, torch.as_tensor(labels), class_names)
        shares = probabilities(logits, multi_label=is_multi_label).numpy()
        predictions.append(Predictions(split=name, rows=split.rows, labels=labels, probabilities=shares))
    result = ValidationResult(
        dataset=data.dataset,
        dataset_revision=data.dataset_revision,
        class_names=class_names,
        multi_label=is_multi_label,
        model=request.model,
        num_classes=len(class_names),
        num_parameters=sum(tensor.numel() for tensor in model.parameters()),
        image_size=preprocessing.image_size[0],
        crop_fraction=preprocessing.crop_fraction,
        test_time_augmentation=request.test_time_augmentation,
        splits={name: split.how for name, split in data.splits.items()},
        scores=scores,
        environment={"machine": machine.record() | {"precision": "no"}} | describe_environment(),
    )
    return result, predictions


def save_result(folder: Path, result: ValidationResult, predictions: list[Predictions]) -> None:
    """Write scores, predictions and their page into a new folder."""
    with atomic_folder(folder) as scratch:
        write_predictions(predictions, result.class_names, scratch / PREDICTIONS)
        result.save(scratch / SCORES)
        page = render_page(page_of_validation(result, predictions))
        (scratch / "report.html").write_text(page, encoding="utf-8")


def page_of_validation(result: ValidationResult, predictions: list[Predictions]) -> Page:
    """The page of a model that was scored and not trained: no curves, and images by their rows alone."""
    return Page(
        **result.dataset_fields(),
        model=result.model,
        num_parameters=result.num_parameters,
        scores=result.scores,
        splits={
            name: SplitRecord(num_images=score.num_images, how=result.splits[name])
            for name, score in result.scores.items()
        },
        environment=result.environment,
        commands={"Command": result.environment["command"]},
        predictions=predictions[-1],
    )


def _start_machine() -> Machine:
    """The machine, at the precision that a run before in this process has set; it is not used here."""
    already = AcceleratorState._shared_state.get("_mixed_precision")
    return start_machine(MachineOptions(mixed_precision=already or "no"))


def _preprocessing(request: ValidationRequest, model: nn.Module) -> Preprocessing:
    preprocessing = Preprocessing.of_model(model, request.image_size)
    if request.crop_fraction is None:
        return preprocessing
    return replace(preprocessing, crop_fraction=request.crop_fraction)


def _load_run_data(request: ValidationRequest) -> _Data:
    """The splits that a run was measured on, as its `config.yaml` makes them again."""
    folder = RunFolder(Path(request.model))
    if not (records := folder.records()):
        raise DataError(
            f"Say what to score {request.model} on: --dataset_name NAME. Only a run's folder remembers its "
            "data."
        )
    data = load_data(folder.begun_config())
    if records["environment"]["facts"]["data_fingerprint"] != data.fingerprint:
        raise DataError(
            f"The data set {data.dataset} is no longer the one that {folder.path} was trained and measured "
            "on. To score the model on it as it is now, name it: --dataset_name and --split."
        )
    splits = data.evaluated
    if request.split is not None:
        if request.split not in splits:
            raise DataError(f"The run has no split {request.split!r} but {', '.join(splits) or 'none'}.")
        splits = {request.split: splits[request.split]}
    if not splits:
        raise DataError(
            f"{folder.path} has neither a validation nor a test split. Name one: --dataset_name, --split."
        )
    return _Data(**data.dataset_fields(), splits=splits)


def _load_named_data(request: ValidationRequest, config: DataOptions, *, multi_label: bool) -> _Data:
    loaded = load_split(config, request.split, multi_label=multi_label)
    return _Data(
        dataset=loaded.source.name,
        dataset_revision=loaded.source.revision,
        class_names=loaded.labels.class_names,
        multi_label=loaded.labels.multi_label,
        splits={loaded.split.name: loaded.split},
    )


def _model_labels(labels: NDArray[Any], places: NDArray[np.int64], num_classes: int) -> NDArray[Any]:
    """The labels with the model's class numbers instead of the data set's."""
    if labels.ndim == 1:
        return places[labels]
    moved = np.zeros((len(labels), num_classes), dtype=labels.dtype)
    moved[:, places] = labels
    return moved


def _compute(
    request: ValidationRequest,
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    *,
    machine: Machine,
) -> Tensor:
    """Logits (images, classes) of a split in its order."""
    batches = ViewBatches(
        split,
        EvaluationTransform(preprocessing),
        batch_size=request.batch_size,
        options=LoaderOptions.of_machine(
            machine,
            num_workers=choose_num_workers(request.num_workers, machine, preprocessing.image_size),
            batch_bytes=request.batch_size * preprocessing.num_bytes,
        ),
    )
    return compute_split(
        _with_mirror(model) if request.test_time_augmentation == "flip" else model,
        batches,
        num_outputs=len(class_names_of(model)),
        num_images=len(split),
        batch_size=request.batch_size,
        preprocessing=preprocessing,
        machine=machine,
        between_batches=lambda: None,
        full_precision=True,
    )


def _with_mirror(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: (model(images) + model(images.flip(-1))) / 2
