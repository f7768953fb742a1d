"""Compare an exported file with its model: outputs and speed."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import probabilities

Runner = Callable[[Tensor], list[Tensor]]
"""What runs an exported file: inputs to outputs, the logits last."""

_WARMING_ROUNDS = 2
_ROUNDS = (3, 20)  # at least and at most
_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Differences between an exported file and the model on the same images."""

    logit: float
    """Largest difference of a logit."""
    largest_logit: float
    """The model's largest absolute logit."""
    probability: float
    """Largest difference of a probability."""
    agreement: float
    """Share of the images with the same most probable class."""

    @property
    def share(self) -> float:
        """The largest difference of a logit as a share of the largest logit."""
        return self.logit / max(self.largest_logit, 1e-12)


@torch.inference_mode()
def model_logits(model: nn.Module, pixels: Tensor, batch_size: int) -> Tensor:
    """Logits of the model itself for uint8 images, float32 (images, classes)."""
    preprocessing = Preprocessing.of_model(model)
    return torch.cat([model(preprocessing.normalize(batch)).float() for batch in pixels.split(batch_size)])


def compare(found: Tensor, wanted: Tensor, *, multi_label: bool) -> Deviation:
    """Deviation of the logits `found` from the model's own, `wanted`; NaN counts as infinitely far."""
    found = found.float()
    shares = [probabilities(logits, multi_label=multi_label) for logits in (found, wanted)]
    is_finite = bool(found.isfinite().all())
    return Deviation(
        logit=float((found - wanted).abs().max()) if is_finite else float("inf"),
        largest_logit=float(wanted.abs().max()),
        probability=float((shares[0] - shares[1]).abs().max()) if is_finite else 1.0,
        agreement=float((found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean()),
    )


@torch.inference_mode()
def images_per_second(forms: Mapping[str, tuple[Runner, Tensor]]) -> dict[str, float]:
    """Images per second of each form: the median over rounds that run every form once, in turns.

    Each round begins with another form, so that other load on the machine slows all forms alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    order = list(forms)
    begin = time.perf_counter()
    for number in range(_WARMING_ROUNDS + _ROUNDS[1]):
        if number >= _WARMING_ROUNDS + _ROUNDS[0] and time.perf_counter() - begin > _SECONDS:
            break
        order = [*order[1:], order[0]]
        for name in order:
            run, images = forms[name]
            start = time.perf_counter()
            run(images)
            if number >= _WARMING_ROUNDS:
                seconds[name].append(time.perf_counter() - start)
    return {name: len(forms[name][1]) / statistics.median(times) for name, times in seconds.items()}
