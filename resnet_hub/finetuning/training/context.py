"""What a run consists of: the record that preparation makes and every part of training works with."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from resnet_hub.finetuning.batches.augment import short_side_to_keep
from resnet_hub.finetuning.batches.disk_cache import ReducedImages, Reduction, build_image_cache
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import KeptLoaders, LoaderOptions
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.settings import Settings
from resnet_hub.finetuning.data.load import ImageData
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.data.streaming.stream import TrainStream
from resnet_hub.finetuning.machine.display import Display
from resnet_hub.finetuning.machine.machine import Machine
from resnet_hub.finetuning.machine.preemption import Preempted, PreemptionWatch
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.finetuning.network.build import StartingPoint
from resnet_hub.finetuning.network.teacher import Teacher
from resnet_hub.finetuning.report.metrics import OwnMetrics
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.finetuning.training.given import Callbacks
from resnet_hub.images.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run consists of once everything about it is decided."""

    asked: FinetuneConfig
    settings: Settings
    machine: Machine
    folder: RunFolder
    data: ImageData
    model: nn.Module
    origin: StartingPoint
    preprocessing: Preprocessing
    plan: EpochPlan
    loading: LoaderOptions
    crew: Crew
    display: Display
    watch: PreemptionWatch
    loaders: KeptLoaders = field(default_factory=KeptLoaders)
    """Those of evaluation."""
    callbacks: Callbacks = field(default_factory=Callbacks)
    metrics: OwnMetrics = field(default_factory=dict)
    """The user's own."""
    teacher: Teacher | None = None
    cached_train: ReducedImages | None = None
    """The training images, if they are cached."""

    @property
    def train_images(self) -> Split | ReducedImages | TrainStream:
        """What training batches are made from; evaluation always reads the images themselves."""
        return self.cached_train or self.data.train

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.schedule.total_steps

    def facts(self) -> dict[str, Any]:
        """What a resumed run has to share with its beginning, besides the configuration."""
        return {
            "data_fingerprint": self.data.fingerprint,
            "class_names": list(self.data.class_names),
            "images_per_step": self.plan.global_batch_size,
            "weights": self.origin.digest or self.origin.name,
            "teacher_weights": None if self.teacher is None else self.teacher.digest(),
            "short_side_kept": self._short_side if self.settings.data.image_cache else None,
        }

    @property
    def _short_side(self) -> int:
        return short_side_to_keep(self.settings.images, self.preprocessing)

    def with_cached_images(self) -> "Run":
        """The run with its training images cached, if it asks for that; every process calls this."""
        settings = self.settings.data
        if not settings.image_cache:
            return self
        reduction = Reduction(
            short_side=self._short_side,
            mode=self.preprocessing.mode,
            interpolation=self.preprocessing.interpolation,
        )
        cached = build_image_cache(
            self.data.mapped_train,
            reduction,
            Path(settings.image_cache),
            limit_bytes=settings.image_cache_gb * 1e9,
            crew=self.crew,
        )
        return replace(self, cached_train=cached)

    def stop_if_asked(self, save: Callable[[], None] | None = None) -> None:
        """Raise Preempted, after `save`, if any process was asked to stop; every process has to ask."""
        if self.machine.agree_any(self.watch.requested):
            if save is not None:
                save()
                self.machine.accelerator.wait_for_everyone()  # a launcher kills the rest once one has left
            raise Preempted
