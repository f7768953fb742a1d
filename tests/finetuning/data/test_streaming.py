"""Streamed training images: every row once, the same on any processes and workers, and from any step on."""

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resnet_hub.errors import ConfigError, DataError, RunError
from resnet_hub.finetuning.batches.augment import build_train_transform
from resnet_hub.finetuning.batches.loader import Batch, TrainBatches
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.settings import Settings
from resnet_hub.finetuning.data.dataset import ImageData
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.data.streaming.order import StreamOrder, pieces_of
from resnet_hub.finetuning.data.streaming.stream import TrainStream

from ..batches.test_loader import IMAGES, PREPROCESSING
from ..image_files import class_folders, encoded, picture, table
from ..settings import settings_of

CLASSES = datasets.ClassLabel(names=["cat", "dog", "owl"])
FILES = (23, 40, 1, 36, 11, 30)  # rows of each training file
NUM_ROWS = sum(FILES)
CONFIG = FinetuneConfig(
    dataset_name="unused", augmentation="trivialaugment", random_erasing=0.3, seed=7, streaming=True
)
NO_TEST = {"test_fraction": 0.0, "streaming": True}


def parquet_folder(folder: Path, rows: datasets.Dataset, files: Iterable[int], split: str = "train") -> Path:
    """The rows in Parquet files of these numbers of rows, in row groups of seven."""
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for number, count in enumerate(files):
        part = rows.select(range(start, start + count))
        start += count
        with pq.ParquetWriter(folder / f"{split}-{number:05d}.parquet", part.features.arrow_schema) as writer:
            arrow: pa.Table = part.with_format("arrow")[:]
            writer.write_table(arrow, row_group_size=7)
    return folder


def three_classes(count: int, *, first_seed: int = 0) -> datasets.Dataset:
    return table([n % 3 for n in range(count)], CLASSES, first_seed=first_seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Parquet files, some with several shards of two row groups."""
    folder = parquet_folder(tmp_path_factory.mktemp("parquet"), three_classes(NUM_ROWS), FILES)
    return parquet_folder(folder, three_classes(9, first_seed=1000), [9], "validation")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.finetuning.data.streaming.shards.SHARD_ROWS", 14)


@pytest.fixture(scope="module")
def data(folder: Path) -> ImageData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_hub.finetuning.data.streaming.shards.SHARD_ROWS", 14)
        return load_data(FinetuneConfig(dataset_name=str(folder), **NO_TEST))


def stream_of(data: ImageData, parts: int = 12, buffer: int = 60) -> TrainStream:
    assert isinstance(data.train, TrainStream)
    return data.train.ordered(parts=parts, buffer=buffer)


def batches_of(
    stream: TrainStream, *, rank: int = 0, world_size: int = 1, num_micro: int = 1, num_workers: int = 0
) -> TrainBatches:
    return TrainBatches(
        stream,
        [build_train_transform(IMAGES, PREPROCESSING)],
        EpochPlan(num_images=len(stream), global_batch_size=30, seed=7),
        num_micro=num_micro,
        options=LoaderOptions(rank=rank, world_size=world_size, num_workers=num_workers),
    )


def ledger(steps: Iterable[list[Batch]]) -> list[dict[int, str]]:
    """For each step the row of every image with the digest of its augmented pixels and label."""
    return [
        {
            int(row): hashlib.sha256(image.numpy().tobytes() + str(label.tolist()).encode()).hexdigest()
            for batch in step
            for image, label, row in zip(batch.images, batch.labels, batch.indices, strict=True)
        }
        for step in steps
    ]


@pytest.fixture(scope="module")
def expected(data: ImageData) -> list[list[dict[int, str]]]:
    batches = batches_of(stream_of(data))
    return [ledger(batches.epoch(epoch)) for epoch in range(2)]


def test_each_row_is_seen_once_per_epoch_in_another_order_and_augmented_anew(expected):
    first, second = ({row: digest for step in epoch for row, digest in step.items()} for epoch in expected)
    assert sorted(first) == sorted(second) == list(range(NUM_ROWS))
    assert list(first) != list(second)
    assert sum(first[row] != second[row] for row in first) > 0.9 * NUM_ROWS


def test_steps_differ_by_at_most_one_image(expected):
    sizes = [len(step) for step in expected[0]]
    assert len(sizes) == 5
    assert max(sizes) - min(sizes) <= 1


def test_labels_and_pixels_are_those_of_the_rows(data: ImageData):
    for (batch,) in batches_of(stream_of(data)).epoch(0):
        assert (batch.labels.numpy() == batch.indices.numpy() % 3).all()


@pytest.mark.parametrize(("world_size", "num_micro"), [(2, 1), (3, 1), (2, 2), (1, 3), (4, 1)])
def test_processes_and_micro_batches_change_nothing(
    data: ImageData, expected, world_size: int, num_micro: int
):
    ranks = [
        ledger(batches_of(stream_of(data), rank=rank, world_size=world_size, num_micro=num_micro).epoch(1))
        for rank in range(world_size)
    ]
    assert len({len(steps) for steps in ranks}) == 1
    for step, wanted in zip(zip(*ranks, strict=True), expected[1], strict=True):
        assert sum(len(mine) for mine in step) == len(wanted), "a row was on two processes"
        assert {row: digest for mine in step for row, digest in mine.items()} == wanted


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(data: ImageData, expected, num_workers: int):
    batches = batches_of(stream_of(data), num_workers=num_workers)
    assert [ledger(batches.epoch(epoch)) for epoch in range(2)] == expected


def test_a_run_that_starts_at_any_step_sees_what_was_left(data: ImageData, expected):
    for step in range(len(expected[1])):
        assert ledger(batches_of(stream_of(data)).epoch(1, step)) == expected[1][step:]


def test_an_abandoned_epoch_leaves_neither_threads_nor_batches_behind(data: ImageData, expected):
    batches = batches_of(stream_of(data), num_workers=1)
    next(batches.epoch(0))
    assert ledger(batches.epoch(1, 2)) == expected[1][2:]
    next(batches_of(stream_of(data)).epoch(0))
    del batches
    readers = [thread for thread in threading.enumerate() if "_make" in thread.name]
    for thread in readers:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in readers)


def test_another_seed_number_of_parts_or_buffer_is_another_order(data: ImageData, expected):
    for parts, buffer in ((6, 60), (12, 24)):
        assert ledger(batches_of(stream_of(data, parts, buffer)).epoch(0)) != expected[0]


@pytest.mark.parametrize("parts", [1, 3, 8, 50])
@pytest.mark.parametrize("block_rows", [1, 7, 1000])
def test_the_parts_of_an_epoch_hold_every_row_once(parts: int, block_rows: int):
    sizes = np.array([5, 0, 17, 1, 12])
    pieces = pieces_of(np.arange(35), sizes)
    epoch = StreamOrder(pieces=pieces, seed=3, parts=parts, block_rows=block_rows).epoch(4)
    rows = []
    for part in range(parts):
        mine = [row for p in epoch.pieces(part, 0) for row in range(p.number, p.number + p.stop - p.start)]
        assert sum(len(block) for block in epoch.blocks(part, 0)) == len(mine)
        for first in range(0, len(mine), 4):
            left = [
                r for p in epoch.pieces(part, first) for r in range(p.number, p.number + p.stop - p.start)
            ]
            assert left == mine[first:]
        rows += mine
    assert sorted(rows) == list(range(35))


def test_pieces_are_cut_where_a_slice_begins_and_ends():
    rows = np.concatenate([np.arange(3, 9), np.arange(20, 22)])
    assert pieces_of(rows, [5, 10, 10]).tolist() == [[0, 3, 5, 3], [1, 0, 4, 5], [2, 5, 7, 20]]


def test_a_shuffled_batch_mixes_the_files(data: ImageData, expected):
    ends = np.cumsum(FILES)
    files = {int(np.searchsorted(ends, row, side="right")) for row in expected[0][0]}
    assert len(files) >= 4


def test_evaluated_splits_are_those_of_the_run_that_does_not_stream(folder: Path, data: ImageData):
    whole = load_data(FinetuneConfig(dataset_name=str(folder), test_fraction=0.0))
    assert data.validation is not None
    assert whole.validation is not None
    assert data.class_names == whole.class_names
    assert (data.validation.labels == whole.validation.labels).all()
    assert (data.validation.seen.digests == whole.validation.seen.digests).all()
    assert len(data.train) == len(whole.train) == NUM_ROWS
    assert "streamed" in data.table()


def test_slices_of_the_training_files_train_and_measure(folder: Path):
    options = {"train_split": "train[30:]", "validation_split": "train[:30]"}
    data = load_data(FinetuneConfig(dataset_name=str(folder), **NO_TEST, **options))
    assert data.validation is not None
    assert (data.validation.labels == np.arange(30) % 3).all()
    seen = [row for step in ledger(batches_of(stream_of(data)).epoch(0)) for row in step]
    assert sorted(seen) == list(range(30, NUM_ROWS))


def test_folders_of_images_and_saved_data_sets_stream(tmp_path: Path):
    photos = class_folders(tmp_path / "photos", {"cat": 20, "dog": 21})
    three_classes(50).save_to_disk(str(tmp_path / "saved"))
    for options in (
        {"train_dir": photos},
        {"dataset_name": str(tmp_path / "saved")},
        {"dataset_name": "digits", "train_split": "all[:60]"},
    ):
        config = FinetuneConfig(validation_fraction=0.0, **NO_TEST, **options)
        data = load_data(config)
        assert data.fingerprint == load_data(config).fingerprint
        seen = [row for step in ledger(batches_of(stream_of(data)).epoch(0)) for row in step]
        assert sorted(seen) == list(range(len(data.train)))


def test_classes_that_are_not_declared_come_from_the_labels_of_all_files(tmp_path: Path):
    names = ["owl", "cat", "dog"] * 10 + ["bat"]
    folder = parquet_folder(tmp_path, table(names, datasets.Value("string")), [10, 10, 11])
    data = load_data(FinetuneConfig(dataset_name=str(folder), validation_fraction=0.0, **NO_TEST))
    assert data.class_names == ("bat", "cat", "dog", "owl")


def test_lists_of_declared_classes_are_several_labels(tmp_path: Path):
    labels = [[0, 2], [], [1]] * 8
    folder = parquet_folder(tmp_path, table(labels, datasets.List(CLASSES)), [24])
    data = load_data(FinetuneConfig(dataset_name=str(folder), validation_fraction=0.0, **NO_TEST))
    assert data.multi_label
    (batch,) = next(batches_of(stream_of(data)).epoch(0))
    rows = {int(row): label.tolist() for row, label in zip(batch.indices, batch.labels, strict=True)}
    assert (rows[0], rows[1], rows[2]) == ([1, 0, 1], [0, 0, 0], [0, 1, 0])


def test_a_row_without_label_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = table([0, 1, 2] * 10 + [-1], CLASSES)
    folder = parquet_folder(tmp_path, rows, [31])
    config = FinetuneConfig(dataset_name=str(folder), validation_fraction=0.0, **NO_TEST)
    with pytest.raises(DataError, match="Row 30 of split train cannot be trained on: it has no label"):
        load_data(config)
    monkeypatch.setattr("resnet_hub.finetuning.data.load_streamed.SAMPLE_IMAGES", 3)
    data = load_data(config)  # the sample does not hold the row, so that it shows in training
    with pytest.raises(RunError, match="Row 30 of split train"):
        list(batches_of(stream_of(data)).epoch(0))


def test_an_unreadable_image_is_left_out_of_its_batch_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"bytes": encoded(picture(seed=n)), "path": None} for n in range(60)]
    rows[20]["bytes"] = encoded(picture(60, 60, seed=99), "JPEG")[:700]
    rows[41] = {"bytes": None, "path": "/etc/hostname"}
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    found = datasets.Dataset.from_dict(
        {"image": rows, "label": [n % 3 for n in range(60)]}, features=features
    )
    folder = parquet_folder(tmp_path, found, [30, 30])
    monkeypatch.setattr("resnet_hub.finetuning.data.load_streamed.SAMPLE_IMAGES", 2)
    data = load_data(FinetuneConfig(dataset_name=str(folder), validation_fraction=0.0, **NO_TEST))
    for workers in (0, 1):
        batches = [batch for (batch,) in batches_of(stream_of(data), num_workers=workers).epoch(0)]
        problems = dict(found for batch in batches for found in batch.unreadable)
        assert set(problems) == {20, 41}
        assert "is damaged" in problems[20]
        assert "names another place: /etc/hostname" in problems[41]
        seen = [int(row) for batch in batches for row in batch.indices]
        assert sorted(seen) == [row for row in range(60) if row not in problems]
        assert all((batch.labels == batch.indices % 3).all() for batch in batches)


def test_a_bad_image_that_is_found_before_training_has_the_row_of_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Validation is a table of its own here, whose rows have other numbers."""
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    rows = [{"bytes": encoded(picture(seed=n)), "path": None} for n in range(30)]
    rows[7]["bytes"] = rows[7]["bytes"][:60]
    validation = datasets.Dataset.from_dict(
        {"image": rows, "label": [n % 3 for n in range(30)]}, features=features
    )
    folder = parquet_folder(tmp_path, three_classes(60, first_seed=100), [60])
    parquet_folder(folder, validation, [30], "validation")
    monkeypatch.setattr("resnet_hub.finetuning.data.load_streamed.SAMPLE_IMAGES", 5)
    data = load_data(FinetuneConfig(dataset_name=str(folder), max_bad_images=0.1, **NO_TEST))
    (bad,) = data.bad_images
    assert (bad.split, bad.row, bad.used_for) == ("validation", 7, "validation")


def test_linked_class_folders_stream(tmp_path: Path):
    elsewhere = class_folders(tmp_path / "elsewhere", {"cat": 6, "dog": 6})
    pets = tmp_path / "pets"
    pets.mkdir()
    for name in ("cat", "dog"):
        (pets / name).symlink_to(elsewhere / name)
    data = load_data(FinetuneConfig(dataset_name=str(pets), validation_fraction=0.0, **NO_TEST))
    assert sum(len(batch.labels) for (batch,) in batches_of(stream_of(data)).epoch(0)) == 12


def test_what_a_stream_cannot_do_is_refused_with_help(folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no split for test.*--test_fraction 0"):
        load_data(FinetuneConfig(dataset_name=str(folder), streaming=True))
    with pytest.raises(ConfigError, match="--image_cache"):
        FinetuneConfig(dataset_name="x", streaming=True, image_cache=tmp_path)
    with pytest.raises(ConfigError, match="--class_weights balanced"):
        FinetuneConfig(dataset_name="x", streaming=True, class_weights="balanced")
    with pytest.raises(ConfigError, match="only with --streaming"):
        FinetuneConfig(dataset_name="x", shuffle_buffer=10)
    undeclared = parquet_folder(
        tmp_path, table([[0], [1, 2]] * 8, datasets.List(datasets.Value("int64"))), [16]
    )
    with pytest.raises(DataError, match="do not declare their classes"):
        load_data(FinetuneConfig(dataset_name=str(undeclared), validation_fraction=0.0, **NO_TEST))


@pytest.mark.parametrize(("world_size", "parts"), [(1, 8), (2, 8), (3, 9), (4, 8), (8, 8), (16, 16)])
def test_the_parts_can_be_shared_by_all_processes(world_size: int, parts: int):
    def decided(**options) -> Settings:
        situation = {"num_train": 10**6, "world_size": world_size}
        return settings_of(situation=situation, streaming=True, **options)

    assert decided().data.stream_parts == parts
    assert decided().data.shuffle_buffer == 4096
    assert decided().probe.fit_fc_first
    if world_size > 1:
        with pytest.raises(ConfigError, match="cannot be shared equally"):
            decided(stream_parts=world_size + 1)


def test_a_file_that_disappears_stops_the_run_with_help(tmp_path: Path):
    folder = parquet_folder(tmp_path, three_classes(60), [30, 30])
    data = load_data(FinetuneConfig(dataset_name=str(folder), validation_fraction=0.0, **NO_TEST))
    (folder / "train-00001.parquet").unlink()
    with pytest.raises(RunError, match="the same command resumes from the last checkpoint"):
        list(batches_of(stream_of(data)).epoch(0))
