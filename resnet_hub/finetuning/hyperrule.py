"""What the options left open become: a rule by the size of the data set, the image and the start weights.

In the spirit of the BiT-HyperRule (Kolesnikov et al. 2020, arXiv:1912.11370, section 3.3): the data set
decides, the user overrides, and what was decided is printed and recorded.
"""

import math

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config import FinetuneConfig, with_options

# Up to this many training images: (images per optimizer step).
_BATCH_SIZES = ((5_000, 64), (50_000, 128), (math.inf, 256))

# Images shown in all, and the range of epochs that this may come to.
_SHOWN_PRETRAINED, _EPOCHS_PRETRAINED = 60_000, (5, 30)
_SHOWN_FROM_SCRATCH, _EPOCHS_FROM_SCRATCH = 40_000, (30, 90)

# Images whose features are kept in memory to fit fc: with 2048 of them an image these are 1.6 GB.
_MOST_FEATURES = 200_000

SMALL_IMAGE = 64  # pixels; up to here images are padded and cropped, above they are cropped and resized


def complete(
    config: FinetuneConfig, *, num_train: int, multi_label: bool, model_image_size: int, world_size: int
) -> FinetuneConfig:
    """The configuration with every open training option decided.

    Args:
        config: What the user asked for.
        num_train: Images in the training split.
        multi_label: Whether an image has any number of labels; smoothing is then not defined.
        model_image_size: Image size in pixels that the model's weights were made for.
        world_size: Training processes; the images per step do not depend on it.
    """
    if multi_label and config.label_smoothing:
        raise ConfigError("--label_smoothing is for classes that exclude each other; these labels do not.")
    image_size = config.image_size or model_image_size
    per_step = next(size for limit, size in _BATCH_SIZES if num_train <= limit)
    shares = world_size * config.gradient_accumulation_steps
    batch_size = config.per_device_train_batch_size or max(1, min(per_step, num_train) // shares)
    shown, (fewest, most) = (
        (_SHOWN_PRETRAINED, _EPOCHS_PRETRAINED)
        if config.pretrained
        else (_SHOWN_FROM_SCRATCH, _EPOCHS_FROM_SCRATCH)
    )
    epochs = config.num_train_epochs
    if epochs is None:
        epochs = min(most, max(fewest, round(shown / num_train)))
    steps_per_epoch = math.ceil(num_train / (batch_size * shares))
    if config.max_train_steps:
        epochs = math.ceil(config.max_train_steps / steps_per_epoch)
    total_steps = config.max_train_steps or epochs * steps_per_epoch
    # Adam's rate grows with the square root of the batch (Malladi et al. 2022, arXiv:2205.10287).
    rate_at_64 = 5e-4 if config.pretrained else 3e-3
    decided = {
        "fit_fc_first": config.pretrained and num_train <= _MOST_FEATURES,
        "label_smoothing": 0.0 if multi_label else 0.1,
        "image_size": image_size,
        "augmentation": "crop" if image_size <= SMALL_IMAGE else "light",
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 2 * batch_size,
        "num_train_epochs": epochs,
        "learning_rate": rate_at_64 * math.sqrt(batch_size * shares / 64),
        "weight_decay": 0.05,
        "warmup_steps": total_steps // 20,
    }
    still_open = {name: value for name, value in decided.items() if getattr(config, name) is None}
    return with_options(config, **still_open | {"num_train_epochs": epochs})
