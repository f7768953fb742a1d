"""Validation images are decoded once in a run, and only if they fit into memory are they kept."""

import shutil
from pathlib import Path

import pytest
import torch

from resnet_hub.finetuning import evaluation
from resnet_hub.finetuning.config import FinetuneConfig
from resnet_hub.finetuning.evaluation import evaluate
from resnet_hub.finetuning.preemption import PreemptionWatch
from resnet_hub.finetuning.preparation import Run, prepare
from resnet_hub.finetuning.state import Training, start_or_resume
from resnet_hub.images import BadImageError


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy whose images may be removed."""
    return shutil.copytree(photo_folder, tmp_path / "photos")


def begun(photos: Path, folder: Path) -> tuple[Run, Training]:
    config = FinetuneConfig(
        dataset_name=str(photos),
        model_name_or_path="my_resnet20",
        pretrained=False,
        per_device_eval_batch_size=4,
        output_dir=folder,
    )
    with PreemptionWatch() as watch:
        run = prepare(config, watch)
    run.folder.begin(run.config, facts=run.facts(), machine=run.machine.record(), bad_images=[])
    return run, start_or_resume(run)


def test_the_second_validation_reads_no_file_and_gives_the_same(photos: Path, tmp_path: Path):
    run, training = begun(photos, tmp_path / "run")
    first = evaluate(run, training, run.data.validation, training.network)
    shutil.rmtree(photos / "validation")
    assert torch.equal(evaluate(run, training, run.data.validation, training.network), first)


def test_images_that_do_not_fit_are_read_each_time(photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_KEPT_BYTES", 1000)
    run, training = begun(photos, tmp_path / "run")
    first = evaluate(run, training, run.data.validation, training.network)
    assert torch.equal(evaluate(run, training, run.data.validation, training.network), first)
    assert training.validation_batches == []
    shutil.rmtree(photos / "validation")
    with pytest.raises(BadImageError, match="cannot be read"):
        evaluate(run, training, run.data.validation, training.network)


def test_test_images_are_not_kept(photos: Path, tmp_path: Path):
    run, training = begun(photos, tmp_path / "run")
    evaluate(run, training, run.data.test, training.network)
    assert training.validation_batches == []
