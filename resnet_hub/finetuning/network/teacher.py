"""A trained network that another one learns from: knowledge distillation from any model of timm."""

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from resnet_hub.errors import ConfigError, DataError, ModelError
from resnet_hub.finetuning.network.class_matching import match_classes
from resnet_hub.hub import load
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.models.names import pretrained_overlay, registry_name
from resnet_hub.prediction.classify import class_names_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen network and how to ask it about images that are prepared for the student."""

    network: nn.Module
    order: Tensor | None
    """Place of each class of the student among the teacher's outputs; None if they are the same."""
    scale: Tensor
    """With `offset`, (channels, 1, 1) each: from the student's normalized pixels to the teacher's."""
    offset: Tensor
    size: tuple[int, int] | None
    """Of its images, if it takes no other, as vision transformers do."""

    def on(self, device: torch.device, memory_format: torch.memory_format) -> "Teacher":
        """The teacher on a device, with all that it needs for a step: nothing is left to be copied in one."""
        return replace(
            self,
            network=self.network.to(device, memory_format=memory_format),  # pyright: ignore[reportCallIssue]
            order=None if self.order is None else self.order.to(device),
            scale=self.scale.to(device),
            offset=self.offset.to(device),
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) in the student's order, float32.

        It sees what the student sees, the same crop and the same mixture (Beyer et al. 2021, "Knowledge
        distillation: a good teacher is patient and consistent", arXiv:2106.05237).
        """
        images = images * self.scale + self.offset
        if self.size is not None and images.shape[-2:] != self.size:
            images = interpolate(images, size=self.size, mode="bicubic", antialias=True)
        logits = self.network(images).float()
        return logits if self.order is None else logits[:, self.order]

    def digest(self) -> str:
        """A digest of its weights: a run resumes with the teacher that it began with."""
        digest = hashlib.sha256()
        for tensor in self.network.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_teacher(
    name: str, *, class_names: tuple[str, ...], multi_label: bool, ours: Preprocessing
) -> Teacher | None:
    """The teacher of this name, in evaluation mode on the CPU; None for an empty name.

    Raises ConfigError if there is no such model, or if it does not know the classes.
    """
    if not name:
        return None
    if multi_label:
        raise ConfigError("--teacher_model is for single-label data, and this data set is multi-label.")
    network: Any = _load_network(name).eval().requires_grad_(False)
    theirs = Preprocessing.of_model(network)
    if theirs.num_channels != ours.num_channels:
        raise ConfigError(
            f"--teacher_model {name} takes images of {theirs.num_channels} channels, the student of "
            f"{ours.num_channels}."
        )
    order = _order_of_classes(name, network, class_names)
    mean, std, their_mean, their_std = (
        torch.tensor(values).view(-1, 1, 1) for values in (ours.mean, ours.std, theirs.mean, theirs.std)
    )
    return Teacher(
        network=network,
        order=None if order is None else torch.tensor(order),
        scale=std / their_std,
        offset=(mean - their_mean) / their_std,
        size=theirs.image_size if network.pretrained_cfg.get("fixed_input_size") else None,
    )


def _load_network(name: str) -> nn.Module:
    try:
        registered = registry_name(name)
        overlay = None if registered is None else pretrained_overlay(registered)
    except ModelError as error:
        raise ConfigError(f"--teacher_model: {error}") from error
    return (
        load(name)
        if registered is None
        else timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    )


def _order_of_classes(name: str, network: Any, class_names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Place of each class among the teacher's outputs, by name; without names there have to be as many."""
    first = "Fine-tune the teacher on this data set first, and name that run's folder."
    try:
        order = tuple(match_classes(class_names, class_names_of(network)).tolist())
    except DataError as error:
        raise ConfigError(f"--teacher_model {name}: {error} {first}") from error
    except ModelError as error:  # it does not say what its outputs are
        if network.num_classes != len(class_names):
            raise ConfigError(
                f"--teacher_model {name} has {network.num_classes} classes and the data set "
                f"{len(class_names)}. {first}"
            ) from error
        logger.warning(
            "--teacher_model %s has no names of classes; its outputs are taken to be in this order: %s, ...",
            name,
            ", ".join(class_names[:5]),
        )
        return None
    return None if order == tuple(range(network.num_classes)) else order
