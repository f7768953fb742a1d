"""A trained network that another one learns from: knowledge distillation from any model of timm."""

import hashlib
import logging
from dataclasses import dataclass
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
    ours: Preprocessing
    theirs: Preprocessing
    order: tuple[int, ...] | None
    """Place of each class of the student among the teacher's outputs; None if they are the same."""
    has_fixed_size: bool
    """Whether it takes images of its own size only, as vision transformers do."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) in the student's order, float32.

        It sees what the student sees, the same crop and the same mixture (Beyer et al. 2021, "Knowledge
        distillation: a good teacher is patient and consistent", arXiv:2106.05237).
        """
        if (self.ours.mean, self.ours.std) != (self.theirs.mean, self.theirs.std):
            scale, offset = self._change_of_scale(images.device)
            images = images * scale + offset
        if self.has_fixed_size and images.shape[-2:] != self.theirs.image_size:
            images = interpolate(images, size=self.theirs.image_size, mode="bicubic", antialias=True)
        logits = self.network(images).float()
        return logits if self.order is None else logits[:, self.order]

    def digest(self) -> str:
        """A digest of its weights: a run resumes with the teacher that it began with."""
        digest = hashlib.sha256()
        for tensor in self.network.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _change_of_scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        columns = zip(self.ours.mean, self.ours.std, self.theirs.mean, self.theirs.std, strict=True)
        pairs = [
            (std / their_std, (mean - their_mean) / their_std) for mean, std, their_mean, their_std in columns
        ]
        scale, offset = torch.tensor(pairs, device=device).unbind(dim=1)
        return scale.view(1, -1, 1, 1), offset.view(1, -1, 1, 1)


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
    return Teacher(
        network=network,
        ours=ours,
        theirs=theirs,
        order=_order_of_classes(name, network, class_names),
        has_fixed_size=bool(network.pretrained_cfg.get("fixed_input_size")),
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
