"""What is the same each time is decoded once in a run, if it fits into memory, and gives the same pixels."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_hub.finetuning.batches.augment import EvaluationTransform, fixed_views
from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.machine.preemption import PreemptionWatch
from resnet_hub.finetuning.prepare import prepare
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.evaluation import evaluate, reestimate_batchnorm
from resnet_hub.finetuning.training.state import Training, make_train_batches, start_or_resume
from resnet_hub.images.decoding import BadImageError
from resnet_hub.images.preprocessing import Preprocessing

from ..settings import settings_of

Begin = Callable[..., tuple[Run, Training]]


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy whose images may be removed."""
    return shutil.copytree(photo_folder, tmp_path / "photos")


@pytest.fixture
def begin(photos: Path, tmp_path: Path) -> Begin:
    """Begin a run on the photos with these options."""

    def begun(**options: Any) -> tuple[Run, Training]:
        config = FinetuneConfig(
            dataset_name=str(photos),
            model_name_or_path="my_resnet20",
            pretrained=False,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            output_dir=tmp_path / "run",
            **options,
        )
        with PreemptionWatch() as watch:
            run = prepare(config, watch)
        run.folder.begin(
            run.settings.recorded, facts=run.facts(), machine=run.machine.record(), bad_images=[]
        )
        return run, start_or_resume(run)

    return begun


def epoch_of(run: Run, epoch: int, *, num_workers: int = 0) -> list[Batch]:
    batches = make_train_batches(run, num_workers=num_workers)
    return [batch for step in batches.epoch(epoch) for batch in step]


def assert_equal(some: list[Batch], others: list[Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)


def test_the_second_validation_reads_no_file_and_gives_the_same(photos: Path, begin: Begin):
    run, training = begin(image_size=224)
    first = evaluate(run, training, run.data.validation, training.network)
    shutil.rmtree(photos / "validation")
    assert torch.equal(evaluate(run, training, run.data.validation, training.network), first)


def test_images_that_do_not_fit_are_read_each_time(photos: Path, begin: Begin):
    run, training = begin(image_memory_gb=1e-6)
    assert run.data.validation.kept is run.data.train.kept is None
    first = evaluate(run, training, run.data.validation, training.network)
    assert torch.equal(evaluate(run, training, run.data.validation, training.network), first)
    shutil.rmtree(photos / "validation")
    with pytest.raises(BadImageError, match="cannot be read"):
        evaluate(run, training, run.data.validation, training.network)


def test_validation_images_come_first_and_test_images_are_not_kept(begin: Begin):
    run, _ = begin(image_memory_gb=len_of_validation(begin) * (32 * 32 * 3 + 1) / 1e9, image_size=32)
    assert run.data.validation.kept is not None
    assert run.data.train.kept is run.data.test.kept is None


def len_of_validation(begin: Begin) -> int:
    run, _ = begin(image_size=32)
    shutil.rmtree(run.folder.path)
    return len(run.data.validation)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_small_training_images_are_read_once_and_the_next_epoch_has_the_same_pixels(
    photos: Path, begin: Begin, num_workers: int
):
    run, _ = begin(image_size=32, image_memory_gb=0.0)
    expected = epoch_of(run, 1)
    shutil.rmtree(run.folder.path)

    run, _ = begin(image_size=32)
    first = epoch_of(run, 0, num_workers=num_workers)
    assert run.data.train.kept.has_all(run.data.train.rows, run.preprocessing)
    shutil.rmtree(photos / "train")
    second = epoch_of(run, 1, num_workers=num_workers)
    assert_equal(second, expected)
    assert not all(torch.equal(one.images, other.images) for one, other in zip(first, second, strict=True))


def test_images_that_grow_are_kept_at_each_size(photos: Path, begin: Begin):
    run, _ = begin(image_size=32, first_image_size=16, num_train_epochs=4)
    sizes = [epoch_of(run, epoch)[0].images.shape[-1] for epoch in range(4)]
    assert sizes == [16, 20, 28, 32]
    shutil.rmtree(photos / "train")
    assert [epoch_of(run, epoch)[0].images.shape[-1] for epoch in range(4)] == sizes


def test_crops_of_larger_images_are_cut_from_the_files_and_only_their_statistics_are_kept(
    photos: Path, begin: Begin
):
    run, training = begin(image_size=96, reestimate_batchnorm=1000)
    epoch_of(run, 0)
    reestimate_batchnorm(run, training.network, epoch=0, schedule_epoch=0, num_images=1000)
    shutil.rmtree(photos / "train")
    reestimate_batchnorm(run, training.network, epoch=1, schedule_epoch=1, num_images=1000)
    with pytest.raises(BadImageError, match="cannot be read"):
        epoch_of(run, 0)


def test_a_copy_that_was_sent_to_another_process_decodes_and_gives_the_same(photos: Path, begin: Begin):
    run, _ = begin(image_size=32)
    here, copy = run.data.train, pickle.loads(pickle.dumps(run.data.train))
    transform, places = EvaluationTransform(run.preprocessing), np.arange(len(here))
    kept = [transform(image) for image in here.encoded(places)]
    assert all(map(torch.equal, kept, map(transform, copy.encoded(places))))
    shutil.rmtree(photos / "train")
    assert all(map(torch.equal, kept, map(transform, here.encoded(places))))
    with pytest.raises(BadImageError, match="cannot be read"):
        transform(next(copy.encoded(places)))


@pytest.mark.parametrize(
    ("image_size", "options", "sizes"),
    [
        (224, {}, []),
        (224, {"augmentation": "none"}, [224]),
        (224, {"reestimate_batchnorm": 100}, [224]),
        (32, {}, [32]),
        (32, {"train_image_size": 24}, [24]),
        (32, {"train_image_size": 24, "reestimate_batchnorm": 100}, [24, 32]),
    ],
)
def test_what_is_the_same_each_time_is_known_from_the_options(
    image_size: int, options: dict[str, Any], sizes: list[int]
):
    options = {"train_image_size": image_size, "first_image_size": image_size} | options
    options["first_image_size"] = options["train_image_size"]
    settings = settings_of(image_size=image_size, num_train_epochs=3, **options)
    preprocessing = Preprocessing(
        image_size=(image_size, image_size),
        crop_fraction=1.0,
        crop_mode="center",
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    assert [
        view.image_size[0]
        for view in fixed_views(
            settings.images, preprocessing, reestimates_batchnorm=settings.averaging.reestimate_batchnorm > 0
        )
    ] == sizes
