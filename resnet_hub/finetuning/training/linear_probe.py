"""The new `fc` fitted on features of the frozen network: logistic regression by L-BFGS.

A network whose `fc` starts from random values spends its first steps unlearning what its backbone knew
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features", arXiv:2202.10054). Every image is computed
once, and what is left is a convex problem.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_hub.finetuning.engine.forward import full_float32

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Weights of the squared norm beside the mean loss, strongest first: each starts from the one before."""
PENALTY_WITHOUT_VALIDATION = 1e-3
MAX_ITERATIONS = 300
_MOST_LOGITS = 2**26  # at a time: with their gradient half a gigabyte
_TOLERANCE, _TOLERANCE_TO_COMPARE = 1e-6, 1e-4  # of the gradient; scikit-learn's is 1e-4


@dataclass(frozen=True, kw_only=True)
class LinearClassifier:
    """Weights (classes, features) and biases (classes,), and the penalty that they were fitted with."""

    weight: Tensor
    bias: Tensor
    penalty: float


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Features (images, features) and labels, (images,) or (images, classes)."""

    features: Tensor
    labels: Tensor
    class_weights: Tensor | None = None
    """(classes,): see `losses.class_weights`."""

    def only(self, chosen: Tensor) -> "Examples":
        """Some of them, by a mask (images,)."""
        return replace(self, features=self.features[chosen], labels=self.labels[chosen])

    def losses(self, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
        """The parts of the mean cross-entropy, which add up to it; for several labels of the binary one.

        All logits of many images and classes at once would not fit into the memory of a GPU.
        """
        rows = max(1, _MOST_LOGITS // len(weight))
        total = self._weight_of(self.labels)
        for features, labels in zip(self.features.split(rows), self.labels.split(rows), strict=True):
            logits = F.linear(features, weight, bias)
            if labels.ndim > 1:
                loss = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.class_weights)
            else:
                loss = F.cross_entropy(logits, labels, weight=self.class_weights)
            yield loss * (self._weight_of(labels) / total)

    def _weight_of(self, labels: Tensor) -> Tensor | int:
        """What the mean over some images weighs in the mean over all."""
        if self.class_weights is None or labels.ndim > 1:
            return len(labels)
        return self.class_weights[labels].sum()


def fit_linear_classifier(
    train: Examples,
    validation: Examples | None,
    *,
    num_classes: int,
    between_penalties: Callable[[], None] = lambda: None,
    agree_any: Callable[[bool], bool] = bool,
) -> LinearClassifier:
    """The classifier of lowest validation loss over the penalties; of a penalty of 1e-3 without validation.

    Penalties are tried from the strongest on, until one is worse than the one before, and only the best is
    solved to the end: weak penalties need the most iterations, and most of them when they fit too closely.
    Features are standardised for the fit, so that one penalty suits them all, and the result is for them as
    they came. Works on the device of the features.

    Where several processes do this, `agree_any` says whether any of them would end the search: their devices
    may round differently, and all have to try the same penalties.
    """
    standard, mean, scale = _standardized(train)
    weight, bias = _zeros(train, num_classes)

    def as_they_came(penalty: float) -> LinearClassifier:
        return LinearClassifier(weight=weight / scale, bias=bias - (weight / scale) @ mean, penalty=penalty)

    best = PENALTY_WITHOUT_VALIDATION, weight, bias
    lowest = float("inf")
    for penalty in PENALTIES:
        if validation is None:
            break
        between_penalties()
        weight, bias = minimise(standard, weight, bias, penalty=penalty, tolerance=_TOLERANCE_TO_COMPARE)
        loss = _validation_loss(as_they_came(penalty), validation)
        if agree_any(loss >= lowest):
            break
        best, lowest = (penalty, weight, bias), loss
    between_penalties()
    penalty, weight, bias = best
    weight, bias = minimise(standard, weight, bias, penalty=penalty)
    return as_they_came(penalty)


def fit_with_penalty(train: Examples, penalty: float, *, num_classes: int) -> LinearClassifier:
    """The classifier of one penalty, solved as far as is enough to compare it with others."""
    standard, mean, scale = _standardized(train)
    weight, bias = _zeros(train, num_classes)
    weight, bias = minimise(standard, weight, bias, penalty=penalty, tolerance=_TOLERANCE_TO_COMPARE)
    return LinearClassifier(weight=weight / scale, bias=bias - (weight / scale) @ mean, penalty=penalty)


def minimise(
    examples: Examples, weight: Tensor, bias: Tensor, *, penalty: float, tolerance: float = _TOLERANCE
) -> tuple[Tensor, Tensor]:
    """Weight and bias that minimise mean loss + penalty / 2 * |weight|^2, starting from the given ones.

    Full-batch L-BFGS with a strong Wolfe line search (Nocedal and Wright 2006, algorithms 3.5 and 7.5).
    """
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        total = penalty / 2 * weight.square().sum()
        total.backward()
        for loss in examples.losses(weight, bias):
            loss.backward()
            total = total.detach() + loss.detach()
        return total

    with full_float32():  # TF32's noise is far above the solver's tolerance
        solver.step(objective)  # pyright: ignore[reportArgumentType]  its stub wants a float
    return weight.detach(), bias.detach()


@torch.no_grad()
def set_classifier(model: nn.Module, classifier: LinearClassifier) -> None:
    """Copy the classifier into the model's last layer."""
    layer: nn.Linear = model.get_classifier()  # pyright: ignore[reportCallIssue, reportAssignmentType]
    layer.weight.copy_(classifier.weight)
    layer.bias.copy_(classifier.bias)


def _standardized(train: Examples) -> tuple[Examples, Tensor, Tensor]:
    """The examples with features of mean 0 and deviation 1, and what these were before, (features,) each."""
    mean = train.features.mean(dim=0)
    scale = train.features.std(dim=0, correction=0).clamp(min=1e-6)
    return replace(train, features=(train.features - mean) / scale), mean, scale


def _zeros(train: Examples, num_classes: int) -> tuple[Tensor, Tensor]:
    features = train.features
    return features.new_zeros(num_classes, features.shape[1]), features.new_zeros(num_classes)


def _validation_loss(classifier: LinearClassifier, validation: Examples) -> float:
    with full_float32():
        return float(sum(validation.losses(classifier.weight, classifier.bias)))
