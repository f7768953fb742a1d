"""The part of a run that can stop at any moment and go on: fitting fc, epochs, validation."""

import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.finetuning.config.hyperrule import BATCHNORM_IMAGES
from resnet_hub.finetuning.config.options import Metric
from resnet_hub.finetuning.engine.micro_batch import steps_that_fit
from resnet_hub.finetuning.engine.step import settle, train_steps
from resnet_hub.finetuning.engine.stopwatch import FIT_FC
from resnet_hub.finetuning.engine.trainer import Progress
from resnet_hub.finetuning.machine.preemption import Preempted
from resnet_hub.finetuning.network.freezing import num_frozen_stages, train_all_but
from resnet_hub.finetuning.report.figures import draw_batch
from resnet_hub.finetuning.report.metrics import score_predictions, value_of
from resnet_hub.finetuning.training.bad_images import LeftOut
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.evaluation import (
    evaluate,
    reestimate_batchnorm,
    share_statistics,
    validation_batches,
)
from resnet_hub.finetuning.training.features import FittedFc, fit_fc
from resnet_hub.finetuning.training.state import (
    Training,
    fc_is_to_be_fitted,
    make_train_batches,
    save,
    save_epoch,
)
from resnet_hub.finetuning.training.suspects import note_suspects
from resnet_hub.results import Score

STEPS_BETWEEN_EVENTS = 10


def draw_first_batches(run: Run) -> None:
    """Save pictures of what the network gets: the first images of training and of validation."""
    if run.total_steps:
        micro_batches = next(make_train_batches(run, num_workers=0).epoch(0))
        _save_sheet(micro_batches[0].images, run.folder.plots / "train_batch.png")
    if run.data.validation is not None:
        batch = next(iter(validation_batches(run, run.data.validation, num_workers=0)))
        _save_sheet(batch.images, run.folder.plots / "validation_batch.png")


def _save_sheet(images: Tensor, path: Path) -> None:
    draw_batch(images).save(path, compress_level=1)  # photographs: a tenth larger, in a fifth of the time


def train_epochs(run: Run, training: Training) -> None:
    """Fit fc if that is to be done, train, validate after every epoch, and keep checkpoints.

    Until the steps or the time are used up, or validation has not improved for as long as was asked. Raises
    Preempted, with a checkpoint written, when the run is asked to stop.
    """
    if fc_is_to_be_fitted(run, training.progress):
        _fit_fc(run, training)
    with run.display.training(total_steps=run.total_steps, first_step=training.progress.step):
        epochs = range(training.progress.evaluated_epochs, run.settings.schedule.num_train_epochs)
        for epoch in () if training.progress.is_over else epochs:
            is_ended = _train_epoch(run, training, epoch)
            _average_epoch(training, epoch)
            _validate(run, training, epoch)
            is_ended |= _is_time_up(training) or _has_stalled(run, training.progress)
            training.progress.is_over = is_ended
            training.progress.is_over |= _tell_callbacks(run, training)
            save_epoch(run, training, is_last=training.progress.is_over or epoch == epochs[-1])
            if training.progress.is_over:
                break
    training.tracking.finish()


def fit_new_fc(run: Run, network: nn.Module) -> FittedFc:
    """Fit the new fc on the features of the frozen network, its BatchNorm in evaluation mode.

    Where training follows, BatchNorm will use the statistics of these images, and fc is fitted to what it
    makes of them; where none follows, those that the weights came with are more accurate (recipes/LOG.md).
    """
    if run.total_steps:
        reestimate_batchnorm(run, network, epoch=0, schedule_epoch=0, num_images=BATCHNORM_IMAGES)
        share_statistics(run, network)
    return fit_fc(run, network)


def _fit_fc(run: Run, training: Training) -> None:
    """Fit fc, validate the network with it, and keep the result."""
    started = time.monotonic()
    training.trainer.stopwatch.start()
    fitted = fit_new_fc(run, training.network)
    training.trainer.stopwatch.lap(FIT_FC)
    if training.average is not None:
        training.average.begin(training.network)
    training.progress.seconds += time.monotonic() - started
    training.progress.images += run.settings.probe.feature_views * len(run.data.mapped_train)
    _validate(run, training, epoch=-1, logits=fitted.validation_logits)
    values: dict[str, Any] = {"penalty": fitted.penalty}
    if run.machine.is_main:
        suspects = note_suspects(run, fitted.train_features, penalty=fitted.penalty)
        values |= {} if suspects is None else {"suspects": len(suspects)}
    _log(run, training, "fit_fc", values)
    training.progress.fc_is_fitted = True
    training.progress.is_over = _tell_callbacks(run, training)
    save(run, training)


def _train_epoch(run: Run, training: Training, epoch: int) -> bool:
    """Do the steps of an epoch that are not done yet; whether a callback asks to end training with them."""
    is_ended = False
    progress, settings = training.progress, run.settings
    save_after = 60 * settings.run.checkpoint_minutes
    first_step = progress.step - epoch * run.plan.steps_per_epoch
    if progress.step >= run.total_steps:  # resumed between the last step and its validation
        return is_ended
    if progress.step == 0:
        progress.seconds_before_steps = progress.seconds
    if first_step == 0:
        progress.schedule_epoch = _schedule_epoch(run, training, epoch)
    num_frozen = num_frozen_stages(settings.freezing, training.network, progress.schedule_epoch)
    train_all_but(training.network, num_frozen)
    left_out = LeftOut(run, progress)
    batches = training.batches.epoch(epoch, first_step, schedule_epoch=progress.schedule_epoch)
    steps = steps_that_fit(training.trainer, progress, left_out.noting(batches), epoch=epoch)
    for measured in train_steps(training.trainer, progress, steps, epoch=epoch):
        left_out.settle()
        if training.average is not None:
            training.average.after_step(training.network, progress.step)
        rate = run.plan.global_batch_size / measured["seconds"]
        run.display.step(progress.step, total=run.total_steps, loss=measured["loss"], images_per_second=rate)
        if progress.step % STEPS_BETWEEN_EVENTS == 0:
            settle(training.trainer, progress)
            _log(run, training, "train", measured | {"loss": fmean(progress.recent_losses)})
            progress.recent_losses.clear()
            is_ended = _tell_callbacks(run, training)
        run.stop_if_asked(lambda: save(run, training, must=True))
        if run.machine.is_main and time.monotonic() - training.last_saved > save_after:
            save(run, training)
        if is_ended or progress.step == run.total_steps or _is_time_up(training):
            break
    settle(training.trainer, progress)
    return is_ended


def _schedule_epoch(run: Run, training: Training, epoch: int) -> int:
    """The epoch whose images and stages an epoch has: a later one where the time limit runs faster."""
    num_epochs = run.settings.schedule.num_train_epochs
    by_time = int(training.trainer.share_of_time(training.progress) * num_epochs)
    return max(epoch, min(by_time, num_epochs - 1))


def _average_epoch(training: Training, epoch: int) -> None:
    """Let the average take in the weights of an epoch, once, even if the validation after it is stopped."""
    if training.average is not None and training.progress.averaged_epochs == epoch:
        training.average.after_epoch(training.network, epoch)
        training.progress.averaged_epochs = epoch + 1


def _is_time_up(training: Training) -> bool:
    return training.trainer.share_of_time(training.progress) >= 1


def _has_stalled(run: Run, progress: Progress) -> bool:
    selection = run.settings.selection
    last = max(progress.best_epoch, selection.settling_epochs)
    return progress.evaluated_epochs - last >= selection.early_stopping_epochs


def _validate(run: Run, training: Training, epoch: int, logits: Tensor | None = None) -> None:
    """Score the network on validation, and keep its weights if they are the best; `logits` if known."""
    progress = training.progress
    split, network = run.data.validation, training.candidate
    started = time.monotonic()
    num_images = run.settings.averaging.reestimate_batchnorm
    if num_images and epoch >= 0:  # the fitted fc belongs to the weights as they came
        reestimate_batchnorm(
            run,
            network,
            epoch=epoch,
            schedule_epoch=progress.schedule_epoch,
            num_images=num_images,
            before_stop=lambda: save(run, training, must=True),
        )
    if split is None:
        progress.evaluated_epochs, progress.best_epoch = epoch + 1, epoch + 1
        training.best = _copy_weights(network)
        return
    logits = evaluate(run, training, split, network) if logits is None else logits
    labels = torch.as_tensor(split.labels)
    score = score_predictions(logits, labels, run.data.class_names, own=run.metrics)
    progress.seconds += time.monotonic() - started
    progress.evaluated_epochs = epoch + 1
    metric = run.settings.selection.metric_for_best_model
    if epoch < 0:
        progress.linear_probe_score = value_of(score, metric)
    elif training.may_be_best and math.isfinite(score.loss):
        progress.best_epoch_score = max(value_of(score, metric), progress.best_epoch_score or -math.inf)
    if training.may_be_best and is_better(score, progress, metric):
        progress.best_score, progress.best_loss = value_of(score, metric), score.loss
        progress.best_epoch = epoch + 1
        training.best = _copy_weights(network)
    values = {"accuracy": score.accuracy, "loss": score.loss, "macro_f1": score.macro_f1}
    others = f"macro F1 {score.macro_f1:.4f}  "
    if score.mean_average_precision is not None:
        values["mean_average_precision"] = score.mean_average_precision
        others += f"mAP {score.mean_average_precision:.4f}  "
    _log(run, training, "validation", values | score.metrics)
    place = f"epoch {epoch + 1:3d}/{run.settings.schedule.num_train_epochs}  step {progress.step:5d}"
    run.display.say(
        f"{place if epoch >= 0 else 'linear probe'.ljust(len(place))}  "
        f"validation accuracy {score.accuracy:7.2%}  {others}loss {score.loss:.4f}  "
        + "".join(f"{name} {value:.4f}  " for name, value in score.metrics.items())
        + f"{progress.seconds:6.0f} s"
    )


def is_better(score: Score, progress: Progress, metric: Metric) -> bool:
    """Better on validation; at equal values, which are common with few images, of lower loss.

    A network whose loss is no number is never the best: its answers, and so its accuracy, mean nothing.
    """
    return math.isfinite(score.loss) and (value_of(score, metric), -score.loss) > (
        progress.best_score,
        -progress.best_loss,
    )


def _copy_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}


def _log(run: Run, training: Training, event: str, values: dict[str, Any]) -> None:
    step = training.progress.step
    if run.machine.is_main:
        noted = training.log.add(event, step=step, epoch=step / run.plan.steps_per_epoch, **values)
        run.callbacks.note(noted)
    training.tracking.log(event, values, step=step)


def _tell_callbacks(run: Run, training: Training) -> bool:
    """Tell the callbacks what has happened; whether one of them asks to end training. Every process asks.

    What a callback raises is raised once a checkpoint is written; on the other processes as Preempted.
    """
    if not run.callbacks:
        return False
    run.callbacks.tell()
    error = run.callbacks.error
    if run.machine.agree_any(error is not None):
        save(run, training, must=True)
        run.machine.accelerator.wait_for_everyone()
        raise Preempted if error is None else error
    return run.machine.agree_any(run.callbacks.ask_to_end)
