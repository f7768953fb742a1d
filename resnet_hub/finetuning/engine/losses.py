"""What training minimizes, summed over the images of a batch, so that uneven batches weigh as they should."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.finetuning.config.options import ClassWeights, Loss
from resnet_hub.finetuning.config.settings import LossSettings, TeacherSettings

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What a network learns from a teacher beside the labels."""

    teacher: Callable[[Tensor], Tensor]
    """Logits (batch, classes) of images as the network takes them."""
    loss: LossFunction
    """Distance of the logits from the teacher's, summed over the images."""
    weight: float
    """Share of this loss; the labels have the rest."""


def make_loss_function(
    settings: LossSettings, labels: np.ndarray, *, num_classes: int, device: torch.device
) -> LossFunction:
    """The loss of logits (images, classes) and targets, summed over the images.

    Targets are int64 classes (images,) or float32 shares of each class (images, classes). Cross-entropy is
    that of the softmax; binary cross-entropy is the mean over the classes, each a question of its own
    (Wightman et al. 2021, arXiv:2110.00476, section 2), and for images with several labels the only one.

    Args:
        settings: Which loss, with which smoothing and weights.
        labels: Those of the training split, for the class weights.
        num_classes: Outputs of the network.
        device: Where the logits are.
    """
    smoothing, threshold = settings.label_smoothing, settings.bce_target_threshold
    weights = class_weights(settings.class_weights, labels, num_classes=num_classes, device=device)
    if labels.ndim > 1:
        return lambda logits, targets: _binary(logits, targets, positive_weights=weights).sum()
    if settings.loss == "cross_entropy":
        return lambda logits, targets: F.cross_entropy(
            logits, targets, weight=weights, label_smoothing=smoothing, reduction="sum"
        )

    def loss_of_questions(logits: Tensor, targets: Tensor) -> Tensor:
        shares = F.one_hot(targets, num_classes).to(logits.dtype) if targets.ndim == 1 else targets
        smoothed = shares * (1 - smoothing) + smoothing / num_classes
        if threshold < math.inf:
            smoothed = (smoothed > threshold).to(logits.dtype)
        losses = _binary(logits, smoothed)
        return losses.sum() if weights is None else losses @ (shares @ weights)

    return loss_of_questions


def class_weights(
    kind: ClassWeights, labels: np.ndarray, *, num_classes: int, device: torch.device
) -> Tensor | None:
    """The weight of each class, (classes,), or None where all weigh the same.

    Of classes that exclude each other: of an image of the class, and rare ones weigh more. Of several labels
    an image: of having the label, beside not having it.
    """
    if kind == "none":
        return None
    weights = _class_weights(labels, num_classes) if labels.ndim == 1 else _positive_weights(labels)
    return torch.as_tensor(weights, dtype=torch.float32, device=device)


def make_distillation_loss(settings: TeacherSettings, loss: Loss) -> LossFunction:
    """The distance of logits (images, classes) from a teacher's, summed over the images.

    Beside binary cross-entropy, which is a mean over the classes, it is one too: else the share of the labels
    would shrink with the number of classes.
    """
    is_mean = loss == "binary_cross_entropy"

    def distance_of(logits: Tensor, teacher_logits: Tensor) -> Tensor:
        distance = distillation_loss(logits, teacher_logits, temperature=settings.distillation_temperature)
        return distance / logits.shape[1] if is_mean else distance

    return distance_of


def distillation_loss(logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Divergence of the softmax from the teacher's, both softened, summed over the images.

    Times the square of the temperature, so that its gradient has the same size at any temperature (Hinton et
    al. 2015, arXiv:1503.02531, section 2).
    """
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="sum",
        log_target=True,
    )
    return divergence * temperature**2


def _binary(logits: Tensor, targets: Tensor, *, positive_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each image, (images,): the mean over the classes."""
    losses = F.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=positive_weights, reduction="none"
    )
    return losses.mean(dim=1)


def _class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Weight of each class, (classes,): inverse to its images, one in the mean over the images."""
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * counts.clip(min=1)), 1.0)


def _positive_weights(labels: np.ndarray) -> np.ndarray:
    """Weight of the images that have a label, (classes,): as much in sum as those that do not have it."""
    having = labels.sum(axis=0)
    lacking = len(labels) - having
    return np.where((having > 0) & (lacking > 0), lacking / having.clip(min=1), 1.0)
