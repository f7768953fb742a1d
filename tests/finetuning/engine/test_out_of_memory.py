"""A step that does not fit into memory is done in parts, the same number on every process.

The machines that run these tests have no small device, so memory runs out where a hook says so, with the
error that torch raises.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from resnet_hub.errors import RunError
from resnet_hub.finetuning.engine.micro_batch import steps_that_fit
from resnet_hub.finetuning.engine.out_of_memory import is_out_of_memory
from resnet_hub.finetuning.engine.step import accumulate_gradients, train_steps
from resnet_hub.finetuning.engine.trainer import Progress, Trainer
from resnet_hub.finetuning.network.freezing import train_all_but
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.evaluation import evaluate
from resnet_hub.finetuning.training.state import Training, save

from ..runs import (
    ForkServer,
    assert_same_run,
    happens,
    log_of,
    on_two_processes,
    saved,
)
from ..training.test_best import prepared

BATCH = 64


def limit_images(network: nn.Module, most: int) -> list[int]:
    """Let the network run out of memory above so many images; returns the sizes of what it was given."""
    given: list[int] = []

    def check(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        given.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    network.register_forward_pre_hook(check)
    return given


def begun(folder: Path, **options: Any) -> tuple[Run, Training, Trainer]:
    """A run whose BatchNorm is at rest, so that a batch and its parts give the same gradient."""
    defaults = {"images_per_step": BATCH, "per_device_train_batch_size": BATCH, "mixup": 0.2}
    run, training = prepared(folder, **{"max_train_steps": 4, "sync_batchnorm": "no"} | defaults | options)
    train_all_but(training.network, 0)
    for module in training.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    # SGD: Adam makes much of the rounding of small gradients.
    optimizer = run.machine.accelerator.prepare(SGD(training.network.parameters(), lr=0.0))
    return run, training, replace(training.trainer, known_to_fit=set(), optimizer=optimizer)


def train(training: Training, trainer: Trainer, progress: Progress | None = None) -> Progress:
    progress = progress or Progress()
    steps = steps_that_fit(trainer, progress, training.batches.epoch(0), epoch=0)
    for _ in train_steps(trainer, progress, steps, epoch=0):
        if progress.step == 4:
            break
    return progress


def weights(training: Training) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.network.parameters()])


def test_a_step_that_does_not_fit_is_done_in_parts_and_gives_the_same_weights(tmp_path: Path, caplog):
    _, training, trainer = begun(tmp_path / "plenty")
    assert train(training, trainer).parts == 1
    expected = weights(training)
    _, training, trainer = begun(tmp_path / "little")
    given = limit_images(training.network, 20)
    before = {name: buffer.clone() for name, buffer in training.network.named_buffers()}
    progress = train(training, trainer)
    assert progress.parts == 4
    assert given[:2] == [63, 32]  # 1,257 images in 20 steps of nearly equal size
    assert max(given[2:]) <= 20
    torch.testing.assert_close(weights(training), expected, atol=1e-5, rtol=1e-4)
    assert progress.images == 4 * 63
    assert all(torch.equal(before[name], buffer) for name, buffer in training.network.named_buffers())
    assert "done in 4 parts" in caplog.text


def test_trying_out_leaves_batchnorm_and_the_training_as_they_were(tmp_path: Path):
    results = []
    for name, known_to_fit in (("with", set()), ("without", None)):
        _, training = prepared(tmp_path / name, max_train_steps=4)
        train_all_but(training.network, 0)
        train(training, replace(training.trainer, known_to_fit=known_to_fit))
        results.append({key: value.clone() for key, value in training.network.state_dict().items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_run_that_goes_on_begins_with_the_parts_that_it_had(tmp_path: Path):
    _, training, trainer = begun(tmp_path / "run")
    given = limit_images(training.network, 20)
    assert train(training, trainer, Progress(parts=4)).parts == 4
    assert max(given) <= 20


@pytest.mark.slow
def test_memory_that_becomes_scarce_later_ends_the_run_with_advice_and_the_same_command_resumes(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    scarce = happens("engine.step.accumulate_gradients", "out of memory", call=9)
    server.run(folder, "--checkpoint_minutes", "0.0001", faults=[scarce], code=1)
    last = log_of(folder).read_text().splitlines()[-1]
    assert "Out of device memory with 14 images" in last
    assert "--per_device_train_batch_size 7" in last
    assert "step-00000008" in saved(folder)
    server.run(folder)
    assert_same_run(folder, uninterrupted)


def test_uneven_batches_are_done_in_the_same_number_of_parts(tmp_path: Path):
    """As many on every process: with SyncBatchNorm one that computes a part more would wait for ever."""
    for images in (63, 64):
        options = {"images_per_step": images, "per_device_train_batch_size": images}
        _, training, trainer = begun(tmp_path / str(images), **options)
        given = limit_images(training.network, BATCH)
        step = next(training.batches.epoch(0))
        sizes = torch.tensor(float(images))
        accumulate_gradients(trainer, step, key=(0, 0, 0), parts=20, num_images=sizes)
        assert len(given) == 20


def test_another_image_size_and_other_stages_that_learn_are_tried_out_too(tmp_path: Path):
    _, training, trainer = begun(tmp_path / "run")
    (step,) = next(training.batches.epoch(0))
    small = step._replace(images=step.images[..., :4, :4])
    given = limit_images(training.network, BATCH)
    for frozen, batch, tries in ((2, step, 1), (2, step, 1), (2, small, 2), (0, step, 3), (0, step, 3)):
        train_all_but(training.network, frozen)
        list(steps_that_fit(trainer, training.progress, [[batch]], epoch=0))
        assert len(given) == tries


def test_parts_that_were_found_for_other_micro_batches_are_not_kept(tmp_path: Path):
    run, training = prepared(tmp_path / "run", images_per_step=BATCH, per_device_train_batch_size=BATCH)
    training.progress.parts = 8
    training.progress.fc_is_fitted = True
    save(run, training, must=True)
    options = {"images_per_step": BATCH}
    _, again = prepared(tmp_path / "run", per_device_train_batch_size=BATCH, **options)
    assert again.progress.parts == 8
    _, smaller = prepared(tmp_path / "run", per_device_train_batch_size=BATCH // 4, **options)
    assert smaller.progress.parts == 1


def test_a_single_image_that_does_not_fit_ends_the_run_with_advice(tmp_path: Path):
    _, training, trainer = begun(tmp_path / "run")
    limit_images(training.network, 0)
    with pytest.raises(RunError, match="smaller --image_size"):
        train(training, trainer)


def test_an_evaluation_that_does_not_fit_is_done_in_halves_and_answers_the_same(tmp_path: Path):
    run, training, _ = begun(tmp_path / "run", per_device_eval_batch_size=BATCH)
    assert run.data.validation is not None
    expected = evaluate(run, training, run.data.validation, training.network)
    given = limit_images(training.network, 20)
    found = evaluate(run, training, run.data.validation, training.network)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert given[:3] == [64, 32, 16]
    limit_images(training.network, 0)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(run, training, run.data.validation, training.network)


def test_a_real_allocation_that_cannot_be_had_is_known_for_what_it_is():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def parts_and_weights(folder: Path, *, most: int = BATCH, **options: Any) -> tuple[int, torch.Tensor]:
    _, training, trainer = begun(folder, mixup=0.0, **options)
    limit_images(training.network, most)
    return train(training, trainer).parts, weights(training)


def half_with_a_small_second_device(folder: Path) -> tuple[int, torch.Tensor]:
    most = 10 if os.environ["RANK"] == "1" else BATCH
    return parts_and_weights(folder, most=most, per_device_train_batch_size=BATCH // 2)


@pytest.mark.slow
def test_all_processes_agree_on_the_parts_though_only_one_runs_out_of_memory(tmp_path: Path):
    first, second = on_two_processes(half_with_a_small_second_device, tmp_path / "two")
    assert first[0] == second[0] == 4
    assert torch.equal(first[1], second[1])
    _, expected = parts_and_weights(tmp_path / "one")
    torch.testing.assert_close(first[1], expected, atol=1e-5, rtol=1e-4)
