"""Records of what was measured. Training writes them, reports and model cards read them.

Standard library only, so that a card can be rendered where nothing else is installed.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resnet_hub.errors import UserError
from resnet_hub.files import write_atomically

_Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


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
class RunReport:
    """Everything that is claimed of one run; `report.json` is this record."""

    model: str
    """Name of the variant, with its pretrained tag if it started from one: `my_resnet50.a1_in1k`."""
    base_model: str | None
    """Hub repository (or file) of the weights that training started from; None from scratch."""
    base_license: str | None
    dataset: str
    dataset_revision: str | None
    num_classes: int
    class_names: tuple[str, ...]
    multi_label: bool
    image_size: int
    splits: dict[str, SplitRecord]
    validation: Score | None
    test: Score | None
    """None when the data set has no labelled test split; the last number to be computed otherwise."""
    train: TrainRecord
    seed: int
    resumed_from_step: int | None
    recipe: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration, as `config.yaml` has it."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, device, precision and number of processes, as `environment.json` has them."""
    data: dict[str, Any] = field(default_factory=dict)
    """What was understood of the data set: columns, images per class, sizes, kinds, notes."""

    def save(self, path: Path) -> None:
        """Write the report as JSON that a person can read too; it appears whole or not at all."""
        write_atomically(path, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "RunReport":
        """Read a `report.json`; raises UserError when it is not one."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is not a report.json of this version of resnet_hub: {error!r}"
            ) from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunReport":
        """Rebuild the record from what `json.loads` gives."""
        fields = dict(values)
        fields["class_names"] = tuple(fields["class_names"])
        fields["splits"] = {name: SplitRecord(**split) for name, split in fields["splits"].items()}
        fields["train"] = TrainRecord(**fields["train"])
        for split in ("validation", "test"):
            fields[split] = None if fields[split] is None else _score_from_dict(fields[split])
        return cls(**fields)


def _score_from_dict(values: dict[str, Any]) -> Score:
    fields = dict(values)
    fields["accuracy_interval_95"] = tuple(fields["accuracy_interval_95"])
    fields["per_class"] = tuple(ClassScore(**row) for row in fields["per_class"])
    return Score(**fields)
