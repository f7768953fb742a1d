"""From images to labels, with a model that knows its own preprocessing and class names."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnet_hub.errors import ModelError
from resnet_hub.hub.weights import unwrap
from resnet_hub.images.decoding import ImageSource, open_image
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.models.names import has_published_classifier


class Prediction(NamedTuple):
    """A class and its probability, between 0 and 1."""

    label: str
    probability: float


def classify(model: nn.Module, image: ImageSource, *, top_k: int = 5) -> list[Prediction]:
    """The most probable classes of one image, best first.

    Args:
        model: What `resnet_hub.load` or `timm.create_model` gives, in whatever wrapping (DDP, compile, EMA).
        image: A path, the bytes of a file, a PIL image, or a uint8 array (height, width, 3).
        top_k: Number of classes.
    """
    return classify_all(model, [image], top_k=top_k)[0]


def classify_all(
    model: nn.Module, images: Iterable[ImageSource], *, top_k: int = 5
) -> list[list[Prediction]]:
    """The most probable classes of each image, computed as one batch; of no images, an empty list."""
    names = class_names_of(model)
    return most_probable(predict_probabilities(model, images), names, top_k)


def predict_probabilities(model: nn.Module, images: Iterable[ImageSource]) -> Tensor:
    """Probabilities (images, classes), float32 on the CPU, of one batch of images.

    DDP, `torch.compile` and averaged models are taken off: a batch of one process must not wait for others,
    or for a compiler. Each module of the network has its own mode back afterwards.
    """
    network = unwrap(model)
    preprocessing = Preprocessing.of_model(network)
    pixels = [preprocessing(open_image(image, mode=preprocessing.mode)) for image in images]
    if not pixels:
        return torch.empty(0, len(class_names_of(network)))
    with _evaluating(network):
        return compute_probabilities(network, torch.stack(pixels), preprocessing)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; a frozen BatchNorm among modules in training is frozen again after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.inference_mode()
def compute_probabilities(
    model: nn.Module, pixels: Tensor, preprocessing: Preprocessing, *, temperature: float = 1.0
) -> Tensor:
    """Probabilities (images, classes) on the CPU of a batch of uint8 images, wherever the model is."""
    parameter = next(model.parameters())
    batch = preprocessing.normalize(pixels.to(parameter.device), dtype=parameter.dtype)
    logits = model(batch).float().cpu() / temperature
    if not logits.isfinite().all():
        raise ModelError(
            "The model answers NaN or infinity: its weights, or its mean and std, are too large. "
            "Load another."
        )
    return probabilities(logits, multi_label=bool(getattr(model, "multi_label", False)))


def probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Probabilities (images, classes): softmax over the classes, or one sigmoid per class if multi-label."""
    return torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)


def most_probable(shares: Tensor, names: list[str], top_k: int) -> list[list[Prediction]]:
    """The `top_k` most probable classes of each row of `shares` (images, classes), best first."""
    best = shares.topk(min(top_k, len(names)), dim=1)
    return [
        [Prediction(names[number], share) for share, number in zip(values, numbers, strict=True)]
        for values, numbers in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def class_names_of(model: nn.Module) -> list[str]:
    """Names of the model's classes; raises ModelError if nothing tells them, or there is one class alone.

    They are those of its `pretrained_cfg`, or ImageNet's for a classifier that timm publishes.
    """
    network = unwrap(model)
    cfg: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    names, num_classes = cfg.get("label_names"), getattr(network, "num_classes", None)
    if num_classes == 1 and not getattr(network, "multi_label", False):
        raise ModelError(
            "This model has one output, and the probability of a single class is always 1. Give it an output "
            "for each answer (no, yes), or set model.multi_label = True for one sigmoid per output."
        )
    if names and len(names) == num_classes:
        return list(names)
    if num_classes == 1000 and has_published_classifier(network):
        from timm.data import ImageNetInfo  # noqa: PLC0415  reads tables from disk, only for ImageNet models

        info = ImageNetInfo("imagenet-1k")
        return [str(info.index_to_description(number)) for number in range(num_classes)]
    if num_classes == 1000 and not names:
        raise ModelError(
            "This model has 1000 classes and no class names, and its last layer is not that of weights of "
            "ImageNet that timm publishes. Set model.pretrained_cfg['label_names']; if the classes are "
            "ImageNet's, to timm.data.ImageNetInfo().label_descriptions()."
        )
    raise ModelError(
        f"This model has {num_classes} classes and {len(names or ())} class names, which have to match. "
        "Fine-tune it, load a model with resnet_hub.load(folder), or set model.pretrained_cfg['label_names']."
    )
