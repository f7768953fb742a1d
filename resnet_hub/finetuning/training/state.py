"""The state of a run: what a checkpoint holds, how a training begins, and how it goes on."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from resnet_hub.files import remove_leftovers
from resnet_hub.finetuning.batches.augment import build_mixer, build_train_transforms
from resnet_hub.finetuning.batches.loader import CopiedImages, TrainBatches
from resnet_hub.finetuning.config.settings import Settings
from resnet_hub.finetuning.config.yaml_file import plain_values
from resnet_hub.finetuning.data.streaming.stream import TrainStream
from resnet_hub.finetuning.engine.deferred_metrics import can_be_read_late
from resnet_hub.finetuning.engine.losses import Distillation, make_distillation_loss, make_loss_function
from resnet_hub.finetuning.engine.optimizer import Schedule, make_optimizer
from resnet_hub.finetuning.engine.step import settle
from resnet_hub.finetuning.engine.stopwatch import SAVING, Stopwatch
from resnet_hub.finetuning.engine.trainer import Progress, Trainer
from resnet_hub.finetuning.network.averaging import EpochAverage, StepAverage, WeightAverage
from resnet_hub.finetuning.network.freezing import train_all_but
from resnet_hub.finetuning.network.sync_batchnorm import synchronize_batchnorm
from resnet_hub.finetuning.run_folder.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_optimizer_tensors,
    optimizer_tensors,
    read_newest_checkpoint,
    remove_damaged,
    write_checkpoint,
)
from resnet_hub.finetuning.run_folder.event_log import ENVELOPE, EventLog
from resnet_hub.finetuning.run_folder.folder import BATCHES
from resnet_hub.finetuning.run_folder.tracking import Tracking
from resnet_hub.finetuning.training.bad_images import all_left_out
from resnet_hub.finetuning.training.context import Run

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of what a checkpoint holds; a release that reads or writes something else has another number."""

SAVING_SHARE = 0.05
"""Share of the time that checkpoints of epochs may take, once one takes longer than SHORT_SAVE."""
SHORT_SAVE = 1.0  # seconds

_MOST_STAGES = 6  # of a ResNet: stem, four layers, fc


@dataclass(kw_only=True)
class Training:
    """The state of a run and the loaders that feed it."""

    trainer: Trainer
    network: nn.Module
    """The network itself, without the wrapping of accelerate."""
    average: WeightAverage | None
    """A network whose weights are an average of the trained ones."""
    progress: Progress
    best: dict[str, Tensor]
    """Weights of the best validated epoch, on the CPU."""
    batches: TrainBatches
    log: EventLog
    tracking: Tracking
    resumed_from_step: int | None = None
    last_saved: float = field(default_factory=time.monotonic)
    saving_seconds: float = 0.0
    """What the last checkpoint took."""

    @property
    def may_be_best(self) -> bool:
        """Whether the candidate is one whose weights may be exported."""
        return self.average is None or self.average.may_be_best

    @property
    def candidate(self) -> nn.Module:
        """The network that is validated and, at its best, exported."""
        return self.average.module if self.average is not None and self.average.is_ready else self.network


def start_or_resume(run: Run) -> Training:
    """The training at its first step, or where the newest valid checkpoint of the folder left it."""
    checkpoint = read_newest_checkpoint(run.folder.checkpoints)
    network = run.model
    progress = Progress()
    if checkpoint is not None:
        _check_format(run, checkpoint)
        network.load_state_dict(dict(checkpoint.tensors["model"]))
        progress = Progress(**checkpoint.values["progress"])
        if checkpoint.values["micro_batch"] != run.settings.schedule.per_device_train_batch_size:
            progress.parts = 1  # those were found for other ones
    _check_same_everywhere(run, progress)
    network = network.to(memory_format=run.machine.memory_format)  # pyright: ignore[reportCallIssue]
    if run.machine.sync_batchnorm:
        network = synchronize_batchnorm(network, run.machine.accelerator.device)
    average = _make_average(run, network, progress)
    trainer = _make_trainer(run, network, progress)
    if checkpoint is not None:
        load_optimizer_tensors(trainer.optimizer, checkpoint.tensors["optimizer"])
        if average is not None:
            average.module.load_state_dict(dict(checkpoint.tensors["average"]))
        scaler, scale = run.machine.accelerator.scaler, checkpoint.values["scaler"]
        if scaler is not None and scale is not None:  # the run may have begun with bf16
            scaler.load_state_dict(scale)
        run.display.say(f"resuming from step {progress.step} of {run.total_steps}")
    log = EventLog(run.folder.metrics)
    if run.machine.is_main and run.folder.config.exists():  # a search for a rate has begun no run
        _tidy_up(run, log, checkpoint, progress)
    return Training(
        trainer=trainer,
        network=run.machine.accelerator.unwrap_model(trainer.model),
        average=average,
        progress=progress,
        best=dict(checkpoint.tensors.get("best", {})) if checkpoint else {},
        batches=make_train_batches(run, num_workers=run.loading.num_workers),
        log=log,
        tracking=_make_tracking(run, going_on_from=progress.step if checkpoint else None),
        resumed_from_step=progress.step if checkpoint else None,
    )


def save_epoch(run: Run, training: Training, *, is_last: bool) -> None:
    """Write the checkpoint at the end of an epoch.

    A large network on few images has epochs of seconds, and may take seconds to save: such a checkpoint is
    left out while the time since the one before is too short for it, unless the epoch is the last.
    """
    age = time.monotonic() - training.last_saved
    if is_last or training.saving_seconds <= max(SHORT_SAVE, SAVING_SHARE * age):
        save(run, training)


def save(run: Run, training: Training, *, must: bool = False) -> None:
    """Write a checkpoint; unless it `must` be written, a full disk is no reason to stop."""
    settle(training.trainer, training.progress)
    training.last_saved = time.monotonic()
    stopwatch = training.trainer.stopwatch
    stopwatch.start()
    stopwatch.settle()
    if not run.machine.is_main:  # the others have the same weights, optimizer and progress
        return
    if fc_is_to_be_fitted(run, training.progress):  # the run has not got anywhere yet
        return
    groups: dict[str, dict[str, Tensor]] = {
        "model": training.network.state_dict(),
        "optimizer": optimizer_tensors(training.trainer.optimizer),
    }
    if training.average is not None:
        groups["average"] = training.average.module.state_dict()
    if training.best:
        groups["best"] = training.best
    scaler = run.machine.accelerator.scaler
    try:
        values = {
            "format": FORMAT,
            "progress": asdict(training.progress),
            "micro_batch": run.settings.schedule.per_device_train_batch_size,
            "log_size": training.log.size(),
            "records": run.folder.records(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        write_checkpoint(
            run.folder.checkpoints, training.progress.step, Checkpoint(tensors=groups, values=values)
        )
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        if must:
            raise CheckpointError(
                f"The checkpoint of step {training.progress.step} could not be written ({error}). Earlier "
                f"ones are whole; make room, and the same command resumes from the newest."
            ) from error
        logger.warning("No checkpoint could be written at step %d: %s", training.progress.step, error)
    training.saving_seconds = time.monotonic() - training.last_saved
    stopwatch.lap(SAVING)


def fc_is_to_be_fitted(run: Run, progress: Progress) -> bool:
    """Whether the new fc is still to be fitted on features of the frozen network."""
    return run.settings.probe.fit_fc_first and not progress.fc_is_fitted


def make_train_batches(run: Run, *, num_workers: int) -> TrainBatches:
    """This process's share of the steps of training."""
    images, copies = run.train_images, run.settings.schedule.repeated_augmentation
    if not isinstance(images, TrainStream) and copies > 1:
        images = CopiedImages(images, copies)
    return TrainBatches(
        images,
        build_train_transforms(run.settings.images, run.preprocessing),
        run.plan,
        num_micro=run.settings.schedule.gradient_accumulation_steps,
        options=replace(run.loading, num_workers=num_workers),
    )


def _check_same_everywhere(run: Run, progress: Progress) -> None:
    """Raise CheckpointError unless all processes begin at one step: a disk may show them different files."""
    ours = progress.step
    if run.machine.agree_any(ours != run.machine.largest(ours)):
        raise CheckpointError(
            f"The processes read different checkpoints in {run.folder.checkpoints}; this one read step "
            f"{ours}. All of them need the same folder: --output_dir on a disk that they share."
        )


def _check_format(run: Run, checkpoint: Checkpoint) -> None:
    found = checkpoint.values.get("format")
    if found != FORMAT:
        raise CheckpointError(
            f"The checkpoints in {run.folder.checkpoints} are of format {found}, and this release of "
            f"resnet_hub reads format {FORMAT}. Go on with the release that {run.folder.environment} names, "
            f"or start anew in another --output_dir."
        )


def _tidy_up(run: Run, log: EventLog, checkpoint: Checkpoint | None, progress: Progress) -> None:
    """Put the folder's records where the checkpoint left them, and say what is not as it was."""
    dropped = log.rewind(checkpoint.values["log_size"] if checkpoint else 0)
    if checkpoint is not None:
        log.mend(checkpoint.values["log_size"], step=progress.step)
        run.folder.write_bad_images(all_left_out(run, progress))
    elif dropped:
        logger.warning(
            "There is no checkpoint in %s, so the run starts over; the %d events in its log are dropped.",
            run.folder.checkpoints,
            dropped,
        )
    remove_leftovers(run.folder.checkpoints)
    remove_damaged(run.folder.checkpoints)
    _say_what_has_changed(run)


def _say_what_has_changed(run: Run) -> None:
    changes = run.folder.changes_since_begin(run.settings.recorded, run.machine.record())
    if not changes:
        return
    effects = ["the images and the rate of each step are the same", "sums may round differently"]
    if changes.keys() & {"processes", "sync_batchnorm", *BATCHES}:
        effects.append("BatchNorm sees other batches")
        options = run.settings.recorded
        drawn = [name for name in ("mixup", "cutmix", "drop_path_rate") if getattr(options, name)]
        if drawn:  # drawn by each process for its own images
            effects.append(f"{', '.join(drawn)} draw other numbers")
    logger.warning(
        "Not as when this run began: %s. What follows: %s.",
        "; ".join(f"{name} was {before}, is {now}" for name, (before, now) in changes.items()),
        "; ".join(effects),
    )


def _make_tracking(run: Run, *, going_on_from: int | None) -> Tracking:
    tracking = Tracking(
        run.machine.accelerator,
        run.settings.run.report_to,
        str(run.folder.path),
        plain_values(run.settings.recorded),
        going_on_from=going_on_from,
    )
    if going_on_from is None:
        return tracking
    for event in run.folder.events():  # what the checkpoint knows of its own step, which was dropped
        if event["step"] == going_on_from:
            values = {name: value for name, value in event.items() if name not in ENVELOPE}
            tracking.log(event["event"], values, step=event["step"])
    return tracking


def _make_average(run: Run, network: nn.Module, progress: Progress) -> WeightAverage | None:
    """A copy of the network that will follow it; made before accelerate binds `forward` to the original."""
    settings, num_epochs = run.settings.averaging, run.settings.schedule.num_train_epochs
    average: WeightAverage | None = None
    if settings.ema_decay:
        average = StepAverage(network, decay=settings.ema_decay, total_steps=run.total_steps)
    elif settings.average_last_epochs:
        first_epoch = max(0, num_epochs - settings.average_last_epochs)
        average = EpochAverage(
            network,
            first_epoch=first_epoch,
            num_epochs=num_epochs,
            done_epochs=progress.averaged_epochs,
        )
    if average is not None:
        average.module.to(run.machine.accelerator.device)
    return average


def _make_trainer(run: Run, network: nn.Module, progress: Progress) -> Trainer:
    settings = run.settings
    if settings.machine.gradient_checkpointing:
        network.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(
        network,
        settings.optimizer.optimizer,
        weight_decay=settings.optimizer.weight_decay,
        layer_decay=settings.optimizer.layer_decay,
    )
    # Before accelerate wraps it, which then exchanges no gradients of weights that never learn.
    if not settings.freezing.gradual_unfreezing:
        train_all_but(network, settings.freezing.frozen_stages)
    model, optimizer = run.machine.accelerator.prepare(network, optimizer)
    return Trainer(
        model=model,
        compiled=_compiled(model, settings) if settings.machine.torch_compile else None,
        optimizer=optimizer,
        schedule=Schedule(
            peak_rate=settings.optimizer.learning_rate,
            warmup_steps=settings.optimizer.warmup_steps,
            total_steps=run.total_steps,
        ),
        loss_function=make_loss_function(
            settings.loss,
            run.data.mapped_train.labels,
            num_classes=len(run.data.class_names),
            device=run.machine.accelerator.device,
        ),
        preprocessing=run.preprocessing,
        machine=run.machine,
        stopwatch=Stopwatch(progress.station_seconds, run.machine.accelerator.device),
        seed=settings.seed,
        max_grad_norm=settings.optimizer.max_grad_norm,
        max_seconds=60 * settings.schedule.max_minutes,
        mix=build_mixer(settings.images, len(run.data.class_names)),
        distillation=_make_distillation(run),
        reads_late=can_be_read_late(run.machine.accelerator),
        recomputes=settings.machine.gradient_checkpointing,
        known_to_fit=set() if run.machine.accelerator.device.type == "cuda" else None,
    )


def _compiled(model: nn.Module, settings: Settings) -> Callable[[Tensor], Tensor]:
    """The network compiled for each kind of step; a form for each is faster than one for all.

    Beyond torch's limit of 8 forms the network would run uncompiled without a word.
    """
    stages = _MOST_STAGES if settings.freezing.gradual_unfreezing else 1
    sizes, batches = len(set(settings.images.epoch_sizes)), 2  # the last batch of an epoch is a smaller one
    forms = sizes * batches * stages
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, forms)
    return torch.compile(model, dynamic=False)


def _make_distillation(run: Run) -> Distillation | None:
    if run.teacher is None:
        return None
    return Distillation(
        teacher=run.teacher.on(run.machine.accelerator.device, run.machine.memory_format),
        loss=make_distillation_loss(run.settings.teacher, run.settings.loss.loss),
        weight=run.settings.teacher.distillation_weight,
    )
