"""Records of what was measured. Training writes them, reports and model cards read them.

Standard library only, so that a card can be rendered where nothing else is installed.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from resnet_hub.errors import UserError
from resnet_hub.files import write_atomically

_Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution

# Options that do nothing in a run without training steps (`--recipe quick`).
_OF_AUGMENTATION = frozenset(
    {"augmentation", "strong_augmentation", "auto_augment", "color_jitter", "horizontal_flip"}
    | {"random_erasing", "train_image_size"}
)
_OF_STEPS = frozenset(
    {"mixup", "cutmix", "repeated_augmentation", "first_image_size", "low_resolution_first"}
    | {"max_train_steps", "max_minutes", "images_per_step", "per_device_train_batch_size"}
    | {"gradient_accumulation_steps", "gradient_checkpointing", "max_grad_norm", "optimizer"}
    | {"learning_rate", "weight_decay", "warmup_steps", "layer_decay", "long_schedule"}
    | {"loss", "bce_target_threshold", "label_smoothing", "drop_path_rate", "frozen_stages"}
    | {"gradual_unfreezing", "teacher_model", "distillation_weight", "distillation_temperature"}
    | {"ema", "ema_decay", "average_last_epochs", "reestimate_batchnorm", "metric_for_best_model"}
    | {"early_stopping_epochs", "checkpoint_minutes", "sync_batchnorm", "torch_compile"}
)


def wilson_interval(correct: float, total: int) -> tuple[float, float]:
    """95 % interval of a proportion, as fractions between 0 and 1.

    Wilson's score interval stays inside [0, 1] and is right for the small test splits and accuracies near 1
    where the textbook interval is not (Brown, Cai and DasGupta 2001, "Interval estimation for a binomial
    proportion").
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = correct / total, _Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def probability_text(probability: float) -> str:
    """A probability in percent; nothing is rounded to 0 or 100."""
    percent = 100 * probability
    if percent < 0.1:
        return "<0.1 %"
    return ">99.9 %" if percent > 99.9 else f"{percent:.1f} %"


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How well one class was told from the others on one split."""

    name: str
    precision: float
    recall: float
    f1: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model's score on one split; accuracies are fractions between 0 and 1.

    For a multi-label data set `accuracy` is the share of images whose whole set of labels is right, and
    `mean_average_precision` is given as well.
    """

    accuracy: float
    accuracy_interval_95: tuple[float, float]
    top5_accuracy: float
    macro_f1: float
    loss: float
    num_images: int
    mean_average_precision: float | None = None
    expected_calibration_error: float | None = None
    """Mean gap between confidence and accuracy in 15 bins (Guo et al. 2017, arXiv:1706.04599); None for
    multi-label data, and in reports from before it was measured."""
    per_class: tuple[ClassScore, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    """The user's own, by name."""


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """One split: how many images it has and how it came about."""

    num_images: int
    how: str


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """What the training itself took; `seconds` is wall time without set-up, evaluation of test, or export."""

    epochs: int
    steps: int
    seconds: float
    images_per_second: float
    station_seconds: dict[str, float] = field(default_factory=dict)
    """Where the time of the main process went, the last evaluation included: data, forward, backward, ..."""


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """Which data set a record is about; every record that is about one has these fields."""

    dataset: str
    """Its name, or a title that the user gave it."""
    dataset_revision: str | None = None
    """Commit of the Hub data set; None for one from anywhere else."""
    class_names: tuple[str, ...]
    """In the order of the network's outputs."""
    multi_label: bool = False
    """Whether an image has any number of labels."""

    def dataset_fields(self) -> dict[str, Any]:
        """These fields alone, to make another record about the same data set."""
        return {each.name: getattr(self, each.name) for each in fields(DatasetRecord)}


@dataclass(frozen=True, kw_only=True)
class ExportedWeights:
    """Which weights of a run were exported: the best on validation, or the last where there is none."""

    epoch: int
    """0 for the linear probe, which was fitted before the first epoch."""
    metric: str
    """What the best ones were chosen by."""
    linear_probe_score: float | None = None
    """The metric of the linear probe; None where no probe was fitted, or nothing could be validated."""
    best_epoch_score: float | None = None
    """The metric of the best trained epoch, likewise."""

    def describe(self, num_epochs: int) -> str:
        """The weights in a line, and what to try where `num_epochs` of training did not beat the probe."""
        if self.epoch:
            is_last = self.best_epoch_score is None
            return f"epoch {self.epoch} of {num_epochs}" + (", the last: no validation split" * is_last)
        if not num_epochs:
            return "linear probe"
        probe, trained = (
            "no number" if score is None else f"{score:.4f}"
            for score in (self.linear_probe_score, self.best_epoch_score)
        )
        return (
            f"linear probe. Training did not beat it: validation {self.metric.replace('_', ' ')} is {probe} "
            f"before training and {trained} in the best epoch. Try more epochs (--num_train_epochs), a lower "
            "--learning_rate, or --recipe quick, which stops at the linear probe."
        )


@dataclass(frozen=True, kw_only=True)
class RunReport(DatasetRecord):
    """Everything that is claimed of one run; `report.json` is this record."""

    model: str
    """Name of the variant, with its pretrained tag if it started from one: `my_resnet50.a1_in1k`."""
    base_model: str | None
    """Hub repository (or file) of the weights that training started from; None from scratch."""
    base_license: str | None
    num_classes: int
    image_size: int
    splits: dict[str, SplitRecord]
    validation: Score | None
    test: Score | None
    """None when the data set has no labelled test split; the last number to be computed otherwise."""
    train: TrainRecord
    seed: int
    resumed_from_step: int | None
    num_parameters: int | None = None
    """Of the exported network; None in reports from before it was recorded, as is `exported`."""
    exported: ExportedWeights | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration, as `config.yaml` has it."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What of it the user gave; the rest are defaults and decisions of the rule."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, device, precision and number of processes, as `environment.json` has them."""
    data: dict[str, Any] = field(default_factory=dict)
    """What was understood of the data set: columns, images per class, sizes, kinds, notes."""

    @property
    def applied_recipe(self) -> dict[str, Any]:
        """The options that had an effect: without steps, none of the optimizer or of augmentation."""
        if self.train.steps:
            return self.recipe
        idle = _OF_STEPS if self.recipe.get("feature_views", 1) > 1 else _OF_STEPS | _OF_AUGMENTATION
        return {name: value for name, value in self.recipe.items() if name not in idle}

    @property
    def exported_text(self) -> str:
        """Which weights were exported, in a line; empty where the report does not know."""
        return "" if self.exported is None else self.exported.describe(self.train.epochs)

    def save(self, path: Path) -> None:
        """Write the report as JSON that a person can read too; it appears whole or not at all."""
        write_atomically(path, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "RunReport":
        """Read a `report.json`; raises UserError when it is not one."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is not a report.json of this version of resnet_hub: {repr(error)[:200]}"
            ) from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunReport":
        """Rebuild the record from what `json.loads` gives."""
        found = dict(values)
        found["class_names"] = tuple(found["class_names"])
        found["splits"] = {name: SplitRecord(**split) for name, split in found["splits"].items()}
        found["train"] = TrainRecord(**found["train"])
        for split in ("validation", "test"):
            found[split] = None if found[split] is None else _score_from_dict(found[split])
        if found.get("exported") is not None:
            found["exported"] = ExportedWeights(**found["exported"])
        return cls(**found)


def _score_from_dict(values: dict[str, Any]) -> Score:
    found = dict(values)
    found["accuracy_interval_95"] = tuple(found["accuracy_interval_95"])
    found["per_class"] = tuple(ClassScore(**row) for row in found["per_class"])
    return Score(**found)
