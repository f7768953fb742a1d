"""Loader processes of evaluation wait for the next one, for to start and end them takes a second."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from resnet_hub.finetuning.training.evaluation import evaluate, reestimate_batchnorm

from ..training.test_best import prepared


def test_loader_processes_of_evaluation_are_kept_while_there_is_something_to_decode(tmp_path: Path):
    def processes() -> set[int]:
        return {child.pid for child in psutil.Process().children() if child.pid not in others}

    others = {child.pid for child in psutil.Process().children()}
    options = {"dataloader_num_workers": 2, "per_device_eval_batch_size": 64, "reestimate_batchnorm": 512}
    run, training = prepared(tmp_path / "decodes", image_memory_gb=0.0, **options)
    seen = []
    for _ in range(2):
        reestimate_batchnorm(run, training.network, epoch=0, schedule_epoch=0, num_images=512)
        logits = evaluate(run, training, run.data.validation, training.network)
        seen.append((processes(), logits))
    assert len(seen[0][0]) == 4  # two for the statistics and two for validation
    assert seen[1][0] == seen[0][0]
    run.loaders.end("statistics")
    run.loaders.end("validation")
    assert not processes()

    run, training = prepared(tmp_path / "keeps", **options)
    kept = [evaluate(run, training, run.data.validation, training.network) for _ in range(2)]
    assert not processes()
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_loader_processes_that_end_or_stop_while_they_wait_are_replaced(
    how: signal.Signals, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    options = {"dataloader_num_workers": 2, "per_device_eval_batch_size": 64, "image_memory_gb": 0.0}
    run, training = prepared(tmp_path / "run", **options)
    others = {child.pid for child in psutil.Process().children()}
    expected = evaluate(run, training, run.data.validation, training.network)
    waiting = [child for child in psutil.Process().children() if child.pid not in others]
    assert len(waiting) == 2
    os.kill(waiting[0].pid, how)
    time.sleep(0.5)
    assert torch.equal(evaluate(run, training, run.data.validation, training.network), expected)
    assert "they are replaced and the run continues" in caplog.text
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in waiting)
