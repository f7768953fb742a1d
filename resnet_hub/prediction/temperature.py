"""Calibrate probabilities by temperature scaling (Guo et al. 2017, arXiv:1706.04599)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from resnet_hub.errors import ModelError

_RANGE = (0.05, 20.0)
_SMALLEST = 1e-12  # a probability of 0 is a rounded one


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number to divide logits by so that the mean log-likelihood of the labels is largest.

    Each label counts for a little less than certain, (images + 1) / (images + 2): where no image was wrong,
    any answer would be called certain otherwise (Platt 1999, "Probabilistic outputs for support vector
    machines", section 2.2).

    Args:
        logits: (images, classes), of images that were not trained on; log-probabilities do as well.
        labels: (images,) class numbers.
    """
    scores = logits.double()
    num_images, num_classes = logits.shape
    smoothing = num_classes / ((num_images + 2) * max(1, num_classes - 1))

    def loss(inverse: float) -> float:  # convex in 1/temperature
        return float(F.cross_entropy(scores * inverse, labels, label_smoothing=smoothing))

    bounds = (1 / _RANGE[1], 1 / _RANGE[0])
    found: Any = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return 1 / float(found.x)


def temperature_of_run(folder: Path, class_names: Sequence[str]) -> float:
    """The temperature that fits the predictions of a run on its validation split.

    Raises ModelError if the folder is not that of a run with a validation split of single labels.
    """
    path = folder / "predictions.parquet"
    if not path.is_file():
        raise ModelError(
            f"--temperature auto needs the predictions that a run keeps, and there is no {path}. Name a "
            "run's folder, or give the temperature as a number."
        )
    table = pq.read_table(path, filters=[("split", "=", "validation")])
    numbers = {name: number for number, name in enumerate(class_names)}
    texts: list[str] = table["label"].to_pylist()
    if not texts or any(text not in numbers for text in texts):
        raise ModelError(
            f"{path} has no validation images with a single label each, so that no temperature can be "
            "fitted. Give it as a number."
        )
    shares: Any = table["probabilities"].combine_chunks()
    probabilities = torch.tensor(shares.flatten().to_numpy()).double().view(len(texts), -1)
    labels = torch.tensor([numbers[text] for text in texts])
    return fit_temperature(probabilities.clamp_min(_SMALLEST).log(), labels)
