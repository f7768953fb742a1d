"""Features are computed once: later runs find them by the content of images, weights and transform."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.batches.loader import ViewBatches
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.options import FinetuneConfig, with_options
from resnet_hub.finetuning.machine.preemption import Preempted, PreemptionWatch
from resnet_hub.finetuning.prepare import prepare
from resnet_hub.finetuning.training import features
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.feature_cache import FeatureCache, digest_of_backbone
from resnet_hub.finetuning.training.features import View, fit_fc, make_views
from resnet_hub.results import RunReport

from ..conftest import finetune_command, run_command

NUM_TRAIN, NUM_VALIDATION = 50, 11  # of 72; the others are for the test


@pytest.fixture
def config(photo_folder: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        train_dir=photo_folder / "train",
        model_name_or_path="my_resnet20",
        image_size=16,
        per_device_eval_batch_size=16,
        fit_fc_first=True,
        num_train_epochs=0,
        mixed_precision="no",
        output_dir=tmp_path / "run",
        feature_cache=tmp_path / "cache",
    )


def prepared(config: FinetuneConfig, **options) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)  # each run chooses its own precision
    return prepare(with_options(config, **options), PreemptionWatch())


def computed_by(run: Run) -> tuple[int, dict[str, Tensor]]:
    """How many images went through the network to fit its fc, and the fc."""
    counts = []
    hook = run.model.conv1.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    fit_fc(run, run.model)
    hook.remove()
    return sum(counts), {
        name: value.clone() for name, value in run.model.get_submodule("fc").state_dict().items()
    }


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(first[name].equal(second[name]) for name in first)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.features"))


def test_a_second_run_computes_no_image_and_gives_the_same_fc(config: FinetuneConfig):
    first, fitted = computed_by(prepared(config))
    second, again = computed_by(prepared(config))
    assert (first, second) == (NUM_TRAIN + NUM_VALIDATION, 0)
    assert same(fitted, again)
    _, without = computed_by(prepared(config, feature_cache=None))
    assert same(fitted, without)


def test_nothing_is_kept_without_a_folder(config: FinetuneConfig):
    run = prepared(config, feature_cache=None)
    assert computed_by(run)[0] == computed_by(run)[0] == NUM_TRAIN + NUM_VALIDATION


def test_another_split_of_the_same_images_computes_only_those_that_are_new(config: FinetuneConfig):
    before = prepared(config)
    seen = set(before.data.mapped_train.seen.digests) | set(before.data.validation.seen.digests)  # pyright: ignore
    computed_by(before)
    after = prepared(config, seed=1)
    wanted = [*after.data.mapped_train.seen.digests, *after.data.validation.seen.digests]  # pyright: ignore
    count, fitted = computed_by(after)
    assert count == sum(digest not in seen for digest in wanted) > 0
    _, anew = computed_by(prepared(config, seed=1, feature_cache=None))
    for name, values in fitted.items():  # batches of another size: the last bit may be another
        assert torch.allclose(values, anew[name], atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("change", [{"image_size": 12}, {"mixed_precision": "bf16"}])
def test_what_changes_the_features_computes_them_anew(config: FinetuneConfig, change: dict):
    computed_by(prepared(config))
    assert computed_by(prepared(config, **change))[0] == NUM_TRAIN + NUM_VALIDATION


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.conv1.weight.data.mul_(1.0001),
        lambda model: model.bn1.running_var.add_(1e-3),
        lambda model: setattr(model.layer2[0].conv1, "stride", (1, 1)),
    ],
)
def test_other_weights_statistics_or_layers_are_another_backbone(config: FinetuneConfig, change):
    model = prepared(config).model
    before = digest_of_backbone(model)
    with torch.no_grad():
        model.get_submodule("fc").weight.zero_()
    assert digest_of_backbone(model) == before
    change(model)
    assert digest_of_backbone(model) != before


@pytest.mark.parametrize("damage", ["cut", "a flipped bit", "empty", "another file"])
def test_a_damaged_file_is_said_and_computed_anew(config: FinetuneConfig, damage: str, caplog):
    _, fitted = computed_by(prepared(config))
    assert config.feature_cache is not None
    largest = max(files(config.feature_cache), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[-100] ^= 4
    broken = {"cut": data[:500], "a flipped bit": data, "empty": b"", "another file": b"{}" * 50}[damage]
    largest.write_bytes(broken)
    count, again = computed_by(prepared(config))
    assert count == NUM_TRAIN
    assert "damaged" in caplog.text
    assert same(fitted, again)
    assert computed_by(prepared(config))[0] == 0


def test_a_run_that_is_stopped_goes_on_where_it_was(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "_BLOCK", 16)
    run = prepared(config)
    ask = Run.stop_if_asked

    def stop_after_three_blocks(self: Run) -> None:
        if len(files(Path(self.settings.probe.feature_cache))) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        ask(self)

    monkeypatch.setattr(Run, "stop_if_asked", stop_after_three_blocks)
    with run.watch, pytest.raises(Preempted):
        fit_fc(run, run.model)
    monkeypatch.undo()
    monkeypatch.setattr(features, "_BLOCK", 16)
    count, fitted = computed_by(prepared(config))
    assert count == NUM_TRAIN + NUM_VALIDATION - 3 * 16
    _, without = computed_by(prepared(config, feature_cache=None))
    assert same(fitted, without)


def test_views_are_augmented_by_image_and_seed_and_not_by_place(config: FinetuneConfig):
    run = prepared(config, feature_views=3)
    plain, first, second = make_views(run)
    train = run.data.mapped_train
    turned = train.take(np.arange(len(train))[::-1].copy(), name="train", how="turned")

    def pixels(view: View, split=train) -> Tensor:
        batches = ViewBatches(
            split,
            view.transform,
            seeds=view.seeds(split),
            batch_size=50,
            options=LoaderOptions(),
        )
        return torch.cat([batch.images for batch in batches])

    assert pixels(first).equal(pixels(first, turned).flip(0))
    assert not pixels(first).equal(pixels(second))
    assert not pixels(first).equal(pixels(plain))
    assert not pixels(first).equal(pixels(make_views(prepared(config, feature_views=3, seed=1))[1]))


@pytest.mark.parametrize(
    "option",
    [{"horizontal_flip": 0.1}, {"random_erasing": 0.5}, {"auto_augment": "rand-m5"}, {"color_jitter": 0.3}],
)
def test_another_augmentation_gives_another_name_to_its_views_alone(config: FinetuneConfig, option: dict):
    before, after = (make_views(prepared(config, feature_views=2, **more)) for more in ({}, option))
    assert before[0].describe() == after[0].describe()
    assert before[1].describe() != after[1].describe()


def test_another_configuration_of_auto_augment_is_another_view(config: FinetuneConfig):
    first, second = (
        make_views(prepared(config, feature_views=2, auto_augment=name))[1].describe()
        for name in ("rand-m5", "rand-m9")
    )
    assert first != second


def test_further_views_are_examples_too_and_are_kept(config: FinetuneConfig):
    one, fitted = computed_by(prepared(config))
    more, other = computed_by(prepared(config, feature_views=3))
    assert one == NUM_TRAIN + NUM_VALIDATION
    assert more == 2 * NUM_TRAIN
    assert not same(fitted, other)
    assert computed_by(prepared(config, feature_views=3))[0] == 0
    assert computed_by(prepared(config, feature_views=4))[0] == NUM_TRAIN


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"augmentation": "none"}, "needs an augmentation"),
        ({"fit_fc_first": False, "num_train_epochs": 1}, "fitting fc first"),
        ({"feature_views": 5000}, "at most 4000 views fit"),
        ({"feature_views": 0}, "1 or more"),
    ],
)
def test_views_that_would_do_nothing_or_fill_the_memory_are_refused(config, options: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        prepared(config, **{"feature_views": 2} | options)


A, B = "a" * 40, "b" * 40  # what computes the features


def digests(*numbers: int) -> np.ndarray:
    return np.array([f"{number:032x}".encode() for number in numbers], dtype="S32")


def rows(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None] * torch.ones(1, 16)


def test_images_are_found_in_any_order_and_as_often_as_they_occur(tmp_path: Path):
    cache = FeatureCache(tmp_path, limit_bytes=1e9)
    cache.keep(A, digests(5, 3, 9, 3), rows(5, 3, 9, 3))
    cache.keep(A, digests(1, 2), rows(1, 2))
    cache.keep(B, digests(7), rows(8))
    into = torch.zeros(7, 16)
    known = cache.recall(A, digests(3, 7, 2, 3, 9, 5, 1), into)
    assert known.tolist() == [True, False, True, True, True, True, True]
    assert into.equal(rows(3, 0, 2, 3, 9, 5, 1))


def test_the_folder_stays_below_its_limit_and_the_longest_unused_go_first(tmp_path: Path, caplog):
    for number in range(4):
        FeatureCache(tmp_path, limit_bytes=1e9).keep(A, digests(number), rows(number))
    size = files(tmp_path)[0].stat().st_size
    paths = [
        path
        for number in range(4)
        for path in files(tmp_path)
        if f"{number:032x}".encode() in path.read_bytes()
    ]
    for age, path in enumerate(paths):
        os.utime(path, (time.time() - 1000 + age,) * 2)
    cache = FeatureCache(tmp_path, limit_bytes=3.5 * size)
    cache.recall(A, digests(0), torch.zeros(1, 16))  # the oldest, and in use now
    assert cache.keep(A, digests(10), rows(10))
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert cache.keep(A, digests(11), rows(11))
    assert not cache.keep(A, digests(12), rows(12))
    assert "--feature_cache_gb" in caplog.text
    assert paths[0].exists()
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 3.5 * size


def test_a_folder_that_cannot_be_written_costs_no_run(
    config: FinetuneConfig, tmp_path: Path, caplog, monkeypatch
):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    run = prepared(config)
    monkeypatch.setattr(os, "fsync", full)
    count, _ = computed_by(run)
    assert count == NUM_TRAIN + NUM_VALIDATION
    assert caplog.text.count("No space left") == 2  # of training and of validation
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_in_the_way_is_refused_before_anything_is_written(config: FinetuneConfig, tmp_path: Path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ConfigError, match="--feature_cache"):
        prepared(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_share_the_work_and_one_finds_what_two_have_computed(photo_folder: Path, tmp_path: Path):
    arguments = (
        *("--train_dir", photo_folder / "train", "--model", "my_resnet20", "--image_size", "16"),
        *("--recipe", "quick", "--mixed_precision", "no", "--feature_views", "2"),
        *("--feature_cache", tmp_path / "cache"),
    )
    launched = [sys.executable, "-m", "resnet_hub.cli.main", "finetune", "--num_processes", "2", *arguments]
    two = run_command([*launched, "--output_dir", tmp_path / "two"])
    assert two.returncode == 0, two.stderr
    one = run_command(finetune_command(*arguments, "--output_dir", tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    assert "features of 50 train images are in the feature cache" in one.stderr
    assert "computing" not in one.stderr
    weights = [load_file(tmp_path / run / "export/model.safetensors")["fc.weight"] for run in ("one", "two")]
    assert torch.allclose(*weights, atol=1e-3, rtol=1e-2)
    scores = [RunReport.load(tmp_path / run / "report.json").test for run in ("one", "two")]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0].accuracy == scores[1].accuracy > 0.8
