"""From logits and labels to the numbers of a report, by scikit-learn."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)
from torch import Tensor

from resnet_hub.errors import ConfigError, UserError
from resnet_hub.finetuning.config.options import Metric
from resnet_hub.finetuning.report.predictions import Predictions
from resnet_hub.finetuning.report.reliability import expected_calibration_error, reliability_bins
from resnet_hub.prediction.classify import probabilities
from resnet_hub.results import ClassScore, Score, wilson_interval

_MOST_AT_A_TIME = 2**22  # numbers, of 8 bytes
_ABSENT: Any = 0.0  # precision of a class that is never predicted, recall of one that never occurs


OwnMetrics = Mapping[str, Callable[[NDArray[Any], NDArray[np.float32]], Any]]
"""A user's metrics by name: functions of the labels of a split and its probabilities (images, classes)."""

_TAKEN = {field.name for field in fields(Score)} | {"event", "step", "epoch", "time"}


def check_own_metrics(own: OwnMetrics, labels: NDArray[Any] | None, *, num_classes: int) -> None:
    """Raise UserError for metrics that cannot score these labels, by trying them on random probabilities."""
    if not isinstance(own, Mapping):
        raise ConfigError(f"metrics is a {type(own).__name__}. Give a dictionary from name to function.")
    for name, compute in own.items():
        if not isinstance(name, str) or not name.strip() or name in _TAKEN or not callable(compute):
            raise ConfigError(
                f"metrics: {name!r} is no metric. Give a function of (labels, probabilities) under a name "
                f"besides {', '.join(sorted(_TAKEN))}."
            )
    if labels is not None and own:
        shares = np.random.default_rng(0).dirichlet(np.ones(num_classes), len(labels))
        _own_values(own, labels, shares.astype(np.float32))


def _own_values(own: OwnMetrics, labels: NDArray[Any], shares: NDArray[np.float32]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, compute in own.items():
        try:
            value = compute(labels.copy(), shares.copy())
        except Exception as error:
            raise UserError(
                f"The metric {name!r} failed on {len(labels)} labels and probabilities {shares.shape}: "
                f"{type(error).__name__}: {error}"
            ) from error
        value = value.item() if getattr(value, "ndim", None) == 0 else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"The metric {name!r} gave {value!r}, and a metric is a number.")
        found[name] = float(value)
    return found


def score_predictions(
    logits: Tensor, labels: Tensor, class_names: tuple[str, ...], *, own: OwnMetrics | None = None
) -> Score:
    """Score of one split.

    Args:
        logits: (images, classes), float32.
        labels: (images,) class numbers; or (images, classes) of zeros and ones for a multi-label data set.
        class_names: A name for each class.
        own: Metrics of the user's own to add.

    Raises:
        UserError: one of them fails, or gives no number.
    """
    score = (_score_multi_label if labels.ndim == 2 else _score_single_label)(logits, labels, class_names)
    if not own:
        return score
    shares = probabilities(logits, multi_label=labels.ndim == 2)
    return replace(score, metrics=_own_values(own, labels.numpy(), shares.numpy()))


def _score_single_label(logits: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Score:
    predicted = logits.argmax(dim=1)
    in_top5 = (logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]).any(dim=1)
    correct, total = int((predicted == labels).sum()), len(labels)
    loss, confidence = _loss_and_confidence(logits, labels)
    # Classes that neither occur nor are predicted have no F1; the mean is over the others.
    present = np.union1d(labels.numpy(), predicted.numpy())
    macro_f1 = f1_score(labels, predicted, labels=present, average="macro", zero_division=_ABSENT)
    return Score(
        accuracy=correct / total,
        accuracy_interval_95=wilson_interval(correct, total),
        top5_accuracy=int(in_top5.sum()) / total,
        macro_f1=float(macro_f1),
        loss=loss,
        num_images=total,
        expected_calibration_error=_calibration_error(confidence, predicted == labels),
        per_class=_class_scores(labels.numpy(), predicted.numpy(), class_names, range(len(class_names))),
    )


def value_of(score: Score, metric: Metric) -> float:
    """The metric, such that higher is better."""
    return -score.loss if metric == "loss" else getattr(score, metric)


def confusion_counts(predictions: Predictions) -> np.ndarray:
    """Images (classes, classes) of single-label data: rows are true classes, columns predicted ones."""
    num_classes = predictions.probabilities.shape[1]
    predicted = predictions.probabilities.argmax(axis=1)
    return confusion_matrix(predictions.labels, predicted, labels=range(num_classes))


def _score_multi_label(logits: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Score:
    predicted = logits > 0
    truth = labels > 0.5
    exact, total = int((predicted == truth).all(dim=1).sum()), len(labels)
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    occurring = truth.any(dim=0).numpy()
    present = np.flatnonzero(occurring | predicted.any(dim=0).numpy())  # as above
    macro_f1 = f1_score(
        truth, predicted, labels=present if len(present) else None, average="macro", zero_division=_ABSENT
    )
    if not torch.isfinite(logits).all():
        mean_precision = math.nan
    elif not occurring.any():
        mean_precision = 0.0
    else:
        mean_precision = average_precision_score(truth.numpy()[:, occurring], logits.numpy()[:, occurring])
    return Score(
        accuracy=exact / total,
        accuracy_interval_95=wilson_interval(exact, total),
        top5_accuracy=float(truth.gather(1, top).any(dim=1).double().mean()),
        macro_f1=float(macro_f1),
        loss=float(F.binary_cross_entropy_with_logits(logits.double(), labels.double())),
        num_images=total,
        mean_average_precision=float(mean_precision),
        per_class=_class_scores(truth.numpy(), predicted.numpy(), class_names, None),
    )


def _loss_and_confidence(logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Mean cross-entropy, and the highest probability of each image.

    In double precision, and a part of the images at a time: of many classes all would be gigabytes.
    """
    loss, confidence = 0.0, []
    rows = max(1, _MOST_AT_A_TIME // logits.shape[1])
    for some_logits, some_labels in zip(logits.split(rows), labels.split(rows), strict=True):
        exact = some_logits.double()
        loss += float(F.cross_entropy(exact, some_labels)) * (len(some_labels) / len(labels))
        confidence.append(probabilities(exact, multi_label=False).amax(dim=1))
    return loss, torch.cat(confidence)


def _calibration_error(confidence: Tensor, is_right: Tensor) -> float:
    return expected_calibration_error(reliability_bins(confidence.numpy(), is_right.numpy()))


def _class_scores(
    truth: np.ndarray, predicted: np.ndarray, class_names: tuple[str, ...], numbers: range | None
) -> tuple[ClassScore, ...]:
    columns: Any = precision_recall_fscore_support(truth, predicted, labels=numbers, zero_division=_ABSENT)
    return tuple(
        ClassScore(name=name, precision=float(p), recall=float(r), f1=float(f), num_images=int(n))
        for name, p, r, f, n in zip(class_names, *columns, strict=True)
    )
