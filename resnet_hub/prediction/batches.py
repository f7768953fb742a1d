"""Many images to labels, batch by batch on the best device; the images need not fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from resnet_hub.hub.weights import unwrap
from resnet_hub.images.decoding import BadImageError, open_image
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import (
    Prediction,
    class_names_of,
    compute_probabilities,
    most_probable,
)
from resnet_hub.shared_memory import fit_workers

_MAX_WORKERS = 16
_AHEAD = 2  # batches that each reads ahead
_FEW_IMAGES = 64  # for so many, starting loader processes takes longer than they save


class Readable(Protocol):
    """An image with a name whose bytes can be read."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def read(self) -> bytes:
        """The encoded bytes; raises BadImageError."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """The prediction for one image, or why there is none."""

    name: str
    predictions: tuple[Prediction, ...]
    """The most probable classes, best first; none if the image cannot be read."""
    problem: str | None = None
    """Why it cannot be read."""


def predict_images(
    model: nn.Module,
    images: Sequence[Readable],
    *,
    top_k: int = 5,
    batch_size: int = 64,
    num_workers: int | None = None,
    temperature: float = 1.0,
    device: torch.device | None = None,
    each_batch: Callable[[list[str], Tensor], None] | None = None,
) -> Iterator[ImagePrediction]:
    """Predict each image, in order; an unreadable image gets a `problem` and stops nothing.

    Args:
        model: What `resnet_hub.load` or `timm.create_model` gives; it is put on the device, in eval mode.
        images: What `find_images` gives, or anything with a name and bytes.
        top_k: Number of classes for each image.
        batch_size: Images computed at once.
        num_workers: Data-loader workers. Default: from the cores; none on a CPU.
        temperature: Divides the logits; `temperature.py` fits it.
        device: Where to compute. Default: the first GPU, else the CPU.
        each_batch: Called with the names and the uint8 pixels of the readable images of each batch.
    """
    device = best_device() if device is None else device
    model = unwrap(model)
    names = class_names_of(model)
    preprocessing = Preprocessing.of_model(model)
    model = model.eval().to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    workers = _choose_workers(len(images), device) if num_workers is None else num_workers
    workers, ahead = fit_workers(workers, _AHEAD, batch_bytes=batch_size * preprocessing.num_bytes)
    loader = DataLoader(
        _Decoded(images, preprocessing),
        batch_size=batch_size,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        collate_fn=_as_it_is,
    )
    for batch in loader:
        good = [(name, pixels) for name, pixels, _ in batch if pixels is not None]
        found = iter(())
        if good:
            pixels = torch.stack([pixels for _, pixels in good]).contiguous(memory_format=torch.channels_last)
            shares = compute_probabilities(model, pixels, preprocessing, temperature=temperature)
            found = iter(most_probable(shares, names, top_k))
            if each_batch is not None:
                each_batch([name for name, _ in good], pixels)
        for name, pixels, problem in batch:
            predictions = () if pixels is None else tuple(next(found))
            yield ImagePrediction(name=name, predictions=predictions, problem=problem)


def best_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


_Decoding = tuple[str, Tensor | None, str | None]


class _Decoded(Dataset[_Decoding]):
    """(name, uint8 pixels, None), or (name, None, what is wrong with it)."""

    def __init__(self, images: Sequence[Readable], preprocessing: Preprocessing) -> None:
        self._images, self._preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> _Decoding:
        image = self._images[index]
        try:
            return image.name, self._preprocessing(open_image(image.read(), self._preprocessing.mode)), None
        except BadImageError as error:
            return image.name, None, str(error)


def _as_it_is(batch: list[_Decoding]) -> list[_Decoding]:
    return batch


def _choose_workers(num_images: int, device: torch.device) -> int:
    """Zero on a CPU, where the network needs every core, and zero for a handful of images."""
    if device.type == "cpu" or num_images <= _FEW_IMAGES:
        return 0
    return min(_MAX_WORKERS, torch.get_num_threads())
