"""Which values of the options no run could use, each alone and together."""

import math
from collections.abc import Callable
from typing import Any

from resnet_hub.cards.licenses import known_license
from resnet_hub.errors import ConfigError

_MOST = 2**63  # what PyTorch and NumPy take as a seed or a count

# (fields, test, what a valid value is)
_RANGES: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (
        (
            "feature_views",
            "max_train_steps",
            "max_train_samples",
            "max_eval_samples",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "images_per_step",
            "gradient_accumulation_steps",
            "repeated_augmentation",
            "early_stopping_epochs",
            "gradual_unfreezing",
            "shuffle_buffer",
            "stream_parts",
        ),
        lambda value: value >= 1,
        "1 or more",
    ),
    (
        ("image_size", "first_image_size", "train_image_size"),
        lambda value: 1 <= value <= 2048,
        "from 1 to 2048 pixels",
    ),
    (
        (
            "max_minutes",
            "learning_rate",
            "max_grad_norm",
            "checkpoint_minutes",
            "image_cache_gb",
            "distillation_temperature",
            "feature_cache_gb",
            "ddp_timeout",
        ),
        lambda v: v > 0,
        "above 0",
    ),
    (
        (
            "num_train_epochs",
            "weight_decay",
            "warmup_steps",
            "dataloader_num_workers",
            "seed",
            "reestimate_batchnorm",
            "image_memory_gb",
            "mixup",
            "cutmix",
            "color_jitter",
            "frozen_stages",
            "average_last_epochs",
        ),
        lambda value: value >= 0,
        "0 or more",
    ),
    (
        ("validation_fraction", "test_fraction", "label_smoothing", "max_bad_images"),
        lambda value: 0 <= value < 1,
        "at least 0 and below 1",
    ),
    (
        ("ema_decay", "drop_path_rate", "bce_target_threshold"),
        lambda value: 0 <= value < 1,
        "at least 0 and below 1",
    ),
    (("layer_decay", "crop_pct"), lambda value: 0 < value <= 1, "above 0 and at most 1"),
    (
        ("horizontal_flip", "random_erasing", "distillation_weight"),
        lambda value: 0 <= value <= 1,
        "between 0 and 1",
    ),
)


# Options of steps, and what they are where they do nothing.
_OF_STEPS: dict[str, Any] = {
    "max_minutes": None,
    "mixup": 0.0,
    "cutmix": 0.0,
    "drop_path_rate": 0.0,
    "loss": "cross_entropy",
    "max_grad_norm": None,
    "gradual_unfreezing": None,
    "teacher_model": None,
    "ema": False,
    "average_last_epochs": 0,
    "low_resolution_first": False,
    "early_stopping_epochs": None,
    "gradient_checkpointing": False,
    "torch_compile": False,
}


def _options_of_steps(config: Any) -> list[str]:
    """Those of them that are given."""
    return [name for name, nothing in _OF_STEPS.items() if getattr(config, name) != nothing]


# (whether the options contradict each other, what to say; with the options' values in braces)
_CONTRADICTIONS: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (
        lambda c: c.dataset_name and c.train_dir,
        "Use either --dataset_name {dataset_name} or --train_dir {train_dir}, not both.",
    ),
    (
        lambda c: not c.train_dir and (c.validation_dir or c.test_dir),
        "--validation_dir and --test_dir go with --train_dir, which is not given.",
    ),
    (
        lambda c: c.fit_fc_first and not c.pretrained,
        "Fitting fc first (--fit_fc_first, --recipe quick) needs features of pretrained weights, and "
        "--no-pretrained starts from random ones. Leave out one of the two.",
    ),
    (
        lambda c: c.num_train_epochs == 0 and c.max_train_steps,
        "--num_train_epochs 0 (--recipe quick) has no steps, and --max_train_steps asks for some.",
    ),
    (
        lambda c: c.num_train_epochs == 0 and (c.fit_fc_first is False or not c.pretrained),
        "--num_train_epochs 0 without --fit_fc_first leaves nothing to be trained.",
    ),
    (
        lambda c: (c.first_image_size or 0) > (c.train_image_size or c.image_size or math.inf),
        "--first_image_size {first_image_size} is above the size of training images, --train_image_size "
        "{train_image_size} or else --image_size {image_size}: images grow towards it.",
    ),
    (
        lambda c: c.optimizer != "adamw" and None in (c.learning_rate, c.weight_decay),
        "--optimizer {optimizer} needs --learning_rate and --weight_decay; for adamw there is a rule.",
    ),
    (
        lambda c: c.bce_target_threshold is not None and c.loss != "binary_cross_entropy",
        "--bce_target_threshold goes with --loss binary_cross_entropy, which is not given.",
    ),
    (
        lambda c: c.average_last_epochs and (c.ema or c.ema_decay),
        "--average_last_epochs {average_last_epochs} and --ema are two kinds of average; use one of them.",
    ),
    (
        lambda c: c.average_last_epochs and (c.max_minutes or c.early_stopping_epochs),
        "--average_last_epochs {average_last_epochs} needs to know which epochs are the last, and "
        "--max_minutes and --early_stopping_epochs may end a run before them. Use --ema in its place.",
    ),
    (
        lambda c: c.num_train_epochs == 0 and _options_of_steps(c),
        "--num_train_epochs 0 (--recipe quick) fits fc and does no steps, and --{of_steps} is for steps. "
        "Leave it out, or use --recipe balanced.",
    ),
    (
        lambda c: not c.streaming and (c.shuffle_buffer or c.stream_parts),
        "--shuffle_buffer and --stream_parts do something only with --streaming.",
    ),
    (
        lambda c: c.streaming and (c.max_train_samples or c.max_eval_samples),
        "--max_train_samples and --max_eval_samples draw images by their labels, which a stream cannot. Take "
        "a slice in their place, such as --train_split 'train[:1000]', or leave out --streaming.",
    ),
    (
        lambda c: c.streaming and c.image_cache,
        "--image_cache keeps training images on the disk, and --streaming does not. Leave out one of them.",
    ),
    (
        lambda c: c.streaming and c.class_weights != "none",
        "--class_weights {class_weights} needs the number of images of each class, which is not known with "
        "--streaming. Leave out one of the two.",
    ),
    (
        lambda c: c.streaming and c.repeated_augmentation > 1,
        "--repeated_augmentation {repeated_augmentation} needs images in any order, and --streaming has them "
        "in one. Leave out one of the two.",
    ),
    (
        lambda c: c.hub_private_repo and c.hub_public_repo,
        "--hub_private_repo and --hub_public_repo exclude each other. Leave out one of the two.",
    ),
    (
        lambda c: c.auto_augment and c.augmentation not in (None, "crop", "light"),
        "--auto_augment {auto_augment} goes with --augmentation crop or light, not with {augmentation}.",
    ),
    (
        lambda c: c.augmentation == "none" and (c.color_jitter or c.random_erasing),
        "--augmentation none leaves training images as evaluation has them, and --color_jitter "
        "{color_jitter} and --random_erasing {random_erasing} would change them. Use crop or light.",
    ),
)


def check_values(config: Any) -> None:
    """Raise ConfigError for a value of a FinetuneConfig out of range or options that exclude each other."""
    for name, value in vars(config).items():
        if isinstance(value, int | float) and not abs(value) < _MOST:  # also not a number
            raise ConfigError(f"--{name} is {str(value)[:40]}; it has to be a number below 2^63.")
    for names, is_valid, wanted in _RANGES:
        for name in names:
            value = getattr(config, name)
            if value is not None and not is_valid(value):
                raise ConfigError(f"--{name} is {value}; it has to be {wanted}.")
    if config.license is not None:
        known_license(config.license)
    for is_wrong, message in _CONTRADICTIONS:
        if is_wrong(config):
            of_steps = ", --".join(_options_of_steps(config))
            raise ConfigError(message.format_map(vars(config) | {"of_steps": of_steps}))
