"""What `--recipe best` adds to training, and the options that it shares with the others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from timm import create_model
from torch import nn

import resnet_hub  # noqa: F401  registers the family
from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.batches.augment import EvaluationTransform, build_train_transforms
from resnet_hub.finetuning.batches.loader import TrainBatches, ViewBatches
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import load_recipe
from resnet_hub.finetuning.engine.forward import normalized
from resnet_hub.finetuning.engine.optimizer import make_optimizer, set_rate
from resnet_hub.finetuning.engine.trainer import Progress
from resnet_hub.finetuning.finish import measure
from resnet_hub.finetuning.machine.preemption import PreemptionWatch
from resnet_hub.finetuning.network.averaging import StepAverage
from resnet_hub.finetuning.prepare import prepare
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.epochs import _fit_fc, _has_stalled, train_epochs
from resnet_hub.finetuning.training.evaluation import reestimate_batchnorm
from resnet_hub.finetuning.training.state import Training, start_or_resume
from resnet_hub.results import RunReport

from ..conftest import TINY
from ..settings import settings_of

TINY_CONFIG = FinetuneConfig(
    dataset_name="digits",
    model_name_or_path="my_resnet20",
    pretrained=False,
    image_size=8,
    per_device_train_batch_size=128,
    horizontal_flip=0.0,
    num_train_epochs=2,
    mixed_precision="no",
)


def prepared(folder: Path, **options) -> tuple[Run, Training]:
    """A tiny run, begun and not yet trained."""
    with PreemptionWatch() as watch:
        run = prepare(replace(TINY_CONFIG, output_dir=folder, **options), watch)
    if run.machine.is_main:
        run.folder.begin(
            run.settings.recorded, facts=run.facts(), machine=run.machine.record(), bad_images=[]
        )
    run.machine.accelerator.wait_for_everyone()
    return run, start_or_resume(run)


def test_best_is_longer_with_small_images_first_stronger_augmentation_and_averaged_weights():
    balanced, best = (settings_of(**load_recipe(name)).recorded for name in ("balanced", "best"))
    assert best.num_train_epochs == 2 * (balanced.num_train_epochs or 0)
    assert (best.first_image_size, balanced.first_image_size) == (160, 224)
    assert (best.augmentation, balanced.augmentation) == ("trivialaugment", "light")
    narrow = settings_of(situation={"network_width": 64}, image_size=32, **load_recipe("best")).recorded
    assert narrow.augmentation == "crop"
    assert 0.9 <= (best.ema_decay or 0) < 1
    assert balanced.ema_decay == balanced.reestimate_batchnorm == 0
    assert best.reestimate_batchnorm == 1257


def test_images_grow_to_full_size_and_the_last_third_of_the_epochs_is_trained_at_it():
    large = settings_of(low_resolution_first=True, num_train_epochs=9).images
    assert large.epoch_sizes == (160, 160, 192, 192, 192, 224, 224, 224, 224)
    small = settings_of(image_size=32, first_image_size=16, num_train_epochs=6).images
    assert small.epoch_sizes == (16, 20, 24, 28, 32, 32)


def test_the_batches_of_an_epoch_have_its_size(tmp_path: Path):
    run, _ = prepared(tmp_path / "run", first_image_size=4, num_train_epochs=3)
    transforms = build_train_transforms(run.settings.images, run.preprocessing)
    batches = TrainBatches(
        run.data.train,
        transforms,
        run.plan,
        options=LoaderOptions(),
    )
    assert [next(batches.epoch(epoch))[0].images.shape[-1] for epoch in range(3)] == [4, 8, 8]


def test_a_first_size_above_the_last_is_refused():
    with pytest.raises(ConfigError, match="grow towards"):
        FinetuneConfig(dataset_name="x", first_image_size=64, image_size=32)


def test_a_run_of_best_exports_the_average_and_not_the_last_weights(tmp_path: Path):
    folder = tmp_path / "run"
    arguments = (*TINY, "--recipe", "best", "--num_train_epochs", "2", "--output_dir", str(folder))
    assert main([*arguments, "--validation_fraction", "0.4"]) == 0
    newest = max((folder / "checkpoints").glob("step-*"))
    average, last = load_file(newest / "average.safetensors"), load_file(newest / "model.safetensors")
    exported = load_file(folder / "export/model.safetensors")
    best = load_file(newest / "best.safetensors")
    assert all(exported[name].equal(best[name]) for name in exported)
    assert not any(last[name].equal(average[name]) for name in last if name.endswith("conv1.weight"))
    report = RunReport.load(folder / "report.json")
    assert (report.recipe["first_image_size"], report.recipe["image_size"]) == (4, 8)


def test_the_average_follows_the_weights_by_its_decay(tmp_path: Path):
    run, training = prepared(tmp_path / "run", ema_decay=0.5, reestimate_batchnorm=0, max_train_steps=4)
    followed = [training.network.fc.weight.detach().clone()]
    update = training.average.after_step

    def note_and_update(network: nn.Module, step: int) -> None:
        followed.append(network.fc.weight.detach().clone())
        update(network, step)

    training.average.after_step = note_and_update
    train_epochs(run, training)
    expected = followed[0]
    for step, weights in enumerate(followed[1:], start=1):
        # timm's warm-up: an average of all weights so far until the decay is reached.
        decay = 0.0 if step <= 1 else min(0.5, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(training.average.module.fc.weight.detach(), expected)
    assert len(followed) == 5


def test_batchnorm_gets_the_statistics_of_training_images_as_evaluation_sees_them(tmp_path: Path):
    run, training = prepared(tmp_path / "run", reestimate_batchnorm=10_000)
    with torch.no_grad():
        training.network.bn1.running_mean.fill_(123.0)
    reestimate_batchnorm(run, training.network, epoch=1, schedule_epoch=1, num_images=10_000)
    assert_has_the_statistics_of_training_images(run, training)


def test_fc_is_fitted_to_the_statistics_that_training_will_use(tmp_path: Path):
    run, training = prepared(tmp_path / "run", pretrained=True, horizontal_flip=0.0)
    _fit_fc(run, training)
    assert_has_the_statistics_of_training_images(run, training)


def test_frozen_stages_keep_their_statistics(tmp_path: Path):
    run, training = prepared(tmp_path / "run", frozen_stages=2)
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    reestimate_batchnorm(run, training.network, epoch=0, schedule_epoch=0, num_images=100)
    after = training.network.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}
    assert changed == {"layer2", "layer3"}


def test_stages_that_a_time_limit_has_unfrozen_already_take_new_statistics(tmp_path: Path):
    """Where time runs faster than epochs, `_train_epoch` unfreezes by the schedule: statistics do too."""
    run, training = prepared(tmp_path / "run", gradual_unfreezing=1)
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    reestimate_batchnorm(run, training.network, epoch=0, schedule_epoch=1, num_images=100)
    after = training.network.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}
    assert changed == {"layer2", "layer3"}


def assert_has_the_statistics_of_training_images(run: Run, training: Training) -> None:
    batches = ViewBatches(
        run.data.train,
        EvaluationTransform(run.preprocessing),
        batch_size=2000,
        options=LoaderOptions(),
    )
    images = torch.cat([normalized(batch.images, run.preprocessing, run.machine) for batch in batches])
    with torch.no_grad():
        outputs = training.network.conv1(images)
    assert len(images) == len(run.data.train)
    torch.testing.assert_close(
        training.network.bn1.running_mean, outputs.mean(dim=(0, 2, 3)), atol=1e-3, rtol=1e-3
    )
    assert training.network.bn1.momentum == 0.1


def test_each_block_learns_at_a_fraction_of_the_rate_of_the_one_above():
    network = create_model("my_resnet20", num_classes=4)
    optimizer = make_optimizer(network, weight_decay=0.05, layer_decay=0.5)
    set_rate(optimizer, 1.0)
    rates = {}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in optimizer.param_groups:
        rates |= {names[id(parameter)]: group["lr"] for parameter in group["params"]}
    assert rates["fc.weight"] == 1.0
    blocks = [rates[f"layer{stage}.{block}.conv1.weight"] for stage in (3, 2, 1) for block in (2, 1, 0)]
    assert blocks == [0.5**depth for depth in range(blocks_above_fc(blocks), blocks_above_fc(blocks) + 9)]
    assert rates["conv1.weight"] == blocks[-1] / 2


def blocks_above_fc(rates: list[float]) -> int:
    """How many halvings the last block is below fc."""
    return round(-np.log2(rates[0]))


def test_a_run_that_does_not_improve_stops_early_and_is_finished(tmp_path: Path):
    folder = tmp_path / "run"
    arguments = (
        *TINY,
        "--num_train_epochs",
        "9",
        "--early_stopping_epochs",
        "2",
        "--output_dir",
        str(folder),
    )
    assert main([*arguments, "--learning_rate", "1e-30", "--weight_decay", "0", "--augmentation", "none",
                 "--reestimate_batchnorm", "1257"]) == 0  # fmt: skip
    newest = max((folder / "checkpoints").glob("step-*"))
    best_epoch = json.loads((newest / "values.json").read_text())["progress"]["best_epoch"]
    assert RunReport.load(folder / "report.json").train.epochs == best_epoch + 2 < 9


def test_epochs_of_warm_up_and_of_growing_images_are_not_held_against_a_run(tmp_path: Path):
    """Validation becomes worse there, at another size and with a rate that rises."""
    options = {"num_train_epochs": 9, "first_image_size": 4, "early_stopping_epochs": 2}
    run, _ = prepared(tmp_path / "growing", **options)
    stalled = [
        epoch
        for epoch in range(1, 10)
        if _has_stalled(run, Progress(evaluated_epochs=epoch, best_epoch=0, best_score=0.5))
    ]
    assert stalled == [8, 9]  # images grow through six epochs
    run, _ = prepared(tmp_path / "warm", num_train_epochs=9, warmup_steps=30, early_stopping_epochs=2)
    assert not _has_stalled(run, Progress(evaluated_epochs=4, best_epoch=0))  # ten steps an epoch
    assert _has_stalled(run, Progress(evaluated_epochs=5, best_epoch=0))


def test_images_and_stages_follow_the_clock_where_it_runs_faster_than_the_epochs(tmp_path: Path):
    """A run that ends by the clock in its first epochs has had images of full size and all stages."""
    run, training = prepared(
        tmp_path / "run",
        num_train_epochs=300,
        first_image_size=4,
        gradual_unfreezing=100,
        max_minutes=0.1,
    )
    seen: list[tuple[int, int, int]] = []
    original = training.log.add

    def note(event: str, **values) -> None:
        if event == "validation":
            learning = sum(parameter.requires_grad for parameter in training.network.parameters())
            at = training.progress.schedule_epoch
            seen.append((at, run.settings.images.epoch_sizes[at], learning))
        original(event, **values)

    training.log.add = note
    train_epochs(run, training)
    assert len(seen) < 100
    assert seen == sorted(seen)
    assert (seen[0][1], seen[-1][1]) == (4, 8)
    assert seen[-1][2] > seen[0][2]
    assert seen[-1][0] >= 200


def test_fitting_fc_does_not_use_up_the_warm_up_of_a_run_with_a_time_limit(tmp_path: Path):
    _, training = prepared(tmp_path / "run", max_minutes=1.0)
    progress = Progress(seconds=30.0, seconds_before_steps=30.0)
    assert training.trainer.share_of_time(progress) == 0.0
    progress.seconds = 45.0
    assert training.trainer.share_of_time(progress) == 0.5
    progress.seconds = 60.0
    assert training.trainer.share_of_time(progress) == 1.0
    late = Progress(seconds=70.0, seconds_before_steps=70.0)  # fitting alone took longer than there was
    assert training.trainer.share_of_time(late) == 1.0


@pytest.mark.parametrize(("total_steps", "decay"), [(751_200, 0.999966), (20_000, 0.999), (400, 0.95)])
def test_an_average_reaches_its_decay_within_half_of_the_run(total_steps: int, decay: float):
    average = StepAverage(nn.Linear(1, 1), decay=decay, total_steps=total_steps)
    assert average._average.get_decay(total_steps // 2) == pytest.approx(decay)
    assert average._average.get_decay(2) < 0.9


def test_early_stopping_without_validation_is_refused_with_a_way_out(tmp_path: Path, capsys):
    arguments = (*TINY, "--early_stopping_epochs", "2", "--validation_fraction", "0")
    assert main([*arguments, "--output_dir", str(tmp_path / "run")]) == 2
    assert "--validation_fraction 0.15" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_first_size_above_the_models_own_is_refused():
    with pytest.raises(ConfigError, match="grow towards"):
        settings_of(first_image_size=320)


def test_gradient_checkpointing_gives_the_same_weights(tmp_path: Path):
    weights = []
    for name, on in (("off", False), ("on", True)):
        run, training = prepared(tmp_path / name, gradient_checkpointing=on, max_train_steps=3)
        train_epochs(run, training)
        weights.append(training.network.state_dict())
    for name, tensor in weights[0].items():  # BatchNorm's statistics too, which count each batch once
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_weights_that_answer_worse_in_float32_are_told_of(precision: str, tmp_path: Path, caplog):
    """The export computes in float32, and what was fitted to coarser features may need them."""
    AcceleratorState._reset_state(reset_partial_state=True)  # each run chooses its own precision
    run, training = prepared(tmp_path / "run", num_train_epochs=1, mixed_precision=precision)
    train_epochs(run, training)
    measure(run, training)
    assert "need finer features" not in caplog.text
    report, _ = measure(run, training)
    assert report.validation is not None
    for lost, is_told in ((1, False), (4, False), (5, precision == "bf16")):  # images; few are chance
        training.progress.best_score = report.validation.accuracy + lost / report.validation.num_images
        measure(run, training)
        assert ("need finer features" in caplog.text) == is_told
    AcceleratorState._reset_state(reset_partial_state=True)
