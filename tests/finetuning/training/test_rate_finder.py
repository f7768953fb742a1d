"""The search for a learning rate: it finds one that trains, says it, and leaves the run to be begun."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning import FinetuneConfig, find_learning_rate, finetune
from resnet_hub.finetuning.config.options import with_options
from resnet_hub.finetuning.machine.preemption import PreemptionWatch
from resnet_hub.finetuning.prepare import prepare
from resnet_hub.finetuning.training.rate_finder import RateSearch, steepest, valley
from resnet_hub.results import Score

from ..conftest import finetune_command, run_command


@pytest.fixture
def config(tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        dataset_name="digits",
        model_name_or_path="my_resnet20",
        image_size=8,
        horizontal_flip=0.0,
        per_device_train_batch_size=32,
        max_train_steps=40,
        mixed_precision="no",
        output_dir=tmp_path / "run",
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[RateSearch, Path]:
    """A search from the packaged weights, and its folder."""
    folder = tmp_path_factory.mktemp("search") / "run"
    config = FinetuneConfig(
        dataset_name="digits",
        model_name_or_path="my_resnet20",
        image_size=8,
        horizontal_flip=0.0,
        per_device_train_batch_size=32,
        max_train_steps=40,
        mixed_precision="no",
        output_dir=folder,
    )
    return find_learning_rate(config), folder


def test_the_valley_is_the_middle_of_the_longest_descent():
    rates = np.geomspace(1e-5, 1e-1, 9).tolist()
    losses = [2.0, 2.1, 2.0, 1.6, 1.2, 1.0, 0.9, 1.5, 9.0]  # falls from the second to the seventh
    assert valley(rates, losses) == pytest.approx(rates[3])
    assert steepest(rates, losses) == pytest.approx(rates[3])
    assert valley(rates, [1.0] * 9) == rates[0]


def test_a_search_writes_its_numbers_and_its_picture_and_nothing_else(found: tuple[RateSearch, Path]):
    search, folder = found
    assert sorted(path.name for path in folder.iterdir()) == ["learning_rate.json", "learning_rate.png"]
    record = json.loads((folder / "learning_rate.json").read_text())
    assert record["suggestion"] == search.suggestion
    assert len(record["rates"]) == len(record["losses"]) == len(record["smoothed"]) > 60
    assert search.by_rule == pytest.approx(4e-3 * 0.5**0.5)
    assert (folder / "learning_rate.png").read_bytes().startswith(b"\x89PNG")
    assert f"--learning_rate {search.suggestion:.2g}" in search.describe()


def test_the_same_search_gives_the_same_losses(found: tuple[RateSearch, Path], config: FinetuneConfig):
    assert find_learning_rate(config) == found[0]


def test_the_folder_can_be_used_for_the_run_and_not_for_another_search(found, config: FinetuneConfig):
    _, folder = found
    with pytest.raises(ConfigError, match="earlier search"):
        find_learning_rate(with_options(config, output_dir=folder))
    prepare(with_options(config, output_dir=folder, resume="never"), PreemptionWatch())


def test_a_run_without_steps_or_one_that_has_begun_has_no_rate_to_find(
    config: FinetuneConfig, tmp_path: Path
):
    with pytest.raises(ConfigError, match="has no steps"):
        find_learning_rate(with_options(config, max_train_steps=None, num_train_epochs=0))
    assert not (tmp_path / "run").exists()
    run = prepare(config, PreemptionWatch())
    run.folder.begin(run.settings.recorded, facts=run.facts(), machine=run.machine.record(), bad_images=[])
    with pytest.raises(ConfigError, match="has its rate already"):
        find_learning_rate(config)


def scored(config: FinetuneConfig, rate: float, folder: Path) -> Score:
    report = finetune(with_options(config, learning_rate=rate, output_dir=folder, fit_fc_first=False))
    assert report.validation is not None
    return report.validation


@pytest.mark.slow
def test_the_suggested_rate_trains_better_than_a_hundredth_and_a_hundredfold(config, tmp_path: Path):
    search = find_learning_rate(with_options(config, fit_fc_first=False))
    low, suggested, high = (
        scored(config, search.suggestion * factor, tmp_path / str(factor)) for factor in (0.01, 1, 100)
    )
    assert suggested.accuracy > 0.6
    assert suggested.accuracy > low.accuracy + 0.2
    assert suggested.accuracy > high.accuracy + 0.2


@pytest.mark.slow
def test_a_search_leaves_no_trace_in_the_run_after_it(config: FinetuneConfig, tmp_path: Path):
    config = with_options(config, max_train_steps=4)
    find_learning_rate(config)
    finetune(config)
    finetune(with_options(config, output_dir=tmp_path / "without"))
    first, second = (load_file(tmp_path / run / "export/model.safetensors") for run in ("run", "without"))
    assert all(first[name].equal(second[name]) for name in first)
    assert (tmp_path / "run/learning_rate.json").exists()


@pytest.mark.slow
def test_two_processes_find_the_rate_of_one(found: tuple[RateSearch, Path], tmp_path: Path):
    command = [*finetune_command()[:1], "-m", "resnet_hub.cli.main", "finetune", "--num_processes", "2"]
    done = run_command(
        [
            *command,
            *("--dataset_name", "digits", "--model", "my_resnet20", "--image_size", "8"),
            *("--horizontal_flip", "0", "--per_device_train_batch_size", "16", "--max_train_steps", "40"),
            *("--mixed_precision", "no", "--find_learning_rate", "--output_dir", tmp_path / "two"),
        ]
    )
    assert done.returncode == 0, done.stderr
    assert "--learning_rate" in done.stdout
    record = json.loads((tmp_path / "two/learning_rate.json").read_text())
    start = slice(0, 20)  # later, rounding grows
    assert record["losses"][start] == pytest.approx(found[0].losses[start], rel=1e-2)
    assert record["suggestion"] == pytest.approx(found[0].suggestion, rel=1.0)
