"""What steps measure may be read one step later: the same weights and losses, and no file with NaN.

A run reads late on GPUs, where it pays. The machines that run these tests have none, so a trainer is told to.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_hub.finetuning.engine import step as engine_step
from resnet_hub.finetuning.engine.deferred_metrics import can_be_read_late
from resnet_hub.finetuning.engine.step import TrainingDivergedError, settle, train_steps
from resnet_hub.finetuning.engine.trainer import Trainer
from resnet_hub.finetuning.network.freezing import train_all_but
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.state import Training, save

from ..training.test_best import prepared

STEPS = 6


def begun(folder: Path, *, late: bool, **options: Any) -> tuple[Run, Training]:
    run, training = prepared(folder, max_train_steps=STEPS, **options)
    train_all_but(training.network, 0)
    training.trainer = replace(training.trainer, reads_late=late)
    return run, training


def steps(training: Training, num_steps: int = STEPS) -> Iterator[dict[str, Any]]:
    batches = training.batches.epoch(0)
    return islice(train_steps(training.trainer, training.progress, batches, epoch=0), num_steps)


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.network.parameters()]).clone()


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0}])
def test_reading_late_changes_neither_weights_nor_losses(tmp_path: Path, options: dict[str, Any]):
    _, at_once = begun(tmp_path / "at once", late=False, **options)
    seen = [measured["loss"] for measured in steps(at_once)]
    assert seen == at_once.progress.recent_losses
    _, late = begun(tmp_path / "late", late=True, **options)
    seen_late = [measured["loss"] for measured in steps(late)]
    assert seen_late == [seen[0], *seen[:-1]]  # there is none before the first
    assert (late.progress.step, len(late.progress.recent_losses)) == (STEPS, STEPS - 1)
    settle(late.trainer, late.progress)
    assert late.progress.recent_losses == at_once.progress.recent_losses
    assert late.progress.images == at_once.progress.images > 0
    assert torch.equal(weights(late), weights(at_once))


def spoil(training: Training, monkeypatch: pytest.MonkeyPatch, *, step: int, where: str) -> None:
    """Make the loss, or a gradient, of a step no number."""
    compute = engine_step.accumulate_gradients

    def spoiled(trainer: Trainer, *arguments: Any, key: tuple[int, int, int], **options: Any) -> torch.Tensor:
        total = compute(trainer, *arguments, key=key, **options)
        if key[2] != step:
            return total
        if where == "loss":
            return total * math.nan
        parameter = next(training.network.parameters())
        assert parameter.grad is not None
        parameter.grad[0] = math.inf
        return total

    monkeypatch.setattr(engine_step, "accumulate_gradients", spoiled)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_no_number_is_reported_after_the_next(
    where: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, training = begun(
        tmp_path / "run", late=True, optimizer=optimizer, learning_rate=0.01, weight_decay=0.01
    )
    spoil(training, monkeypatch, step=3, where=where)
    found = steps(training)
    for _ in range(4):
        next(found)
    with pytest.raises(TrainingDivergedError, match="after 3 steps, and nothing of that step was saved"):
        next(found)


def test_a_checkpoint_holds_what_its_last_step_measured_or_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, training = begun(tmp_path / "run", late=True)
    list(steps(training, 2))
    save(run, training)
    assert len(training.progress.recent_losses) == 2
    spoil(training, monkeypatch, step=3, where="loss")
    list(islice(train_steps(training.trainer, training.progress, training.batches.epoch(0), epoch=0), 2))
    with pytest.raises(TrainingDivergedError):
        save(run, training)
    assert [path.name for path in run.folder.checkpoints.iterdir()] == ["step-00000002"]


def test_steps_on_a_cpu_are_read_at_once(tmp_path: Path):
    run, training = prepared(tmp_path / "run")
    assert not can_be_read_late(run.machine.accelerator)
    assert not training.trainer.reads_late
