"""NaN and infinity stop a run before they are in the weights, and are never taken for the best."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resnet_hub.finetuning.engine.step import _is_usable
from resnet_hub.finetuning.engine.trainer import Progress
from resnet_hub.finetuning.training.epochs import is_better
from resnet_hub.results import Score

from ..runs import ForkServer, assert_same_run, log_of


@pytest.mark.slow
def test_a_loss_or_gradient_that_is_no_number_stops_the_run_before_the_update_and_it_can_go_on(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    for step, where in (
        (7, "NaN loss"),
        (12, "infinite loss"),
        (14, "NaN gradient"),
        (17, "infinite gradient"),
    ):
        fault = {"fault": "bad_numbers", "where": where, "step": step}
        server.run(folder, faults=[fault], code=1)
        said = log_of(folder).read_text().splitlines()[-1]
        assert f"after {step} steps, and nothing of that step was saved" in said
        for checkpoint in (folder / "checkpoints").glob("step-*"):
            assert int(checkpoint.name.split("-")[1]) <= step
            tensors = [t for file in checkpoint.glob("*.safetensors") for t in load_file(file).values()]
            assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in tensors)
        assert not (folder / "export").exists()
    server.run(folder)
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["NaN loss", "infinite gradient"])
def test_no_process_updates_its_weights_when_one_of_two_meets_a_nan(
    where: str, server: ForkServer, tmp_path: Path
):
    folder = tmp_path / "run"
    fault = {"fault": "bad_numbers", "where": where, "step": 9, "rank": 1}
    said = server.run_two(folder, faults=[fault], code=1)
    assert said.count("after 9 steps, and nothing of that step was saved") == 2
    newest = max((folder / "checkpoints").glob("step-*"))
    assert newest.name <= "step-00000009"
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(newest / "model.safetensors").values())


@pytest.mark.slow
def test_a_validation_of_nan_is_never_the_best_and_nothing_but_nan_is_never_exported(
    server: ForkServer, tmp_path: Path
):
    some, all_of_them = tmp_path / "some", tmp_path / "all"
    server.run(some, faults=[{"fault": "bad_validation", "first": 1, "last": 3}])
    newest = max((some / "checkpoints").glob("step-*"))
    best = load_file(newest / "best.safetensors")
    assert load_file(some / "export/model.safetensors").keys() == best.keys()
    assert (
        '"best_epoch": 4' in (newest / "values.json").read_text()
        or '"best_epoch": 5' in (newest / "values.json").read_text()
    )
    server.run(all_of_them, faults=[{"fault": "bad_validation", "first": 1, "last": 9}], code=1)
    assert "there are no weights to export" in log_of(all_of_them).read_text().splitlines()[-1]
    assert not (all_of_them / "export").exists()
    assert not (all_of_them / "report.json").exists()


def score(accuracy: float, loss: float) -> Score:
    return Score(
        accuracy=accuracy,
        accuracy_interval_95=(0.0, 1.0),
        top5_accuracy=1.0,
        macro_f1=accuracy,
        loss=loss,
        num_images=10,
    )


@pytest.mark.parametrize(
    ("accuracy", "loss", "better"),
    [
        (0.6, 9.0, True),
        (0.5, 0.9, True),
        (0.5, 1.0, False),  # a tie: the earlier epoch stays the best
        (0.5, 1.1, False),
        (0.4, 0.1, False),
        (0.9, float("nan"), False),
        (0.9, float("inf"), False),
    ],
)
def test_the_best_epoch_is_more_accurate_or_as_accurate_with_a_lower_loss(accuracy, loss, better):
    assert is_better(score(accuracy, loss), Progress(best_score=0.5, best_loss=1.0), "accuracy") == better


def test_a_first_epoch_of_nan_is_not_the_best_so_far():
    assert not is_better(score(0.1, float("nan")), Progress(), "accuracy")
    assert is_better(score(0.0, 5.0), Progress(), "accuracy")


def test_a_gradient_that_overflows_in_fp16_again_and_again_is_not_left_out_for_ever():
    """The scaler leaves out a step whose gradient overflowed, and halves its factor."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu")
    left_out = 0
    while True:
        scaler.scale(weight.sum() * float("inf")).backward()
        scaler.unscale_(optimizer)
        assert weight.grad is not None
        if not _is_usable(weight.grad.norm(), scaler):
            break
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        left_out += 1
    assert 10 < left_out < 40
    assert float(weight.detach()) == 0.0
    assert not _is_usable(torch.tensor(float("nan")), None)
    assert _is_usable(torch.tensor(1.0), None)
