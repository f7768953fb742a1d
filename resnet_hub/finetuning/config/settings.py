"""What was decided: the settings of a run in sections, one for each part that works with them.

Nothing is left open here, so no field is None. Where an option asks for nothing, its setting is the value
that has no effect: an empty text, 0, or infinity for a limit. Names are those of the options.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from resnet_hub.finetuning.config.options import (
    Augmentation,
    ClassWeights,
    FinetuneConfig,
    Loss,
    Metric,
    Optimizer,
)

_Section = TypeVar("_Section")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How training images come from the disk, and how many of them may be unusable."""

    max_bad_images: float
    streaming: bool
    shuffle_buffer: int
    stream_parts: int
    image_cache: str
    """A folder; empty for none."""
    image_cache_gb: float
    image_memory_gb: float


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Sizes, and what training does to images before and after they are batches."""

    image_size: int
    """Height and width in pixels in evaluation."""
    train_image_size: int
    first_image_size: int
    epoch_sizes: tuple[int, ...]
    """Height and width in pixels of the training images of each epoch."""
    augmentation: Augmentation
    auto_augment: str
    color_jitter: float
    horizontal_flip: float
    random_erasing: float
    mixup: float
    cutmix: float


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """The linear probe that may come before the first step, and the cache of its features."""

    fit_fc_first: bool
    feature_views: int
    feature_cache: str
    """A folder; empty for none."""
    feature_cache_gb: float


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How many images make a step, and how many steps a run."""

    num_train_epochs: int
    total_steps: int
    max_minutes: float
    images_per_step: int
    """Over all processes and micro-batches."""
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    repeated_augmentation: int


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What is done with a gradient."""

    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    layer_decay: float
    max_grad_norm: float


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What training minimizes."""

    loss: Loss
    label_smoothing: float
    bce_target_threshold: float
    """Infinity: targets stay as they are."""
    class_weights: ClassWeights


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """A model whose answers count as well; no name, no teacher."""

    teacher_model: str
    distillation_weight: float
    distillation_temperature: float


@dataclass(frozen=True, kw_only=True)
class FreezingSettings:
    """Which stages learn when."""

    frozen_stages: int
    gradual_unfreezing: int
    """Epochs until one more stage learns; 0: all learn from the start."""


@dataclass(frozen=True, kw_only=True)
class AveragingSettings:
    """Which weights are validated and exported, and with which statistics."""

    ema_decay: float
    average_last_epochs: int
    reestimate_batchnorm: int


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    """Which epoch is the best, and when to stop waiting for a better one."""

    metric_for_best_model: Metric
    early_stopping_epochs: float
    settling_epochs: int
    """Epochs of warm-up and growing images, in which validation may well become worse for a while."""


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """How the machine is used."""

    gradient_checkpointing: bool
    torch_compile: bool
    synchronizes_batchnorm: bool
    ddp_timeout: float


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where results go."""

    output_dir: Path
    checkpoint_minutes: float
    report_to: str
    license: str
    """Empty for that of the weights that training starts from."""
    push_to_hub: bool
    hub_model_id: str
    hub_private_repo: bool
    hub_public_repo: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that was decided about a run; each part is given its section."""

    data: DataSettings
    images: ImageSettings
    probe: ProbeSettings
    schedule: ScheduleSettings
    optimizer: OptimizerSettings
    loss: LossSettings
    teacher: TeacherSettings
    freezing: FreezingSettings
    averaging: AveragingSettings
    selection: SelectionSettings
    machine: MachineSettings
    run: RunSettings
    seed: int
    recorded: FinetuneConfig
    """The flat record, with what was decided filled in: `config.yaml`."""

    @classmethod
    def of(cls, recorded: FinetuneConfig, **derived: Any) -> "Settings":
        """The settings that a configuration amounts to in which nothing is left open.

        Args:
            recorded: Its options, each with its value.
            derived: What follows from them: `total_steps`, `epoch_sizes`, and so on.
        """
        values = {
            name: _WITHOUT.get(name) if value is None else value for name, value in vars(recorded).items()
        }
        values |= derived | {"output_dir": recorded.run_dir, "hub_model_id": recorded.repo_id}
        return cls(
            data=_section(DataSettings, values),
            images=_section(ImageSettings, values),
            probe=_section(ProbeSettings, values),
            schedule=_section(ScheduleSettings, values),
            optimizer=_section(OptimizerSettings, values),
            loss=_section(LossSettings, values),
            teacher=_section(TeacherSettings, values),
            freezing=_section(FreezingSettings, values),
            averaging=_section(AveragingSettings, values),
            selection=_section(SelectionSettings, values),
            machine=_section(MachineSettings, values),
            run=_section(RunSettings, values),
            seed=recorded.seed,
            recorded=recorded,
        )


_FOLDERS = ("image_cache", "feature_cache")  # as text, which may be empty

# What an option amounts to that asks for nothing. Any other option that is None was forgotten by the rule.
_WITHOUT: dict[str, Any] = {
    "shuffle_buffer": 0,
    "stream_parts": 0,
    "image_cache": "",
    "auto_augment": "",
    "feature_cache": "",
    "max_minutes": math.inf,
    "max_grad_norm": math.inf,
    "bce_target_threshold": math.inf,
    "teacher_model": "",
    "gradual_unfreezing": 0,
    "early_stopping_epochs": math.inf,
    "license": "",
}


def _section(kind: type[_Section], values: Mapping[str, Any]) -> _Section:
    chosen = {field.name: values[field.name] for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    undecided = [name for name, value in chosen.items() if value is None]
    assert not undecided, f"nobody decided {', '.join(undecided)}"
    return kind(**{name: str(value) if name in _FOLDERS else value for name, value in chosen.items()})
