"""Whatever lies in a folder that a cache, a checkpoint or an export is written to is there afterwards."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch

from resnet_hub.finetuning.batches.disk_cache import Reduction, build_image_cache
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data import image_column, inspection
from resnet_hub.finetuning.data.inspection import FactsMemory, Inspector
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.data.sources.archives import unpack
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.data.streaming.table_cache import cache_path, write_once
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.finetuning.run_folder.checkpoint import Checkpoint, write_checkpoint
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.finetuning.training.feature_cache import FeatureCache
from resnet_hub.hub import save_folder

from .image_files import class_folders

KEY = "a" * 40
OTHERS = (
    *("iris.features.csv", "photo.pixels.png", "mine.features", "mine.pixels", "mine.facts", "mine.arrow"),
    *(f"{KEY}.pixels", f"{KEY}-{KEY}.features", f"{KEY}.arrow", f"{KEY}.pixels.4711-0123abcd", "a.tmp"),
    *(".writing-notes", "step-notes", ".step-00000001.mine.part", ".export.mine.part", ".export.mine.old"),
)


def split_of(scratch: Path, inspector: Inspector) -> Split:
    pets = class_folders(scratch / "pets", {"cat": 2, "dog": 2})
    config = FinetuneConfig(train_dir=pets, validation_fraction=0.0, test_fraction=0.0)
    return load_data(config, inspector).train


def images(folder: Path, scratch: Path) -> None:
    split = split_of(scratch, Inspector())
    for limit_bytes in (1e9, 0.0):
        reduction = Reduction(short_side=20, mode="RGB", interpolation="bilinear")
        build_image_cache(split, reduction, folder, limit_bytes=limit_bytes, crew=Crew(num_threads=1))


def features(folder: Path, scratch: Path) -> None:
    for limit_bytes in (1e9, 500.0):
        cache = FeatureCache(folder, limit_bytes=limit_bytes)
        digests = np.array([f"{number:032x}".encode() for number in (1, int(limit_bytes))])
        cache.keep(KEY, digests, torch.zeros(2, 16))
        cache.recall(KEY, digests, torch.zeros(2, 16))


def facts(folder: Path, scratch: Path) -> None:
    split_of(scratch, Inspector(memory=FactsMemory(folder)))
    assert list(folder.glob("resnet_hub-*.facts"))
    split_of(scratch / "other", Inspector(memory=FactsMemory(folder)))


def tables(folder: Path, scratch: Path) -> None:
    assert cache_path("key").parent == folder
    write_once(cache_path("key"), datasets.Features({"x": datasets.Value("int32")}), lambda: [{"x": 1}])


def checkpoints(folder: Path, scratch: Path) -> None:
    for step in range(4):
        write_checkpoint(folder, step, Checkpoint(tensors={"model": {"w": torch.zeros(1)}}, values={}))


def export(folder: Path, scratch: Path) -> None:
    network = timm.create_model("my_resnet20", num_classes=2)
    for overwrite in (False, True):
        save_folder(network, folder / "export", class_names=["cat", "dog"], overwrite=overwrite)


def runs(folder: Path, scratch: Path) -> None:
    with RunFolder(folder).in_use():
        (folder / f".report.json.{'0' * 16}.part").touch()
    with RunFolder(folder).in_use():
        assert not list(folder.glob(".report.json.*"))


def archives(folder: Path, scratch: Path) -> None:
    (scratch / "resnet_hub_archives").symlink_to(folder)  # where archives are unpacked
    zipped = shutil.make_archive(str(scratch / "pets"), "zip", class_folders(scratch / "pets", {"cat": 2}))
    assert unpack(Path(zipped)).folder.is_dir()


@pytest.mark.parametrize("write", [images, features, facts, tables, checkpoints, export, runs, archives])
def test_files_of_others_outlast_all_that_is_written_and_removed_beside_them(
    write: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(image_column, "CLOCK_SECONDS", 0.0)
    monkeypatch.setattr(inspection, "_MEMORY_BYTES", 0.0)
    monkeypatch.setattr("resnet_hub.finetuning.data.streaming.table_cache._LIMIT_BYTES", 0.0)
    folder = tmp_path / "resnet_hub" / "streamed"  # where tables have to be
    folder.mkdir(parents=True)
    for name in OTHERS:
        (folder / name).write_text(name)
        os.utime(folder / name, (time.time() - 1e6,) * 2)
    write(folder, tmp_path)
    assert len(list(folder.iterdir())) >= len(OTHERS)
    assert {name: (folder / name).read_text() for name in OTHERS} == {name: name for name in OTHERS}
