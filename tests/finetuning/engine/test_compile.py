"""`--torch_compile`: the steps are those of the plain network, and so is all that is written."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from resnet_hub.finetuning.engine.micro_batch import steps_that_fit
from resnet_hub.finetuning.engine.step import train_steps
from resnet_hub.finetuning.network.freezing import train_all_but

from ..conftest import TINY, finetune_command, run_command
from ..training.test_best import prepared

pytestmark = [
    pytest.mark.slow,  # compiling takes the better part of a minute
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++"),
]


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True, "drop_path_rate": 0.1}])
def test_compiled_steps_have_the_losses_weights_and_statistics_of_plain_ones(tmp_path: Path, options):
    results = []
    for name, compiled in (("plain", False), ("compiled", True)):
        _, training = prepared(tmp_path / name, max_train_steps=4, torch_compile=compiled, **options)
        train_all_but(training.network, 0)
        counters.clear()
        trainer = replace(training.trainer, known_to_fit=set())  # as on a GPU: a step is tried out first
        steps = steps_that_fit(trainer, training.progress, training.batches.epoch(0), epoch=0)
        for _ in zip(range(4), train_steps(trainer, training.progress, steps, epoch=0), strict=False):
            pass
        # A form for each size of batches: here all have 126 or 125 images.
        assert (counters["stats"]["unique_graphs"] in (1, 2)) == compiled
        results.append((training.progress.recent_losses, training.network.state_dict()))
    (plain, expected), (compiled, found) = results
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=2e-3, rtol=2e-3)


def test_images_that_grow_through_many_sizes_never_fall_back_to_plain_steps(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced all the same
    options = {"image_size": 32, "first_image_size": 4, "num_train_epochs": 12, "dataloader_num_workers": 0}
    _, training = prepared(tmp_path / "run", torch_compile=True, **options)
    train_all_but(training.network, 0)
    counters.clear()
    for epoch in range(8):  # through which they grow: 4, 8, 12, ..., 32
        steps = training.batches.epoch(epoch)
        first = train_steps(training.trainer, training.progress, steps, epoch=epoch)
        for _ in zip(range(10), first, strict=False):
            pass
    assert counters["stats"]["unique_graphs"] > 8


def test_a_compiled_run_exports_the_network_and_goes_on_without_compiling(tmp_path: Path):
    folder = tmp_path / "run"
    arguments = (*TINY, "--num_train_epochs", "2", "--output_dir", folder)
    done = run_command(finetune_command(*arguments, "--torch_compile"))
    assert done.returncode == 0, done.stderr
    assert "compiled" in done.stderr
    assert "conv1.weight" in load_file(folder / "export/model.safetensors")
    (folder / "report.json").unlink()
    again = run_command(finetune_command(*arguments))
    assert again.returncode == 0, again.stderr
    assert "resuming from step" in again.stderr
    assert "torch_compile was True, is False" in again.stderr
    assert json.loads((folder / "report.json").read_text())
