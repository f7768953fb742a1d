"""From a name to a network with a new `fc` for the classes of the data set."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_hub.errors import ConfigError, ModelError, UserError
from resnet_hub.finetuning.config.options import ModelOptions
from resnet_hub.finetuning.config.settings import ImageSettings
from resnet_hub.hub.loading import load_with_config
from resnet_hub.hub.saving import save_folder
from resnet_hub.hub.weights import unwrap
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.models.names import check_weights, pretrained_overlay, registry_name
from resnet_hub.models.packaged_weights import is_packaged

_FEWEST_OF_SINGLE_VALUES = 2  # images of which BatchNorm has a variance, if each gives it one value

IN_MEMORY = "a network in memory"
"""What the record of a run calls a network that was given as an object."""


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """The weights that a run starts from."""

    name: str
    """Variant, with the tag of its weights if it has any: `my_resnet50.a1_in1k`."""
    base_model: str | None
    """Hub repository, folder, or name in the package, of the weights; None from scratch."""
    base_license: str | None
    train_image_size: int
    """Height in pixels of the images that they were trained on."""
    digest: str | None = None
    """Of the weights of a network that was given as an object."""


def check_model(asked: ModelOptions, network: nn.Module | None) -> None:
    """Raise ConfigError for a model that cannot be built, before anything else is done."""
    name = registry_name(asked.model_name_or_path) if network is None else None
    if name is None:
        if not asked.pretrained or asked.drop_path_rate:
            flag = "--drop_path_rate" if asked.pretrained else "--no-pretrained"
            raise ConfigError(
                f"{flag} needs the name of a model, and {asked.model_name_or_path} comes with its own."
            )
        return
    _check_is_resnet(name.architecture)
    if asked.pretrained:
        try:
            check_weights(name)
        except ModelError as error:
            raise ConfigError(f"{error} To start from random weights, add --no-pretrained.") from error


def _check_is_resnet(architecture: str) -> None:
    if not is_model_in_modules(architecture, ["my_resnet", "resnet"]):
        raise ConfigError(
            f"{architecture} is not a ResNet. Only this family (`resnet-hub list`) and timm's ResNets can be "
            f"fine-tuned."
        )


def build_model(asked: ModelOptions, *, class_names: tuple[str, ...]) -> tuple[nn.Module, StartingPoint]:
    """The model with a new `fc`, drawn from the seed, and where its other weights came from.

    The whole checkpoint is loaded strictly first and `fc` is replaced then: a data set that happens to have
    as many classes as the checkpoint gets a new `fc` too, and a checkpoint that does not fit is noticed.
    """
    name = asked.model_name_or_path
    torch.manual_seed(asked.seed)
    registered = registry_name(name)
    if registered is None:
        loaded = load_with_config(name)
        model, described = loaded.model, loaded.config
        cfg: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]
        start = StartingPoint(
            name=described.architecture,
            # A folder by its full path: a relative one may look like somebody's repository.
            base_model=str(Path(name).resolve()) if Path(name).is_dir() else name,
            base_license=described.license_id,
            train_image_size=(described.train_input_size or cfg["input_size"])[1],
        )
    else:
        model = timm.create_model(
            name,
            pretrained=asked.pretrained,
            pretrained_cfg_overlay=pretrained_overlay(registered) if asked.pretrained else None,
            drop_path_rate=asked.drop_path_rate,
        )
        start = _starting_point(model, pretrained=asked.pretrained)
    torch.manual_seed(asked.seed)
    model.reset_classifier(len(class_names))  # pyright: ignore[reportCallIssue]
    return model, start


def check_network(network: nn.Module) -> nn.Module:
    """The network out of any wrapping; UserError if it is not a ResNet of timm or cannot be exported."""
    network = unwrap(network)
    _check_is_resnet(architecture_of(network))
    outputs: Any = network.num_classes
    with TemporaryDirectory() as scratch:  # what cannot be exported shows before it is trained
        copied = deepcopy(network).cpu().float()
        save_folder(copied, Path(scratch) / "export", class_names=[str(n) for n in range(outputs)])
    return network


def architecture_of(network: nn.Module) -> str:
    """The name that timm builds the network by; ModelError if it has none."""
    cfg = getattr(network, "pretrained_cfg", None)
    if not isinstance(cfg, dict) or "architecture" not in cfg:
        raise ModelError(
            f"A {type(network).__name__} without timm's pretrained_cfg could not be built again after the "
            "run. Make the network with timm.create_model or resnet_hub.create_model."
        )
    return cfg["architecture"]


def start_from(
    network: nn.Module, *, class_names: tuple[str, ...], seed: int
) -> tuple[nn.Module, StartingPoint]:
    """A copy of the network, with a new `fc` where its classes differ, and what is known of its weights."""
    model = deepcopy(network).cpu().float().requires_grad_(True)
    cfg: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]
    names = tuple(cfg.get("label_names") or ())
    if names != class_names and (names or model.num_classes != len(class_names)):
        torch.manual_seed(seed)
        model.reset_classifier(len(class_names))  # pyright: ignore[reportCallIssue]
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    start = StartingPoint(
        name=cfg["architecture"],
        base_model=IN_MEMORY,
        base_license=None,
        train_image_size=cfg["input_size"][1],
        digest=digest.hexdigest(),
    )
    return model, start


def evaluation_preprocessing(
    model: nn.Module, *, image_size: int, crop_fraction: float | None
) -> Preprocessing:
    """How a run prepares the images that it evaluates, `image_size` pixels high and wide.

    Without a `crop_fraction`, the model's own test crop is used at the model's own test size only: weights
    that are tested on larger images than they learned from are tested on more of each image as well.
    """
    cfg: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]
    if crop_fraction is None and image_size == (cfg.get("test_input_size") or (None,))[-1]:
        crop_fraction = cfg.get("test_crop_pct")
    crop_fraction = crop_fraction or cfg["crop_pct"]
    return replace(Preprocessing.of_model(model, image_size), crop_fraction=crop_fraction)


@torch.inference_mode()
def check_takes_images(
    model: nn.Module,
    name: str,
    settings: ImageSettings,
    *,
    num_channels: int,
    num_classes: int,
    fewest: int | None,
) -> None:
    """Raise UserError if the model cannot compute images of the chosen sizes, or train on the fewest at once.

    `fewest` is the size of the smallest batch of training; None for a run without steps.
    """
    logits = torch.empty(0)
    for flag in ("first_image_size", "train_image_size", "image_size"):
        size = getattr(settings, flag)
        try:
            with _noting_single_values(model) as single:
                logits = model.eval()(torch.zeros(1, num_channels, size, size))
        except RuntimeError as error:
            raise UserError(
                f"{name} cannot take images of {size}x{size} pixels ({error}). Choose another --{flag}."
            ) from error
        too_few = fewest is not None and fewest < _FEWEST_OF_SINGLE_VALUES
        if single and flag != "image_size" and too_few:
            raise ConfigError(
                f"Of images of {size}x{size} pixels {name} has a single value a channel at its end, and some "
                f"batches would have one image, of which BatchNorm has no variance. Use a larger "
                f"--per_device_train_batch_size or --{flag}, or fewer processes."
            )
    layer: Any = model.get_classifier()  # pyright: ignore[reportCallIssue]
    if not isinstance(layer, nn.Linear):
        raise UserError(
            f"The classifier of {name} is a {type(layer).__name__}, and only a Linear layer is replaced and "
            f"fitted here."
        )
    if logits.shape != (1, num_classes):
        raise UserError(
            f"{name} gives {tuple(logits.shape)} outputs, not one for each of {num_classes} classes; it is "
            f"no classifier that can be fine-tuned."
        )


@contextmanager
def _noting_single_values(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Inside, which BatchNorms are given one value a channel."""
    single: list[nn.Module] = []

    def note(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if inputs[0].shape[2:].numel() * len(inputs[0]) == 1:
            single.append(norm)

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        yield single
    finally:
        for hook in hooks:
            hook.remove()


def _starting_point(model: nn.Module, *, pretrained: bool) -> StartingPoint:
    cfg: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]
    name, source = cfg["architecture"], None
    if pretrained:
        name = f"{name}.{cfg['tag']}" if cfg.get("tag") else name
        file = cfg.get("file")
        source = cfg.get("hf_hub_id") or cfg.get("url") or (name if is_packaged(file) else file)
    return StartingPoint(
        name=name,
        base_model=None if source is None else str(source),
        base_license=cfg.get("license") if pretrained else None,
        train_image_size=cfg["input_size"][1],
    )


def width_of(model: nn.Module) -> int:
    """Channels that the last 3x3 convolution gives: 512 in ResNet-18 and ResNet-50, 64 in my_resnet20."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return next(conv.out_channels for conv in reversed(convolutions) if conv.kernel_size == (3, 3))
