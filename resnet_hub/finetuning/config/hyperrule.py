"""What the options left open become: a rule by the size of the data set, the image and the start weights.

In the spirit of the BiT-HyperRule (Kolesnikov et al. 2020, arXiv:1912.11370, section 3.3): the data set
decides, the user overrides, and what was decided is printed and recorded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.options import Augmentation, FinetuneConfig, Metric, with_options
from resnet_hub.finetuning.config.settings import Settings

# Up to this many training images: (images per optimizer step).
_BATCH_SIZES = ((5_000, 64), (50_000, 128), (math.inf, 256))

# Images shown in all, and the range of epochs that this may come to.
_SHOWN_PRETRAINED, _EPOCHS_PRETRAINED = 60_000, (5, 30)
_SHOWN_FROM_SCRATCH, _EPOCHS_FROM_SCRATCH = 40_000, (30, 90)
_LONGER = 2  # times as many with `long_schedule`
_FEWEST_STEPS = 150  # however few images there are: 30 steps of 50 digits lose four points (recipes/LOG.md)

# Images whose features are kept in memory to fit fc: with 2048 of them an image these are 1.6 GB.
_MOST_FEATURES = 200_000

_SHUFFLED = 4096  # images of a stream that are shuffled among themselves; 0.4 GB of photographs of 500x375
_PARTS = 8  # of a stream, at least: 1, 2, 4 and 8 processes can share them

SMALL_IMAGE = 64  # pixels; up to here images are padded and cropped, above they are cropped and resized


_USUAL_WIDTH = 512
_WIDE_ENOUGH = 256  # for strong augmentation; my_resnet20, with 64, loses two points by it (recipes/LOG.md)

_GROWING = 2 / 3  # share of the epochs through which images grow, if they begin smaller
_FIRST_SIZE = 0.7  # of the image size: half of the multiplications

# Images per process from which on BatchNorm needs no other process: Goyal et al. 2017 (arXiv:1706.02677,
# section 2.3) train with 32, and below 16 accuracy falls (Wu and He 2018, arXiv:1803.08494, figure 5).
ENOUGH_FOR_BATCHNORM = 32

BATCHNORM_IMAGES = 2048  # enough for the mean and variance of a channel to a few percent


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the rule goes by: the data, the network, and the processes."""

    num_train: int
    """Images in the training split."""
    multi_label: bool = False
    """Whether an image has any number of labels; smoothing is then not defined."""
    model_image_size: int = 224
    """Image size in pixels that the model's weights were evaluated at."""
    model_train_size: int | None = None
    """The one that they were trained at; None for the same."""
    network_width: int
    """Channels of the last 3x3 convolution: 512 in ResNet-18 and ResNet-50."""
    world_size: int = 1
    """Training processes; the images per step do not depend on it."""
    has_gpus: bool = False
    """Whether each of them has a GPU, which would have to wait for the others."""


def decide(asked: FinetuneConfig, situation: Situation) -> Settings:
    """The settings of a run: what was asked for, and what the rule decides where nothing was.

    Raises ConfigError for options that this situation does not allow.
    """
    _check_labels(asked, multi_label=situation.multi_label)
    images = _images(asked, situation)
    _check_feature_views(asked, num_train=situation.num_train, augmentation=images["augmentation"])
    schedule = _schedule(asked, situation)
    total_steps, epochs = schedule.pop("total_steps"), schedule["num_train_epochs"]
    _check_warmup(asked, total_steps=total_steps)
    decided = images | _streaming(asked, situation) | _training(asked, situation, schedule, total_steps)
    decided |= _averaging(asked, num_train=situation.num_train, total_steps=total_steps, images=images)
    still_open = {name: value for name, value in decided.items() if getattr(asked, name) is None}
    # The steps follow from each other: a number of steps given decides the epochs, and so on.
    recorded = with_options(asked, **still_open | schedule)
    first, last = images["first_image_size"], images["train_image_size"]
    warmup_steps = decided["warmup_steps"] if asked.warmup_steps is None else asked.warmup_steps
    steps_per_epoch = math.ceil(situation.num_train / schedule["images_per_step"])
    return Settings.of(
        recorded,
        total_steps=total_steps,
        synchronizes_batchnorm=_synchronizes_batchnorm(
            asked, situation, batch_size=schedule["per_device_train_batch_size"]
        ),
        epoch_sizes=_epoch_sizes(first, last, epochs),
        settling_epochs=max(
            math.ceil(warmup_steps / steps_per_epoch), _growing_epochs(epochs) if first != last else 0
        ),
    )


def _images(asked: FinetuneConfig, situation: Situation) -> dict[str, Any]:
    image_size = asked.image_size or situation.model_image_size
    train_size = asked.train_image_size or asked.image_size or situation.model_train_size or image_size
    smaller = _round_size(_FIRST_SIZE * train_size, train_size) if asked.low_resolution_first else train_size
    return {
        "image_size": image_size,
        "train_image_size": train_size,
        "first_image_size": asked.first_image_size or smaller,
        "augmentation": asked.augmentation or _augmentation(asked, image_size, situation.network_width),
    }


def _epoch_sizes(first: int, last: int, epochs: int) -> tuple[int, ...]:
    """Height and width in pixels of the training images of each epoch."""
    growing = _growing_epochs(epochs)
    return tuple(
        last if epoch >= growing else _round_size(first + (last - first) * epoch / growing, last)
        for epoch in range(epochs)
    )


def _growing_epochs(num_epochs: int) -> int:
    """Epochs through which images grow, if they begin smaller; the last one never is one of them."""
    return min(round(_GROWING * num_epochs), max(0, num_epochs - 1))


def _schedule(asked: FinetuneConfig, situation: Situation) -> dict[str, int]:
    """Epochs and steps, and how the images of a step are shared out to processes and micro-batches."""
    batches = _batches(asked, num_train=situation.num_train, world_size=situation.world_size)
    steps_per_epoch = math.ceil(situation.num_train / batches["images_per_step"])
    epochs = asked.num_train_epochs
    if epochs is None:
        epochs = _epochs(asked, situation.num_train, steps_per_epoch=steps_per_epoch)
    if asked.max_train_steps:
        epochs = math.ceil(asked.max_train_steps / steps_per_epoch)
    total_steps = asked.max_train_steps or epochs * steps_per_epoch
    return batches | {"num_train_epochs": epochs, "total_steps": total_steps}


def _training(
    asked: FinetuneConfig, situation: Situation, schedule: Mapping[str, int], total_steps: int
) -> dict[str, Any]:
    # Adam's rate grows with the square root of the batch (Malladi et al. 2022, arXiv:2205.10287), and for
    # networks that are narrower than usual with one over their width (Yang et al. 2022, arXiv:2203.03466).
    narrower = max(1.0, _USUAL_WIDTH / situation.network_width)
    rate_at_64 = 5e-4 * narrower if asked.pretrained else 3e-3
    return {
        "fit_fc_first": asked.pretrained and (asked.streaming or situation.num_train <= _MOST_FEATURES),
        "label_smoothing": 0.0 if situation.multi_label else 0.1,
        "per_device_eval_batch_size": 2 * schedule["per_device_train_batch_size"],
        "learning_rate": rate_at_64 * math.sqrt(schedule["images_per_step"] / 64),
        "weight_decay": 0.05,
        "warmup_steps": total_steps // 20,
        "layer_decay": 1.0,
        "metric_for_best_model": _metric(asked, multi_label=situation.multi_label),
    }


def _averaging(
    asked: FinetuneConfig, *, num_train: int, total_steps: int, images: Mapping[str, Any]
) -> dict[str, Any]:
    # An average over the last twentieth of the run, and over ten steps at least.
    ema_decay = 1 - 1 / max(10, total_steps / 20) if asked.ema else 0.0
    is_averaged = bool(asked.average_last_epochs) or bool(
        ema_decay if asked.ema_decay is None else asked.ema_decay
    )
    grows = asked.low_resolution_first or images["first_image_size"] != images["train_image_size"]
    return {
        "ema_decay": ema_decay,
        "reestimate_batchnorm": min(num_train, BATCHNORM_IMAGES) if is_averaged or grows else 0,
    }


def _streaming(asked: FinetuneConfig, situation: Situation) -> dict[str, int]:
    if not asked.streaming:
        return {}
    if asked.stream_parts and asked.stream_parts % situation.world_size:
        raise ConfigError(
            f"--stream_parts {asked.stream_parts} cannot be shared equally by {situation.world_size} "
            f"processes. Give a multiple of {situation.world_size}, or another number of processes."
        )
    parts = situation.world_size * math.ceil(_PARTS / situation.world_size)
    return {"shuffle_buffer": _SHUFFLED, "stream_parts": parts}


def _synchronizes_batchnorm(asked: FinetuneConfig, situation: Situation, *, batch_size: int) -> bool:
    """Whether BatchNorm asks the other processes: then one and many give the same weights, to rounding.

    On GPUs each of its layers then waits for the program three times, so there it is for small batches.
    """
    if asked.sync_batchnorm == "auto" and situation.has_gpus and batch_size >= ENOUGH_FOR_BATCHNORM:
        return False
    return situation.world_size > 1 and asked.sync_batchnorm != "no"


def _check_labels(asked: FinetuneConfig, *, multi_label: bool) -> None:
    flag = "label_smoothing" if asked.label_smoothing else "loss"
    if multi_label and (asked.label_smoothing or asked.loss == "binary_cross_entropy"):
        raise ConfigError(
            f"--{flag} is for single-label data, and this data set is multi-label. Leave it out: multi-label "
            "data always uses binary cross-entropy, without smoothing."
        )


def _check_warmup(asked: FinetuneConfig, *, total_steps: int) -> None:
    if (asked.warmup_steps or 0) > total_steps:
        raise ConfigError(
            f"--warmup_steps {asked.warmup_steps}: the run has {total_steps} steps, so its rate would never "
            f"reach its peak. Give at most {total_steps}; the default here is {total_steps // 20}."
        )


def _batches(config: FinetuneConfig, *, num_train: int, world_size: int) -> dict[str, int]:
    """How the images of a step are shared out to processes and micro-batches."""
    micro = config.gradient_accumulation_steps
    batch_size, per_step = config.per_device_train_batch_size, config.images_per_step
    if per_step is None and batch_size is not None:
        per_step = batch_size * world_size * micro
    if per_step is None:
        per_step = min(num_train, next(size for limit, size in _BATCH_SIZES if num_train <= limit))
    if batch_size is None:
        batch_size = math.ceil(per_step / (world_size * micro))
    return {
        "images_per_step": per_step,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": max(micro, math.ceil(per_step / (batch_size * world_size))),
    }


def _metric(config: FinetuneConfig, *, multi_label: bool) -> Metric:
    """Where rare classes are to count as much as frequent ones, accuracy is the wrong judge."""
    asked = config.metric_for_best_model
    if asked == "mean_average_precision" and not multi_label:
        raise ConfigError(
            "--metric_for_best_model mean_average_precision is for images with several labels; these have "
            "one each. Use accuracy, macro_f1 or loss."
        )
    if multi_label:
        return asked or "mean_average_precision"
    return asked or ("accuracy" if config.class_weights == "none" else "macro_f1")


def _augmentation(config: FinetuneConfig, image_size: int, network_width: int) -> Augmentation:
    if config.strong_augmentation and network_width >= _WIDE_ENOUGH:
        return "trivialaugment"
    return "crop" if image_size <= SMALL_IMAGE else "light"


def _check_feature_views(config: FinetuneConfig, *, num_train: int, augmentation: str) -> None:
    views = config.feature_views
    if views == 1:
        return
    if not config.pretrained or config.fit_fc_first is False:
        raise ConfigError(f"--feature_views {views} is for fitting fc first, which this run does not do.")
    if augmentation == "none":
        raise ConfigError(f"--feature_views {views} needs an augmentation; with none all views are the same.")
    if not config.streaming and views * num_train > _MOST_FEATURES:  # of a stream only a sample is fitted
        raise ConfigError(
            f"--feature_views {views} of {num_train:,} images are more than the {_MOST_FEATURES:,} features "
            f"that are kept in memory; at most {max(1, _MOST_FEATURES // num_train)} views fit."
        )


def _epochs(config: FinetuneConfig, num_train: int, *, steps_per_epoch: int) -> int:
    shown, (fewest, most) = (
        (_SHOWN_PRETRAINED, _EPOCHS_PRETRAINED)
        if config.pretrained
        else (_SHOWN_FROM_SCRATCH, _EPOCHS_FROM_SCRATCH)
    )
    epochs = max(min(most, max(fewest, round(shown / num_train))), math.ceil(_FEWEST_STEPS / steps_per_epoch))
    return epochs * (_LONGER if config.long_schedule else 1)


def _round_size(size: float, largest: int) -> int:
    """The nearest size that the strides of a network divide, at most `largest`."""
    multiple = 4 if largest <= SMALL_IMAGE else 32
    return min(largest, max(multiple, round(size / multiple) * multiple))
