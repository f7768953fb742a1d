"""Learning curves of a run; their captions tell what sets training loss apart from validation loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from resnet_hub.finetuning.report.figures import (
    Events,
    as_svg,
    loss_curve,
    rate_curve,
    score_curve,
    was_trained,
)

# Option -> what it adds to the loss of training, which validation's has not.
_REGULARIZERS = {
    "augmentation": "augmentation",
    "mixup": "mixup",
    "cutmix": "CutMix",
    "drop_path_rate": "drop path",
    "class_weights": "class weights",
    "teacher_model": "distance from the teacher",
    "label_smoothing": "label smoothing {}",
}

_OFF = (None, "none", 0)
_CHANGES_TARGETS = {"mixup", "CutMix", "class weights", "distance from the teacher"}


def curve_charts(
    events: Events,
    settings: Mapping[str, Any],
    *,
    num_classes: int,
    multi_label: bool,
    kept_epoch: int | None,
) -> dict[str, Markup]:
    """Caption -> chart of each curve that there is; none without training steps.

    Args:
        events: The lines of `metrics.jsonl`.
        settings: Option -> value, of those that had an effect.
        num_classes: Number of classes.
        multi_label: Whether an image has any number of labels.
        kept_epoch: Epoch of the exported weights, 0 for the linear probe; None where it is not known.
    """
    if not was_trained(events):
        return {}
    if multi_label:  # binary cross-entropy on both splits, without smoothing, whatever the options say
        settings = {**settings, "loss": "", "label_smoothing": 0}
    runs, causes = {"": events}, regularizers(settings)
    has_probe = any(event["event"] == "fit_fc" for event in events)
    drawn = {
        "Loss": (
            loss_curve(runs, kept_epoch=kept_epoch, trained_with="regularized" if causes else ""),
            _loss_caption(settings, causes, num_classes)
            if any(event["event"] == "train" for event in events)
            else "Validation loss; training was over before the first mean of ten steps.",
        ),
        "Accuracy and macro F1 on validation": (
            score_curve(runs, kept_epoch=kept_epoch),
            "Scores on the validation split, before the first epoch (linear probe) and after each."
            if has_probe
            else "Scores on the validation split after each epoch.",
        ),
        "Learning rate": (rate_curve(events), "Learning rate of each step."),
    }
    return {caption: as_svg(figure, name) for name, (figure, caption) in drawn.items() if figure is not None}


def regularizers(settings: Mapping[str, Any]) -> list[str]:
    """What adds to the loss of training, of the options that had an effect, in words."""
    values = {name: settings.get(name) for name in _REGULARIZERS}
    return [_REGULARIZERS[name].format(value) for name, value in values.items() if value not in _OFF]


def _loss_caption(settings: Mapping[str, Any], causes: list[str], num_classes: int) -> str:
    """Why training loss lies above validation loss in a healthy run."""
    if settings.get("loss") == "binary_cross_entropy":
        return (
            "Training loss (dashed, mean of ten steps) is binary cross-entropy and validation loss is "
            "cross-entropy: compare how they move, not how high they are."
        )
    if not causes:
        return "Loss of training (dashed, mean of ten steps) and of validation."
    floor = _smoothing_floor(settings.get("label_smoothing") or 0.0, num_classes)
    is_exact = floor and not _CHANGES_TARGETS & set(causes)
    least = f", so even a perfect model has {floor:.2f}" if is_exact else ""
    return (
        f"Training loss (dashed, mean of ten steps) includes {' and '.join(causes)}{least}. Validation loss "
        "does not, so it can be lower."
    )


def _smoothing_floor(smoothing: float, num_classes: int) -> float:
    """Cross-entropy of a model that predicts the smoothed targets exactly."""
    rest = smoothing / num_classes
    shares = np.array([1 - smoothing + rest, *[rest] * (num_classes - 1)])
    return float(-(shares * np.log(shares)).sum()) if smoothing else 0.0
