"""Batches are a function of seed, epoch and step: not of workers, processes or where a run was resumed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.batches.augment import EvaluationTransform, build_train_transform
from resnet_hub.finetuning.batches.loader import Batch, Moment, TrainBatches, ViewBatches
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.hyperrule import Situation, decide
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.data.split import Split
from resnet_hub.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(
    image_size=(16, 16),
    crop_fraction=1.0,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5,),
    std=(0.5,),
)
CONFIG = FinetuneConfig(dataset_name="digits", seed=7)
IMAGES = decide(
    FinetuneConfig(augmentation="trivialaugment", random_erasing=0.3, image_size=PREPROCESSING.image_size[0]),
    Situation(num_train=97, network_width=64),
).images
NUM_IMAGES = 97


@pytest.fixture(scope="module")
def split() -> Split:
    train = load_data(CONFIG).train
    return train.take(np.arange(NUM_IMAGES), name="train", how="the first images of train")


def batches_of(
    split: Split,
    *,
    rank: int = 0,
    world_size: int = 1,
    num_micro: int = 1,
    num_workers: int = 0,
    images: int = 24,
) -> TrainBatches:
    return TrainBatches(
        split,
        [build_train_transform(IMAGES, PREPROCESSING)],
        EpochPlan(num_images=len(split), global_batch_size=images, seed=CONFIG.seed),
        num_micro=num_micro,
        options=LoaderOptions(rank=rank, world_size=world_size, num_workers=num_workers),
    )


def ledger(steps: Iterable[list[Batch]]) -> list[dict[int, str]]:
    """For each step the index of every image with the digest of its augmented pixels and label."""
    return [
        {
            int(index): hashlib.sha256(image.numpy().tobytes() + str(label.tolist()).encode()).hexdigest()
            for batch in step
            for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True)
        }
        for step in steps
    ]


@pytest.fixture(scope="module")
def expected(split: Split) -> list[list[dict[int, str]]]:
    """The first two epochs, without workers, on one process."""
    batches = batches_of(split)
    return [ledger(batches.epoch(epoch)) for epoch in range(2)]


def test_each_image_is_seen_once_per_epoch_and_augmented_anew(split: Split, expected):
    first, second = ({key: value for step in epoch for key, value in step.items()} for epoch in expected)
    assert sorted(first) == sorted(second) == list(range(NUM_IMAGES))
    assert sum(first[index] != second[index] for index in first) > 0.9 * NUM_IMAGES


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_change_nothing(split: Split, expected, num_workers: int):
    batches = batches_of(split, num_workers=num_workers)
    assert [ledger(batches.epoch(epoch)) for epoch in range(2)] == expected


@pytest.mark.parametrize(("world_size", "num_micro"), [(2, 1), (3, 1), (2, 2), (1, 3)])
def test_processes_and_micro_batches_change_nothing(split: Split, expected, world_size: int, num_micro: int):
    ranks = [
        ledger(batches_of(split, rank=rank, world_size=world_size, num_micro=num_micro).epoch(1))
        for rank in range(world_size)
    ]
    together = [
        {key: value for rank in step for key, value in rank.items()} for step in zip(*ranks, strict=True)
    ]
    assert together == expected[1]


def test_a_run_that_starts_at_any_step_sees_what_was_left(split: Split, expected):
    batches = batches_of(split)
    for step in range(len(expected[1])):
        assert ledger(batches.epoch(1, step)) == expected[1][step:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_some_steps_of_an_epoch_are_loaded_and_no_others_read_ahead(split: Split, expected, num_workers: int):
    batches = batches_of(split, num_workers=num_workers)
    for first, num_steps in ((0, 2), (1, 1), (3, 100)):
        found = ledger(batches.epoch(1, first, num_steps=num_steps))
        assert found == expected[1][first : first + num_steps]
    asked = batches._keys.of_epoch(Moment(1, 1), 1, skip=1, until=3)
    assert [len(indices) for _, indices in asked] == [len(step) for step in expected[1][2:4]]


def test_an_abandoned_epoch_leaves_nothing_behind_in_the_workers(split: Split, expected):
    batches = batches_of(split, num_workers=2)
    next(batches.epoch(0))
    assert ledger(batches.epoch(1, 2)) == expected[1][2:]


def test_loading_draws_nothing_from_the_random_numbers_of_training(split: Split):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for num_workers in (0, 1):
        next(batches_of(split, num_workers=num_workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_other_batches(split: Split, expected):
    plan = EpochPlan(num_images=len(split), global_batch_size=24, seed=8)
    transform = build_train_transform(IMAGES, PREPROCESSING)
    other = TrainBatches(
        split,
        [transform],
        plan,
        options=LoaderOptions(),
    )
    assert ledger(other.epoch(0)) != expected[0]


def test_batches_are_bytes_until_the_device(split: Split):
    (batch,) = next(batches_of(split).epoch(0))
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape[1:] == (1, 16, 16)
    assert batch.labels.tolist() == split.labels[batch.indices.numpy()].tolist()


def test_more_processes_than_images_per_step_are_refused(split: Split):
    with pytest.raises(ConfigError, match="processes"):
        batches_of(split, world_size=3, images=2)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_has_every_image_exactly_once_for_any_size(split: Split, world_size: int):
    for size in range(1, NUM_IMAGES + 1):
        small = split.take(np.arange(size), name="test", how="the first")
        shares = [_evaluated(small, rank, world_size) for rank in range(world_size)]
        assert sorted(index for share in shares for index in share) == list(range(size))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def _evaluated(split: Split, rank: int, world_size: int) -> list[int]:
    batches = ViewBatches(
        split,
        EvaluationTransform(PREPROCESSING),
        batch_size=4,
        options=LoaderOptions(rank=rank, world_size=world_size),
    )
    return [int(index) for batch in batches for index in batch.indices]


def test_evaluation_with_workers_gives_the_pixels_of_the_preprocessing(split: Split):
    batches = list(
        ViewBatches(
            split,
            EvaluationTransform(PREPROCESSING),
            batch_size=40,
            options=LoaderOptions(num_workers=2),
        )
    )
    assert [len(batch.indices) for batch in batches] == [40, 40, 17]
    assert torch.equal(batches[1].images[0], PREPROCESSING(split.image(40, "L")))


def test_workers_live_through_a_preemption_signal_and_go_with_the_main_process(split: Split):
    others = set(psutil.Process().children())  # a browser that other tests have started
    batches = batches_of(split, num_workers=2)
    steps = batches.epoch(0)
    next(steps)
    workers = set(psutil.Process().children()) - others
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert len(ledger(steps)) == batches.plan.steps_per_epoch - 1
    assert [worker.is_running() for worker in workers] == [True] * len(workers)


_LEAVES_WORKERS = """
    import sys
    sys.path.insert(0, {tests!r})
    import test_loader
    split = test_loader.load_data(test_loader.CONFIG).train
    steps = test_loader.batches_of(split, num_workers=2).epoch(0)
    next(steps)
    {end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "raise SystemExit(75)",
        pytest.param("pass", marks=pytest.mark.slow),
        pytest.param("raise RuntimeError('a step failed')", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_process_with_busy_workers_can_exit(end: str):
    code = textwrap.dedent(_LEAVES_WORKERS).format(tests=str(Path(__file__).parent), end=end)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == {"pass": 0, "raise SystemExit(75)": 75}.get(end, 1), done.stderr.decode()


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_process():
    code = textwrap.dedent(_LEAVES_WORKERS).format(
        tests=str(Path(__file__).parent), end="print('busy', flush=True); import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        workers = psutil.Process(process.pid).children()
        process.kill()
        _, alive = psutil.wait_procs(workers, timeout=30)
    assert len(workers) == 2
    assert alive == []


_ONE_OF_TWO = """
    import sys, json
    import torch.distributed as dist
    sys.path.insert(0, {tests!r})
    import test_loader as t
    dist.init_process_group("gloo", init_method="file://{meeting}", rank=int(sys.argv[1]), world_size=2)
    split = t.load_data(t.CONFIG).train.take(t.np.arange(t.NUM_IMAGES), name="train", how="")
    mine = t.ledger(t.batches_of(split, rank=dist.get_rank(), world_size=2, num_workers=1).epoch(1))
    everyone = [None, None]
    dist.all_gather_object(everyone, mine)
    if dist.get_rank() == 0:
        print(json.dumps([{{**first, **second}} for first, second in zip(*everyone, strict=True)]))
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_real_processes_see_together_what_one_sees(expected, tmp_path: Path):
    code = textwrap.dedent(_ONE_OF_TWO).format(tests=str(Path(__file__).parent), meeting=tmp_path / "meeting")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    output, _ = processes[0].communicate(timeout=120)
    assert [process.wait(timeout=30) for process in processes] == [0, 0]
    together = [{int(key): value for key, value in step.items()} for step in json.loads(output)]
    assert together == expected[1]
