"""The mean over the last epochs is that mean, is what is exported, and survives an interruption."""

from pathlib import Path

import pytest
import torch

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.training.epochs import train_epochs

from ..training.test_best import prepared


def test_the_mean_of_the_last_epochs_is_validated_and_exported(tmp_path: Path):
    run, training = prepared(
        tmp_path / "run", average_last_epochs=3, num_train_epochs=5, reestimate_batchnorm=0
    )
    ends, after_epoch = [], training.average.after_epoch

    def note(network: torch.nn.Module, epoch: int) -> None:
        ends.append(network.fc.weight.detach().clone())
        after_epoch(network, epoch)

    training.average.after_epoch = note
    assert training.candidate is training.network
    train_epochs(run, training)
    assert len(ends) == 5
    torch.testing.assert_close(training.candidate.fc.weight.detach(), torch.stack(ends[2:]).mean(dim=0))
    assert run.settings.averaging.reestimate_batchnorm == 0


def test_no_earlier_epoch_is_exported_in_place_of_the_mean(tmp_path: Path):
    run, training = prepared(
        tmp_path / "run", average_last_epochs=2, pretrained=True, learning_rate=0.3, warmup_steps=0
    )
    train_epochs(run, training)
    scores = [event["accuracy"] for event in run.folder.events() if event["event"] == "validation"]
    assert max(scores[:-1]) > scores[-1], "an earlier epoch has to be better for this to say anything"
    assert training.progress.best_epoch == 2
    assert all(
        torch.equal(tensor, training.best[name]) for name, tensor in training.candidate.state_dict().items()
    )


def test_batchnorm_is_taken_anew_for_an_average_unless_that_is_turned_off(tmp_path: Path):
    run, _ = prepared(tmp_path / "run", average_last_epochs=2)
    assert run.settings.averaging.reestimate_batchnorm == 1257


def test_an_interrupted_average_goes_on(tmp_path: Path):
    options = {"average_last_epochs": 3, "num_train_epochs": 4}
    run, training = prepared(tmp_path / "straight", **options)
    train_epochs(run, training)
    expected = {name: tensor.clone() for name, tensor in training.candidate.state_dict().items()}

    class Killed(Exception):
        pass

    for last in (1, 2):  # before the average has begun, and within it
        folder = tmp_path / f"stopped-{last}"
        run, training = prepared(folder, **options)
        add, seen = training.log.add, []

        def die(event: str, *, add=add, seen=seen, last=last, **values) -> None:
            add(event, **values)
            seen.append(event)
            if seen.count("validation") == last + 1:
                raise Killed

        training.log.add = die
        with pytest.raises(Killed):
            train_epochs(run, training)
        run, training = prepared(folder, **options)
        assert training.resumed_from_step == 10 * last
        train_epochs(run, training)
        found = training.candidate.state_dict()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_two_kinds_of_average_are_refused():
    with pytest.raises(ConfigError, match="two kinds of average"):
        FinetuneConfig(average_last_epochs=2, ema=True)
