"""`resnet-hub check`: does a model keep the contract of the family? Each check ends with a verdict.

For variants of your own: `resnet-hub check NAME --import MODULE`, or `check(name)` here.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import reparameterize_model
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from resnet_hub.cli.models import refuse_unknown
from resnet_hub.cli.tables import print_rows
from resnet_hub.errors import ModelError, some_of
from resnet_hub.hub import load, save_folder
from resnet_hub.models.architecture import MyResNet
from resnet_hub.models.optimize import fold_batch_norms

_CLASSES = 5
_BATCH = 2
_SIZE = 64  # pixels: enough for a reduction of 32, small enough for a check of seconds


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of one check; `detail` tells what was compared, or what went wrong."""

    name: str
    passed: bool
    detail: str


def run_check(arguments: argparse.Namespace) -> int:
    """Print a verdict for each part of the contract; 1 if one is broken."""
    if arguments.module:
        import_variants(arguments.module)
    refuse_unknown(arguments.model)
    verdicts = check(arguments.model)
    rows = [
        {"verdict": "ok" if verdict.passed else "FAILED", "check": verdict.name, "detail": verdict.detail}
        for verdict in verdicts
    ]
    print_rows(rows, as_json=arguments.json, title=arguments.model)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def check(name: str) -> list[Verdict]:
    """A verdict for each part of the contract, for the model that timm knows by `name`."""
    return [_verdict(title, function, name) for title, function in CHECKS.items()]


def import_variants(module: str) -> None:
    """Import the module (or the .py file) that registers variants; raises ModelError if it cannot be."""
    path = Path(module)
    if path.suffix == ".py":
        sys.path.insert(0, str(path.resolve().parent))
        module = path.stem
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        import_module(module)
    except ImportError as error:
        raise ModelError(
            f"Cannot import {module!r}: {error}. Give a module or a .py file that exists."
        ) from error


def _verdict(title: str, function: Callable[[str], str], name: str) -> Verdict:
    torch.manual_seed(0)
    try:
        return Verdict(name=title, passed=True, detail=function(name))
    except Exception as error:  # whatever a check trips over is its verdict
        lines = f"{type(error).__name__}: {error}".strip().splitlines()
        return Verdict(name=title, passed=False, detail=lines[0])


def _demand(condition: object, message: str) -> None:
    if not condition:
        raise ModelError(message)


def _model(name: str, *, in_chans: int = 3) -> MyResNet:
    model = timm.create_model(name, num_classes=_CLASSES, in_chans=in_chans).eval()
    _demand(isinstance(model, MyResNet), f"{name} is a {type(model).__name__} and not a MyResNet")
    assert isinstance(model, MyResNet)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if trained: the zeros and ones of a new one hide mistakes
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def _images(channels: int = 3) -> Tensor:
    return torch.randn(_BATCH, channels, _SIZE, _SIZE)


def _largest_difference(left: Tensor, right: Tensor) -> float:
    _demand(left.shape == right.shape, f"shapes {tuple(left.shape)} and {tuple(right.shape)} differ")
    return float((left - right).abs().max())


def _demand_close(left: Tensor, right: Tensor, tolerance: float = 1e-4) -> str:
    scale = max(float(right.detach().abs().max()), 1.0)
    difference = _largest_difference(left, right)
    _demand(difference <= tolerance * scale, f"outputs differ by {difference:.2g}")
    return f"largest difference {difference:.1g}"


@torch.inference_mode()
def _contract(name: str) -> str:
    model = _model(name, in_chans=1)
    images = _images(1)
    features = model.forward_features(images)
    _demand(features.shape[1] == model.num_features, f"num_features is not {features.shape[1]}")
    _demand(model.forward_head(features).shape == (_BATCH, _CLASSES), "forward_head gives no logits")
    model.reset_classifier(0)
    _demand(model(images).shape == (_BATCH, model.head_hidden_size), "without a head, no pooled features")
    model.reset_classifier(3, "catavgmax")
    _demand(model(images).shape == (_BATCH, 3), "a new head of three classes gives something else")
    try:
        timm.create_model(name, not_an_option=1)
    except TypeError:
        return "sizes, heads, channels, options"
    raise ModelError("an unknown option is swallowed instead of being a TypeError")


@torch.inference_mode()
def _features(name: str) -> str:
    model = timm.create_model(name, features_only=True).eval()
    info: Any = model.feature_info
    maps = model(_images())
    for found, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        wanted = (_BATCH, channels, _SIZE // reduction, _SIZE // reduction)
        _demand(found.shape == wanted, f"feature map {tuple(found.shape)} instead of {wanted}")
    return f"{len(maps)} maps, reductions {info.reduction()}"


@torch.inference_mode()
def _intermediates(name: str) -> str:
    model, images = _model(name), _images()
    last, maps = model.forward_intermediates(images)  # pyright: ignore[reportAssignmentType]
    detail = _demand_close(last, model.forward_features(images))
    model.prune_intermediate_layers([1])
    pruned = model.forward_features(images)
    _demand_close(pruned, maps[1])
    return detail


def _gradients(name: str) -> str:
    model = _model(name).train()
    model(_images()).square().mean().backward()
    without = [key for key, weight in model.named_parameters() if weight.grad is None]
    _demand(not without, f"no gradient reaches {some_of(without, 3)}")
    broken = [
        key for key, w in model.named_parameters() if w.grad is not None and not w.grad.isfinite().all()
    ]
    _demand(not broken, f"the gradient of {some_of(broken, 3)} is not finite")
    model.set_grad_checkpointing()
    model(_images()).mean().backward()
    return f"{sum(1 for _ in model.parameters())} tensors, with checkpointing as well"


@torch.inference_mode()
def _script(name: str) -> str:
    model, images = _model(name), _images()
    return _demand_close(torch.jit.script(model)(images), model(images))


@torch.inference_mode()
def _fx(name: str) -> str:
    model, images = _model(name), _images()
    return _demand_close(create_feature_extractor(model, {"fc": "logits"})(images)["logits"], model(images))


def _export(name: str) -> str:
    model, images = _model(name), _images()
    exported = torch.export.export(model, (images,)).module()
    with torch.inference_mode():
        return _demand_close(exported(images), model(images))


@torch.inference_mode()
def _folding(name: str) -> str:
    model, images = _model(name), _images()
    logits = model(images)
    _demand_close(reparameterize_model(model)(images), logits)
    folded = fold_batch_norms(model)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    _demand(left == 0, f"{left} BatchNorms are left")
    return f"{folded} BatchNorms folded, {_demand_close(model(images), logits)}"


@torch.inference_mode()
def _save_and_load(name: str) -> str:
    model, images = _model(name), _images()
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_folder(
            model, Path(scratch) / "model", class_names=[f"class {i}" for i in range(_CLASSES)]
        )
        loaded = load(folder)
        difference = _largest_difference(loaded(images), model(images))
    _demand(difference == 0, f"the model that was loaded differs by {difference:.2g}")
    return "the same logits, bit for bit"


CHECKS: dict[str, Callable[[str], str]] = {
    "contract": _contract,
    "features": _features,
    "intermediates and pruning": _intermediates,
    "gradients": _gradients,
    "TorchScript": _script,
    "torch.fx": _fx,
    "torch.export": _export,
    "folding of BatchNorm": _folding,
    "save and load": _save_and_load,
}
