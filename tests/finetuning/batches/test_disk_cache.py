"""The image cache remembers what would be computed anyway: it changes how fast, never what."""

import os
import pickle
import resource
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from resnet_hub.cache_store import CacheStore
from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.batches import disk_cache
from resnet_hub.finetuning.batches.augment import (
    CropAndResize,
    build_train_transform,
    short_side_to_keep,
)
from resnet_hub.finetuning.batches.disk_cache import ReducedImage, ReducedImages, Reduction, build_image_cache
from resnet_hub.finetuning.batches.loader import Batch, LabelledImages, TrainBatches
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.options import FinetuneConfig, with_options
from resnet_hub.finetuning.data.inspection import Inspection
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.machine.preemption import Preempted, PreemptionWatch
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.finetuning.machine.seeds import keyed_randomness
from resnet_hub.finetuning.prepare import prepare
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.results import RunReport

from ..conftest import finetune_command, run_command
from ..image_files import encoded, picture
from ..settings import settings_of

NUM_IMAGES = 22
PREPROCESSING = Preprocessing(
    image_size=(96, 96),
    crop_fraction=0.9,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)
SETTINGS = settings_of(augmentation="light", image_size=PREPROCESSING.image_size[0]).images
REDUCTION = Reduction(
    short_side=short_side_to_keep(SETTINGS, PREPROCESSING), mode="RGB", interpolation="bilinear"
)
NO_LIMIT = 1e12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures larger and smaller than what is kept, wide and high, and one that lies on its side."""
    root = tmp_path_factory.mktemp("pets")
    sizes = [(900, 700), (300, 800), (64, 40), (1000, 260)]
    for number in range(NUM_IMAGES):
        options: dict = {}
        if number == 5:
            options["exif"] = picture(1, 1).getexif()
            options["exif"][0x0112] = 6
        path = root / ("cat" if number % 2 else "dog") / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(*sizes[number % 4], seed=number), "JPEG", **options))
    return root


@pytest.fixture(scope="module")
def split(folder: Path) -> Split:
    config = FinetuneConfig(train_dir=folder, validation_fraction=0.0, test_fraction=0.0)
    return load_data(config).train


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "_SHARD", 4)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are written."""
    names: list[str] = []
    write = disk_cache._write_shard

    def noting(store: CacheStore, path: Path, images: list[np.ndarray]) -> None:
        names.append(path.name)
        write(store, path, images)

    monkeypatch.setattr(disk_cache, "_write_shard", noting)
    return names


def cached(split: Split, folder: Path, *, limit: float = NO_LIMIT, crew: Crew | None = None) -> ReducedImages:
    return build_image_cache(split, REDUCTION, folder, limit_bytes=limit, crew=crew or Crew(num_threads=1))


def pixels_of(images: LabelledImages) -> list[np.ndarray]:
    return [image.pixels().copy() for image in images.encoded(np.arange(NUM_IMAGES))]


def batches_of(images: LabelledImages, *, rank: int = 0, world_size: int = 1, num_workers: int = 0):
    return TrainBatches(
        images,
        [build_train_transform(SETTINGS, PREPROCESSING)],
        EpochPlan(num_images=NUM_IMAGES, global_batch_size=8, seed=3),
        options=LoaderOptions(rank=rank, world_size=world_size, num_workers=num_workers),
    )


def seen(steps: Iterable[list[Batch]]) -> dict[int, bytes]:
    """Index -> pixels of an epoch."""
    found = {}
    for step in steps:
        for batch in step:
            for image, index in zip(batch.images, batch.indices, strict=True):
                assert int(index) not in found
                found[int(index)] = image.numpy().tobytes()
    return found


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_cached_is_what_would_be_computed(split: Split, tmp_path: Path, built: list[str]):
    with_cache, without = cached(split, tmp_path), cached(split, tmp_path / "other", limit=0)
    assert len(built) == 6
    assert all(path is None for path in without.shards)
    assert same(pixels_of(with_cache), pixels_of(without))
    short_sides = {min(pixels.shape[:2]) for pixels in pixels_of(with_cache)}
    assert short_sides == {REDUCTION.short_side, 40}


@pytest.mark.parametrize("limit", [NO_LIMIT, 2e6, 0.0], ids=["all", "some", "none"])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (1, 2), (2, 0)])
def test_training_sees_the_same_pixels_however_much_is_cached(
    split: Split, tmp_path: Path, limit: float, world_size: int, num_workers: int
):
    images = cached(split, tmp_path, limit=limit)
    assert (None in images.shards) == (limit < NO_LIMIT)
    found: dict[int, bytes] = {}
    for rank in range(world_size):
        batches = batches_of(images, rank=rank, world_size=world_size, num_workers=num_workers)
        found |= seen(batches.epoch(1))
    plain = ReducedImages(split=split, reduction=REDUCTION, shards=(None,) * 6)
    assert found == seen(batches_of(plain).epoch(1))


def test_an_epoch_goes_on_from_any_step(split: Split, tmp_path: Path):
    batches = batches_of(cached(split, tmp_path))
    whole = seen(batches.epoch(1))
    rest = seen(batches.epoch(1, 1))
    assert rest == {index: whole[index] for index in rest}
    assert len(rest) == NUM_IMAGES - 8


def test_crops_are_those_of_the_image_itself_and_look_like_them(split: Split, tmp_path: Path):
    images = cached(split, tmp_path)
    crop = CropAndResize(PREPROCESSING, area=(0.35, 1.0))
    for index, (ours, full) in enumerate(
        zip(images.encoded(np.arange(NUM_IMAGES)), split.encoded(np.arange(NUM_IMAGES)), strict=True)
    ):
        assert (ours.width, ours.height) == (full.width, full.height)
        with keyed_randomness(index):
            reduced = crop(ours)
        with keyed_randomness(index):
            original = crop(full)
        difference = (reduced.int() - original.int()).abs().float()
        assert difference.mean() < 1.5
        assert difference.max() < 20


@pytest.mark.parametrize("augmentation", ["light", "crop"])
def test_no_random_crop_has_fewer_pixels_than_the_network_takes(augmentation: str):
    settings = settings_of(augmentation=augmentation, image_size=PREPROCESSING.image_size[0]).images
    short_side = short_side_to_keep(settings, PREPROCESSING)
    crop = build_train_transform(settings, PREPROCESSING).crop  # pyright: ignore[reportFunctionMemberAccess]
    smallest = 10_000
    for width, height in ((short_side, short_side), (2 * short_side, short_side)):
        torch.manual_seed(0)
        for _ in range(500):
            _, _, crop_height, crop_width = crop.draw(width, height)
            smallest = min(smallest, crop_height, crop_width)
    assert smallest >= 95  # 96, and half a pixel of rounding


def test_areas_and_aspects_of_crops_are_distributed_as_without_the_cache(split: Split, tmp_path: Path):
    crop = CropAndResize(PREPROCESSING, area=(0.08, 1.0))
    draws = {}
    for name, images in (("cached", cached(split, tmp_path)), ("plain", split)):
        image = next(iter(images.encoded(np.array([0]))))
        torch.manual_seed(0 if name == "cached" else 1)
        boxes = np.array([crop.draw(image.width, image.height) for _ in range(2000)], dtype=float)
        draws[name] = boxes[:, 2] * boxes[:, 3], boxes[:, 3] / boxes[:, 2], boxes[:, 0], boxes[:, 1]
    for ours, theirs in zip(draws["cached"], draws["plain"], strict=True):
        assert ks_2samp(ours, theirs).pvalue > 0.01  # pyright: ignore[reportAttributeAccessIssue]


def test_it_is_built_once_and_known_by_content(split: Split, folder: Path, tmp_path: Path, built: list[str]):
    cached(split, tmp_path / "cache")
    first = list(built)
    cached(split, tmp_path / "cache")
    assert built == first
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    config = FinetuneConfig(train_dir=copied, validation_fraction=0.0, test_fraction=0.0)
    cached(load_data(config).train, tmp_path / "cache")
    assert built == first
    (copied / "cat" / "03.jpg").write_bytes(encoded(picture(500, 400, seed=99), "JPEG"))
    changed = cached(load_data(config).train, tmp_path / "cache")
    assert len(built) == len(first) + 1
    assert not same(pixels_of(changed), pixels_of(cached(split, tmp_path / "cache")))


def test_another_size_is_another_cache(split: Split, tmp_path: Path, built: list[str]):
    cached(split, tmp_path)
    build_image_cache(
        split, replace(REDUCTION, short_side=50), tmp_path, limit_bytes=NO_LIMIT, crew=Crew(num_threads=1)
    )
    assert len(set(built)) == 12


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_is_cut_while_it_is_mapped_costs_no_process_and_no_pixel(
    num_workers: int, split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    expected = seen(batches_of(cached(split, tmp_path / "other", limit=0)).epoch(1))
    batches = batches_of(cached(split, tmp_path / "cache"), num_workers=num_workers)
    list(batches.epoch(0))  # every worker has mapped some
    for path in (tmp_path / "cache").glob("*.pixels"):
        os.truncate(path, 100)
    assert seen(batches.epoch(1)) == expected
    assert num_workers or "was cut short while it was in use" in caplog.text  # or said by a worker
    assert all(worker.exitcode is None for worker in batches._loader._workers)


@pytest.mark.parametrize("damage", ["cut", "a flipped bit", "empty"])
def test_a_damaged_file_is_noticed_and_built_again(
    split: Split, tmp_path: Path, built: list[str], damage: str
):
    expected = pixels_of(cached(split, tmp_path))
    broken = tmp_path / built[2]
    data = bytearray(broken.read_bytes())
    data[1000] ^= 4
    broken.write_bytes({"cut": data[:500], "a flipped bit": data, "empty": b""}[damage])
    assert same(pixels_of(cached(split, tmp_path)), expected)
    assert built[6:] == [built[2]]


def test_files_that_vanish_or_shrink_before_they_are_read_change_nothing(split: Split, tmp_path: Path):
    expected = pixels_of(cached(split, tmp_path))
    images = cached(split, tmp_path)
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1000])
    assert same(pixels_of(images), expected)


def test_a_process_that_dies_leaves_nothing_that_looks_whole(split: Split, tmp_path: Path, built: list[str]):
    def dies(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        images = cached(split, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(built) == 1
    assert same(pixels_of(images), pixels_of(cached(split, tmp_path)))


def test_the_folder_stays_below_its_limit_and_the_longest_unused_go_first(split: Split, tmp_path: Path):
    cached(split, tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    for age, path in enumerate(sorted(tmp_path.iterdir())):
        os.utime(path, (time.time() - 1000 * (age + 1),) * 2)
    before = sorted(tmp_path.iterdir())
    half = replace(REDUCTION, short_side=100)
    build_image_cache(split, half, tmp_path, limit_bytes=size, crew=Crew(num_threads=1))
    after = sorted(tmp_path.glob("*.pixels"))
    assert sum(path.stat().st_size for path in after) <= size
    assert before[-1] not in after
    assert before[0] in after


def test_processes_share_the_work(split: Split, tmp_path: Path, built: list[str]):
    alone = pixels_of(cached(split, tmp_path / "alone"))
    built.clear()
    # One after the other: the second finds what the first, which could not wait for it, has built.
    for rank in range(2):
        images = cached(split, tmp_path / "two", crew=Crew(rank=rank, world_size=2, num_threads=1))
        assert same(pixels_of(images), alone)
    assert len(built) == len(set(built)) == 6


def test_a_signal_stops_the_building_and_what_is_built_stays(split: Split, tmp_path: Path, built: list[str]):
    def stop_if_asked() -> None:
        if len(built) == 3:
            raise Preempted

    with pytest.raises(Preempted):
        cached(split, tmp_path, crew=Crew(num_threads=1, stop_if_asked=stop_if_asked))
    cached(split, tmp_path)
    assert len(built) == len(set(built)) == 6


def test_workers_are_sent_no_pixels(split: Split, tmp_path: Path):
    images = cached(split, tmp_path)
    before = len(pickle.dumps(images))
    pixels_of(images)
    assert len(pickle.dumps(images)) == before


def test_a_file_in_the_way_is_refused(split: Split, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="--image_cache"):
        cached(split, tmp_path / "file")


@dataclass(frozen=True)
class Tiles:
    """A split of many small images, each of one color of its own, which are decoded a single time."""

    seen: Inspection
    decoded: set[int] = field(default_factory=set)

    @staticmethod
    def of(num_images: int) -> "Tiles":
        nothing = np.full(num_images, "", dtype=np.object_)
        digests = np.array([f"{number:032x}".encode() for number in range(num_images)])
        sizes = np.full((num_images, 2), 4, dtype=np.int32)
        return Tiles(Inspection(digests=digests, sizes=sizes, kinds=nothing, problems=nothing))

    def __len__(self) -> int:
        return len(self.seen.digests)

    def encoded(self, indices: np.ndarray) -> Iterator[ReducedImage]:
        assert self.decoded.isdisjoint(indices.tolist())
        self.decoded.update(indices.tolist())
        for index in indices.tolist():
            yield ReducedImage(width=4, height=4, reduced=np.full((4, 4, 3), index % 251, dtype=np.uint8))


def test_more_images_than_files_that_may_be_open_are_all_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk_cache, "_SHARD", 32)
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: None
    )  # of 1,094 files: it would take most of the time
    tiles = Tiles.of(35_000)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        images = build_image_cache(
            tiles,  # pyright: ignore[reportArgumentType]
            REDUCTION,
            tmp_path,
            limit_bytes=NO_LIMIT,
            crew=Crew(num_threads=1),
        )
        order = np.random.default_rng(0).permutation(len(tiles))
        values = [int(image.pixels()[0, 0, 0]) for image in images.encoded(order)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(list(tmp_path.iterdir())) > 1024
    assert values == (order % 251).tolist()


def test_a_run_trains_from_the_cache_and_evaluates_from_the_images(photo_folder: Path, tmp_path: Path):
    config = FinetuneConfig(
        dataset_name=str(photo_folder),
        model_name_or_path="my_resnet20",
        pretrained=False,
        image_size=72,
        output_dir=tmp_path / "run",
        image_cache=tmp_path / "cache",
    )
    prepared = prepare(config, PreemptionWatch())
    assert not (tmp_path / "cache").exists()
    run = prepared.with_cached_images()
    assert isinstance(run.train_images, ReducedImages)
    assert all(path is not None for path in run.train_images.shards)
    assert run.data.train is prepared.data.train
    assert run.facts()["short_side_kept"] == short_side_to_keep(run.settings.images, run.preprocessing)
    without = prepare(with_options(config, image_cache=None), PreemptionWatch())
    assert without.with_cached_images().train_images is without.data.train
    assert without.facts()["short_side_kept"] is None


@pytest.mark.slow
def test_a_run_with_a_cache_ends_with_a_report(photo_folder: Path, tmp_path: Path):
    arguments = (
        *("--dataset_name", photo_folder, "--model", "my_resnet20", "--no-pretrained", "--image_size", "72"),
        *("--num_train_epochs", "1", "--per_device_train_batch_size", "32"),
        *("--image_cache", tmp_path / "cache", "--output_dir"),
    )
    done = run_command(finetune_command(*arguments, tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert RunReport.load(tmp_path / "run" / "report.json").train.steps == 2
    assert list((tmp_path / "cache").glob("*.pixels"))
