"""Every image is looked at once: by all processes together, and not again until it changes."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, DatasetDict

from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data import image_column, inspection
from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.data.inspection import FactsMemory, ImageFacts, Inspector, look_at
from resnet_hub.finetuning.data.load import ImageData, load_data
from resnet_hub.finetuning.machine import display
from resnet_hub.finetuning.machine.display import Display
from resnet_hub.finetuning.machine.preemption import Preempted
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.finetuning.run import dry_run
from tests.finetuning.image_files import class_folders, encoded, picture, table

COUNTS = {"cat": 30, "dog": 20}
NUM_IMAGES = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "pets", COUNTS)


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The path of every image that is really looked at; files are trusted at once and chunks are small."""
    monkeypatch.setattr(image_column, "CLOCK_SECONDS", 0.0)
    monkeypatch.setattr(inspection, "_CHUNK", 8)
    seen: list[str] = []

    def noting(images: ImageColumn, stored: dict[str, str] | None) -> ImageFacts:
        seen.append(str(stored and stored["path"]))
        return look_at(images, stored)

    monkeypatch.setattr(inspection, "look_at", noting)
    return seen


def read(folder: Path, memory: Path, **options: object) -> ImageData:
    config = FinetuneConfig(dataset_name=str(folder), **options)  # pyright: ignore[reportArgumentType]
    return load_data(config, Inspector(memory=FactsMemory(memory)))


def test_unchanged_images_are_not_looked_at_again(folder: Path, tmp_path: Path, looks: list[str]):
    first = read(folder, tmp_path / "memory")
    assert len(looks) == NUM_IMAGES
    second = read(folder, tmp_path / "memory")
    assert len(looks) == NUM_IMAGES
    assert second.fingerprint == first.fingerprint
    for name, split in first.splits.items():
        assert np.array_equal(split.seen.sizes, second.splits[name].seen.sizes)
        assert split.seen.kinds.tolist() == second.splits[name].seen.kinds.tolist()


def test_an_image_replaced_by_one_of_the_same_size_and_date_is_noticed(folder: Path, tmp_path: Path):
    path = folder / "cat" / "3.jpg"
    path.write_bytes(path.read_bytes().ljust(2000, b"\0"))
    before, first = path.stat(), read(folder, tmp_path / "memory")
    path.write_bytes(encoded(picture(seed=99), "JPEG").ljust(2000, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = read(folder, tmp_path / "memory")
    assert second.fingerprint == read(folder, tmp_path / "another").fingerprint != first.fingerprint


def test_one_more_image_leaves_most_of_the_others_known(folder: Path, tmp_path: Path, looks: list[str]):
    read(folder, tmp_path / "memory")
    (folder / "dog" / "zz.jpg").write_bytes(encoded(picture(seed=99), "JPEG"))
    looks.clear()
    read(folder, tmp_path / "memory")
    assert 1 <= len(looks) <= 8


def test_images_written_a_moment_ago_are_not_trusted(
    folder: Path, tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(image_column, "CLOCK_SECONDS", 3600.0)
    for _ in range(2):
        read(folder, tmp_path / "memory")
    assert len(looks) == 2 * NUM_IMAGES
    assert not list((tmp_path / "memory").rglob("*.facts"))


def test_what_was_bad_is_looked_at_again(folder: Path, tmp_path: Path, looks: list[str]):
    bad = folder / "cat" / "7.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:300])
    for _ in range(2):
        data = read(folder, tmp_path / "memory", max_bad_images=0.1)
        assert [image.problem for image in data.bad_images] == [data.bad_images[0].problem]
    assert len(looks) == NUM_IMAGES + 1
    bad.write_bytes(whole)
    assert read(folder, tmp_path / "memory").bad_images == ()


@pytest.mark.parametrize("damage", ["cut", "changed", "not text", "a folder that is a file"])
def test_a_damaged_memory_costs_a_look_and_nothing_else(
    folder: Path, tmp_path: Path, looks: list[str], damage: str
):
    memory = tmp_path / "memory"
    if damage == "a folder that is a file":
        memory.write_text("in the way")
    expected = read(folder, memory)
    for path in memory.rglob("*.facts"):
        data = path.read_bytes()
        path.write_bytes(
            {"cut": data[:-9], "changed": data.replace(b"40,30", b"40,31"), "not text": b"\xff" * 90}[damage]
        )
    assert read(folder, memory).fingerprint == expected.fingerprint
    assert read(folder, memory).facts.size_range == expected.facts.size_range
    assert len(looks) >= 2 * NUM_IMAGES
    assert not list(tmp_path.rglob("*.part"))


def test_rows_that_hold_their_images_are_known_by_their_table(tmp_path: Path, looks: list[str]):
    pets = ClassLabel(names=["cat", "dog"])
    DatasetDict(train=table([0, 1] * 20, pets)).save_to_disk(tmp_path / "pets")
    first = read(tmp_path / "pets", tmp_path / "memory")
    assert read(tmp_path / "pets", tmp_path / "memory").fingerprint == first.fingerprint
    assert len(looks) == 40
    DatasetDict(train=table([0, 1] * 20, pets, first_seed=1)).save_to_disk(tmp_path / "pets")
    assert read(tmp_path / "pets", tmp_path / "memory").fingerprint != first.fingerprint
    assert len(looks) == 80


def test_images_only_in_memory_are_looked_at_each_time(tmp_path: Path, looks: list[str]):
    for _ in range(2):
        read(Path("digits"), tmp_path / "memory")
    assert len(looks) == 2 * 1797


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_images_and_all_know_all(folder: Path, looks: list[str], world_size: int):
    alone = load_data(FinetuneConfig(train_dir=folder))
    looks.clear()
    found = [None] * world_size
    gather = _gather_of(world_size)

    def one_rank(rank: int) -> None:
        crew = Crew(rank=rank, world_size=world_size, gather=lambda mine: gather(rank, mine))
        found[rank] = load_data(FinetuneConfig(train_dir=folder), Inspector(crew=crew))  # pyright: ignore[reportCallIssue, reportArgumentType]

    threads = [threading.Thread(target=one_rank, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(looks) == sorted(set(looks))
    assert len(looks) == NUM_IMAGES
    assert [data.fingerprint for data in found if data] == [alone.fingerprint] * world_size


def _gather_of(world_size: int) -> Callable[[int, list], list]:
    """What accelerate's gather_object does between processes, between threads."""
    barrier = threading.Barrier(world_size, timeout=60)
    parts: dict[int, list] = {}

    def gather(rank: int, mine: list) -> list:
        parts[rank] = mine
        barrier.wait()
        together = [item for number in range(world_size) for item in parts[number]]
        barrier.wait()
        return together

    return gather


def test_a_signal_stops_the_look_and_the_next_one_goes_on_from_there(
    folder: Path, tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    config = FinetuneConfig(
        train_dir=folder, model_name_or_path="my_resnet20", pretrained=False, output_dir=tmp_path / "run"
    )
    looked = inspection.look_at

    def asked_to_stop(images: ImageColumn, stored: dict[str, str]) -> ImageFacts:
        if len(looks) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return looked(images, stored)

    monkeypatch.setattr(inspection, "look_at", asked_to_stop)
    with pytest.raises(Preempted):
        dry_run(config)
    assert 20 <= len(looks) <= 32
    monkeypatch.setattr(inspection, "look_at", looked)
    dry_run(config)
    assert len(looks) == NUM_IMAGES
    assert not (tmp_path / "run").exists()


def test_a_long_look_is_said_to_the_user(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(display, "SECONDS_BEFORE_COUNTING", 0.0)
    load_data(FinetuneConfig(train_dir=folder), Inspector(crew=Crew(display=Display(is_main=True))))
    said = capsys.readouterr().err
    assert said.count("looking once at each of 50 images, for broken ones and duplicates: 8 so far") == 1


def test_pillow_and_its_limits_are_part_of_what_is_remembered(
    folder: Path, tmp_path: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
):
    read(folder, tmp_path / "memory")
    monkeypatch.setattr(inspection, "MAX_PIXELS", 1)
    read(folder, tmp_path / "memory")
    assert len(looks) == 2 * NUM_IMAGES
