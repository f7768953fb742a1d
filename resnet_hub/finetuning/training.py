"""The part of a run that can stop at any moment and go on: epochs, validation, checkpoints."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors import SafetensorError
from torch import Tensor, nn

from resnet_hub.finetuning.augment import build_mixer, build_train_transform
from resnet_hub.finetuning.checkpoint import (
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    read_newest_checkpoint,
    remove_leftovers,
    write_checkpoint,
)
from resnet_hub.finetuning.config import plain_values
from resnet_hub.finetuning.contact_sheet import draw_batch
from resnet_hub.finetuning.data import Split
from resnet_hub.finetuning.fit_fc import Examples, fit_linear_classifier, set_classifier
from resnet_hub.finetuning.loader import Batch, TrainBatches, evaluation_batches
from resnet_hub.finetuning.loop import Progress, Trainer, compute_split, make_loss_function, train_steps
from resnet_hub.finetuning.metrics import score_predictions
from resnet_hub.finetuning.optim import Schedule, make_optimizer
from resnet_hub.finetuning.preparation import Run
from resnet_hub.finetuning.stopwatch import EVALUATION, FIT_FC, SAVING, Stopwatch
from resnet_hub.finetuning.sync_batchnorm import synchronise_batchnorm
from resnet_hub.finetuning.tracking import Tracking
from resnet_hub.results import Score

logger = logging.getLogger(__name__)

STEPS_BETWEEN_EVENTS = 10


@dataclass(kw_only=True)
class Training:
    """The state of a run and the loaders that feed it."""

    trainer: Trainer
    network: nn.Module
    """The network itself, without the wrapping of accelerate."""
    progress: Progress
    best: dict[str, Tensor]
    """Weights of the best validated epoch, on the CPU."""
    batches: TrainBatches
    tracking: Tracking
    resumed_from_step: int | None = None
    last_saved: float = field(default_factory=time.monotonic)


def start_or_resume(run: Run) -> Training:
    """The training at its first step, or where the newest valid checkpoint of the folder left it."""
    checkpoint = read_newest_checkpoint(run.folder.checkpoints)
    network = run.model
    progress = Progress()
    if checkpoint is not None:
        network.load_state_dict(dict(checkpoint.tensors["model"]))
        progress = Progress(**checkpoint.values["progress"])
    network = network.to(memory_format=run.machine.memory_format)  # pyright: ignore[reportCallIssue]
    if run.machine.sync_batchnorm:
        network = synchronise_batchnorm(network, run.machine.accelerator.device)
    trainer = _make_trainer(run, network, progress)
    if checkpoint is not None:
        load_optimizer_tensors(trainer.optimizer, checkpoint.tensors["optimizer"])
        if run.machine.accelerator.scaler is not None:
            run.machine.accelerator.scaler.load_state_dict(checkpoint.values["scaler"])
        if run.machine.is_main:
            run.folder.rewind_log(checkpoint.values["log_size"])
            remove_leftovers(run.folder.checkpoints)
        run.display.say(f"going on from step {progress.step} of {run.total_steps}")
    elif run.machine.is_main:
        run.folder.rewind_log(0)
    training = Training(
        trainer=trainer,
        network=run.machine.accelerator.unwrap_model(trainer.model),
        progress=progress,
        best=dict(checkpoint.tensors.get("best", {})) if checkpoint else {},
        batches=_make_train_batches(run, num_workers=run.num_workers),
        tracking=Tracking(
            run.machine.accelerator, run.config.report_to, str(run.folder.path), plain_values(run.config)
        ),
        resumed_from_step=progress.step if checkpoint else None,
    )
    if _fc_is_to_be_fitted(run, progress):
        _fit_fc(run, training)
    return training


def draw_first_batches(run: Run) -> None:
    """Save pictures of what the network gets: the first images of training and of validation."""
    if run.total_steps:
        micro_batches = next(_make_train_batches(run, num_workers=0).epoch(0))
        draw_batch(micro_batches[0].images).save(run.folder.plots / "train_batch.png")
    if run.data.validation is not None:
        batch = next(_evaluation_batches(run, run.data.validation, num_workers=0))
        draw_batch(batch.images).save(run.folder.plots / "validation_batch.png")


def train_epochs(run: Run, training: Training) -> None:
    """Train, validate after every epoch, and keep checkpoints, until the steps or the time are used up.

    Raises Preempted, with a checkpoint written, when the run is asked to stop.
    """
    assert run.config.num_train_epochs is not None
    with run.display.training(total_steps=run.total_steps, first_step=training.progress.step):
        epochs = range(training.progress.evaluated_epochs, run.config.num_train_epochs)
        for epoch in () if training.progress.is_over else epochs:
            _train_epoch(run, training, epoch)
            _validate(run, training, epoch)
            training.progress.is_over = _is_time_up(training)
            save(run, training)
            if training.progress.is_over:
                break
    training.tracking.finish()


def evaluate(run: Run, training: Training, split: Split, *, full_precision: bool = False) -> Tensor:
    """Logits (images, classes) of a split in its order; raises Preempted, after saving, when asked."""
    stopwatch = training.trainer.stopwatch
    stopwatch.start()
    training.network.eval()
    if run.machine.world_size > 1 and not run.machine.sync_batchnorm:
        for buffer in training.network.buffers():  # each process has running statistics of its own
            broadcast(buffer)
    logits = _compute(
        run,
        training,
        split,
        training.network,
        num_outputs=len(run.data.class_names),
        full_precision=full_precision,
    )
    stopwatch.lap(EVALUATION)
    return logits


def save(run: Run, training: Training, *, must: bool = False) -> None:
    """Write a checkpoint; unless it `must` be written, a full disk is no reason to stop."""
    training.last_saved = time.monotonic()
    stopwatch = training.trainer.stopwatch
    stopwatch.start()
    stopwatch.settle()
    if not run.machine.is_main:  # the others have the same weights, optimizer and progress
        return
    if _fc_is_to_be_fitted(run, training.progress):  # the run has not got anywhere yet
        return
    groups: dict[str, dict[str, Tensor]] = {
        "model": training.network.state_dict(),
        "optimizer": optimizer_tensors(training.trainer.optimizer),
    }
    if training.best:
        groups["best"] = training.best
    scaler = run.machine.accelerator.scaler
    values = {
        "progress": asdict(training.progress),
        "log_size": run.folder.log_size(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    try:
        write_checkpoint(
            run.folder.checkpoints, training.progress.step, Checkpoint(tensors=groups, values=values)
        )
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        if must:
            raise
        logger.warning("No checkpoint could be written at step %d: %s", training.progress.step, error)
    stopwatch.lap(SAVING)


def _compute(
    run: Run,
    training: Training,
    split: Split,
    compute: Callable[[Tensor], Tensor],
    *,
    num_outputs: int,
    full_precision: bool = False,
) -> Tensor:
    """What `compute` makes of each image of a split as evaluation sees it, (images, outputs), on the CPU."""
    return compute_split(
        compute,
        _evaluation_batches(run, split, num_workers=run.num_workers),
        num_outputs=num_outputs,
        num_images=len(split),
        batch_size=_evaluation_batch_size(run),
        preprocessing=run.preprocessing,
        machine=run.machine,
        between_batches=lambda: run.stop_if_asked(lambda: save(run, training, must=True)),
        full_precision=full_precision,
    )


def _evaluation_batches(run: Run, split: Split, *, num_workers: int) -> Iterator[Batch]:
    return evaluation_batches(
        split,
        run.preprocessing,
        batch_size=_evaluation_batch_size(run),
        rank=run.machine.rank,
        world_size=run.machine.world_size,
        num_workers=num_workers,
        pin_memory=run.machine.accelerator.device.type == "cuda",
    )


def _evaluation_batch_size(run: Run) -> int:
    assert run.config.per_device_eval_batch_size is not None
    return run.config.per_device_eval_batch_size


def _fit_fc(run: Run, training: Training) -> None:
    """Fit the new fc on the features of the frozen network, its BatchNorm in evaluation mode."""
    started = time.monotonic()
    training.trainer.stopwatch.start()
    network: Any = training.network.eval()
    device = run.machine.accelerator.device

    def examples(split: Split) -> Examples:
        features = _compute(
            run,
            training,
            split,
            lambda images: network.forward_head(network.forward_features(images), pre_logits=True),
            num_outputs=network.head_hidden_size,
        )
        return Examples(features=features.to(device), labels=torch.as_tensor(split.labels).to(device))

    validation = run.data.validation
    with torch.inference_mode(False):
        fitted = fit_linear_classifier(
            examples(run.data.train),
            None if validation is None else examples(validation),
            num_classes=len(run.data.class_names),
            between_penalties=run.stop_if_asked,
        )
    set_classifier(network, fitted)
    for tensor in network.get_classifier().parameters():
        broadcast(tensor.data)  # GPUs may round differently; the weights have to be the same everywhere
    training.trainer.stopwatch.lap(FIT_FC)
    training.progress.seconds += time.monotonic() - started
    training.progress.images += len(run.data.train)
    _validate(run, training, epoch=-1)
    _log(run, training, "fit_fc", {"penalty": fitted.penalty})
    training.progress.fc_is_fitted = True
    save(run, training)


def _fc_is_to_be_fitted(run: Run, progress: Progress) -> bool:
    return bool(run.config.fit_fc_first) and not progress.fc_is_fitted


def _train_epoch(run: Run, training: Training, epoch: int) -> None:
    progress, config = training.progress, run.config
    first_step = progress.step - epoch * run.plan.steps_per_epoch
    if progress.step >= run.total_steps:  # resumed between the last step and its validation
        return
    steps = training.batches.epoch(epoch, first_step)
    for measured in train_steps(training.trainer, progress, steps, epoch=epoch):
        progress.recent_losses.append(measured["loss"])
        rate = run.plan.global_batch_size / measured["seconds"]
        run.display.step(progress.step, total=run.total_steps, loss=measured["loss"], images_per_second=rate)
        if progress.step % STEPS_BETWEEN_EVENTS == 0:
            _log(run, training, "train", measured | {"loss": fmean(progress.recent_losses)})
            progress.recent_losses.clear()
        run.stop_if_asked(lambda: save(run, training, must=True))
        if run.machine.is_main and time.monotonic() - training.last_saved > 60 * config.checkpoint_minutes:
            save(run, training)
        if progress.step == run.total_steps or _is_time_up(training):
            break


def _is_time_up(training: Training) -> bool:
    return training.trainer.share_of_time(training.progress) >= 1


def _validate(run: Run, training: Training, epoch: int) -> None:
    progress = training.progress
    split = run.data.validation
    if split is None:
        progress.evaluated_epochs, progress.best_epoch = epoch + 1, epoch + 1
        training.best = _copy_weights(training.network)
        return
    started = time.monotonic()
    logits = evaluate(run, training, split)
    score = score_predictions(logits, torch.as_tensor(split.labels), run.data.class_names)
    progress.seconds += time.monotonic() - started
    progress.evaluated_epochs = epoch + 1
    if _is_better(score, progress):
        progress.best_accuracy, progress.best_loss = score.accuracy, score.loss
        progress.best_epoch = epoch + 1
        training.best = _copy_weights(training.network)
    values = {"accuracy": score.accuracy, "loss": score.loss, "macro_f1": score.macro_f1}
    _log(run, training, "validation", values)
    run.display.say(
        f"{f'epoch {epoch + 1:3d}' if epoch >= 0 else 'fitted fc'}/{run.config.num_train_epochs}  "
        f"step {progress.step:5d}  "
        f"validation accuracy {score.accuracy:7.2%}  loss {score.loss:.4f}  {progress.seconds:6.0f} s"
    )


def _is_better(score: Score, progress: Progress) -> bool:
    """More accurate on validation; at equal accuracy, which is common with few images, of lower loss."""
    return (score.accuracy, -score.loss) > (progress.best_accuracy, -progress.best_loss)


def _copy_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}


def _log(run: Run, training: Training, event: str, values: dict[str, Any]) -> None:
    step = training.progress.step
    if run.machine.is_main:
        run.folder.log(event, step=step, epoch=step / run.plan.steps_per_epoch, **values)
    training.tracking.log({f"{event}/{name}": value for name, value in values.items()}, step=step)


def _make_trainer(run: Run, network: nn.Module, progress: Progress) -> Trainer:
    config = run.config
    assert config.learning_rate is not None
    assert config.weight_decay is not None
    assert config.warmup_steps is not None
    assert config.label_smoothing is not None
    optimizer = make_optimizer(network, weight_decay=config.weight_decay)
    model, optimizer = run.machine.accelerator.prepare(network, optimizer)
    return Trainer(
        model=model,
        optimizer=optimizer,
        schedule=Schedule(
            peak_rate=config.learning_rate, warmup_steps=config.warmup_steps, total_steps=run.total_steps
        ),
        loss_function=make_loss_function(
            multi_label=run.data.multi_label, label_smoothing=config.label_smoothing
        ),
        preprocessing=run.preprocessing,
        machine=run.machine,
        stopwatch=Stopwatch(progress.station_seconds, run.machine.accelerator.device),
        seed=config.seed,
        max_grad_norm=config.max_grad_norm,
        max_seconds=None if config.max_minutes is None else 60 * config.max_minutes,
        mix=build_mixer(config, len(run.data.class_names)),
    )


def _make_train_batches(run: Run, *, num_workers: int) -> TrainBatches:
    return TrainBatches(
        run.data.train,
        build_train_transform(run.config, run.preprocessing),
        run.plan,
        rank=run.machine.rank,
        world_size=run.machine.world_size,
        num_micro=run.config.gradient_accumulation_steps,
        num_workers=num_workers,
        pin_memory=run.machine.accelerator.device.type == "cuda",
    )
