"""What `fc` sees: features of the frozen network, each view of each image computed once."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import Tensor, nn

from resnet_hub.finetuning.batches.augment import EvaluationTransform, TrainTransform, build_train_transform
from resnet_hub.finetuning.batches.loader import ViewBatches
from resnet_hub.finetuning.batches.sampler import Indices
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.engine.forward import compute_split, full_float32
from resnet_hub.finetuning.engine.losses import class_weights
from resnet_hub.finetuning.machine.seeds import random_key
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.feature_cache import FeatureCache, digest_of_backbone, key_of
from resnet_hub.finetuning.training.linear_probe import Examples, fit_linear_classifier, set_classifier

_BLOCK = 16_384  # images whose features are kept at a time; a run that is stopped loses no more than these
_PACKAGES = ("resnet_hub", "torch", "torchvision", "timm", "pillow")  # whose other release may compute others


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at all images of a split."""

    number: int
    """0 for the view of evaluation, in which nothing is drawn."""
    transform: TrainTransform
    seed: int

    def seeds(self, split: Split) -> list[int] | None:
        """What each image is augmented by: it depends on the image and not on where it is in the split."""
        if self.number == 0:
            return None
        return [random_key(self.seed, self.number, int(digest, 16)) for digest in split.seen.digests]

    def describe(self) -> dict[str, Any]:
        """All that decides about its pixels besides the image."""
        drawn = {"view": self.number, "seed": self.seed} if self.number else {}
        return {"transform": repr(self.transform)} | drawn


@dataclass(frozen=True, kw_only=True)
class FittedFc:
    """What is known of a fitted `fc` besides its weights."""

    penalty: float
    validation_logits: Tensor | None
    """(images, classes) of the validation split, if there is one; on the CPU."""
    train_features: Tensor
    """(images, features) of the training images as evaluation sees them; on the device."""


def fit_fc(run: Run, network: nn.Module) -> FittedFc:
    """Fit the network's `fc` to what the rest of it makes of the training images; chosen on validation.

    Training images are computed in `feature_views` views, validation images in that of evaluation. Every
    process calls this. Raises Preempted when asked to stop; what is in the feature cache then stays there.
    """
    views, computer = make_views(run), _make_computer(run, network)
    labels = run.data.mapped_train.labels
    weights = class_weights(
        run.settings.loss.class_weights,
        labels,
        num_classes=len(run.data.class_names),
        device=run.machine.accelerator.device,
    )
    train, validation = computer.examples(run.data.mapped_train, views, weights), None
    if run.data.validation is not None:
        validation = computer.examples(run.data.validation, views[:1], weights)
    with torch.inference_mode(False):
        fitted = fit_linear_classifier(
            train,
            validation,
            num_classes=len(run.data.class_names),
            between_penalties=run.stop_if_asked,
            agree_any=run.machine.agree_any,
        )
    set_classifier(network, fitted)
    fc: nn.Linear = network.get_classifier()  # pyright: ignore[reportCallIssue, reportAssignmentType]
    for tensor in fc.parameters():
        broadcast(tensor.data)  # GPUs may round differently; the weights have to be the same everywhere
    with torch.no_grad(), full_float32():
        logits = None if validation is None else F.linear(validation.features, fc.weight, fc.bias).cpu()
    features = train.features[: len(run.data.mapped_train)]
    return FittedFc(penalty=fitted.penalty, validation_logits=logits, train_features=features)


def train_features(run: Run, network: nn.Module) -> Tensor:
    """What the frozen network makes of the training images as evaluation sees them, (images, features)."""
    return _make_computer(run, network).examples(run.data.mapped_train, make_views(run)[:1], None).features


def make_views(run: Run) -> list[View]:
    """The view of evaluation, then augmented ones, of images of the final size."""
    augmented = build_train_transform(run.settings.images, run.preprocessing)
    plain = View(number=0, transform=EvaluationTransform(run.preprocessing), seed=run.settings.seed)
    numbers = range(1, run.settings.probe.feature_views)
    return [plain, *(View(number=each, transform=augmented, seed=run.settings.seed) for each in numbers)]


def _make_computer(run: Run, network: nn.Module) -> "_Computer":
    probe = run.settings.probe
    return _Computer(
        run=run,
        network=network.eval(),
        cache=FeatureCache(
            Path(probe.feature_cache) if probe.feature_cache else None,
            limit_bytes=probe.feature_cache_gb * 1e9,
        ),
        backbone=digest_of_backbone(network) if probe.feature_cache else "",
    )


@dataclass(frozen=True, kw_only=True)
class _Computer:
    run: Run
    network: nn.Module
    """In evaluation mode."""
    cache: FeatureCache
    backbone: str
    """What the cache knows the network by."""

    def examples(self, split: Split, views: list[View], weights: Tensor | None) -> Examples:
        """Features and labels of each view of each image, one view after the other, on the run's device."""
        network: Any = self.network
        device = self.run.machine.accelerator.device
        features = torch.empty(len(views) * len(split), network.head_hidden_size)
        for view, part in zip(views, features.split(len(split)), strict=True):
            self._compute(split, view, into=part)
        labels = torch.as_tensor(split.labels).to(device)
        return Examples(
            features=features.to(device), labels=torch.cat([labels] * len(views)), class_weights=weights
        )

    def _compute(self, split: Split, view: View, *, into: Tensor) -> None:
        run, machine = self.run, self.run.machine
        key = self._key(view)
        known = torch.from_numpy(self.cache.recall(key, split.seen.digests, into))
        if machine.world_size > 1:  # nodes with disks of their own may have kept different images
            asked = known.to(machine.accelerator.device, torch.int32)
            known = (machine.total(asked) == machine.world_size).cpu()
        missing = np.flatnonzero(~known.numpy())
        if len(known) > len(missing):
            run.display.say(
                f"features of {len(known) - len(missing):,} {split.name} images are in the feature cache"
            )
        keeps = machine.accelerator.is_local_main_process
        batches = self._batches(split, view)
        for start in range(0, len(missing), _BLOCK):
            run.stop_if_asked()
            places = missing[start : start + _BLOCK]
            computed = self._features(batches, places, name=split.name)
            into[torch.from_numpy(places)] = computed
            if keeps:
                keeps = self.cache.keep(key, split.seen.take(places).digests, computed)

    def _batches(self, split: Split, view: View) -> ViewBatches:
        run = self.run
        return ViewBatches(
            split,
            view.transform,
            seeds=view.seeds(split),
            batch_size=run.settings.schedule.per_device_eval_batch_size,
            options=run.loading,
        )

    def _features(self, batches: ViewBatches, places: Indices, *, name: str) -> Tensor:
        """Features of the images at these places, (images, features) float32 on the CPU, on every process."""
        run, network = self.run, self.network
        batch_size = run.settings.schedule.per_device_eval_batch_size
        wanted = torch.from_numpy(places)
        counted = (
            batch._replace(indices=torch.searchsorted(wanted, batch.indices))
            for batch in batches.some(places)
        )

        def compute(images: Tensor) -> Tensor:
            return network.forward_head(network.forward_features(images), pre_logits=True)  # pyright: ignore[reportCallIssue]

        text = f"computing features of {len(places):,} {name} images"
        done = 0
        with run.display.counting(text, len(places)) as count:

            def between_batches() -> None:
                nonlocal done
                run.stop_if_asked()
                done += batch_size * run.machine.world_size
                count(done)

            return compute_split(
                compute,
                counted,
                num_outputs=network.head_hidden_size,  # pyright: ignore[reportArgumentType]
                num_images=len(places),
                batch_size=batch_size,
                preprocessing=run.preprocessing,
                machine=run.machine,
                between_batches=between_batches,
            )

    def _key(self, view: View) -> str:
        machine = self.run.machine
        return key_of(
            {
                "format": 1,
                "backbone": self.backbone,
                "device": machine.accelerator.device.type,
                "precision": machine.precision,
                "view": view.describe(),
                "versions": {name: metadata.version(name) for name in _PACKAGES},
            },
        )
