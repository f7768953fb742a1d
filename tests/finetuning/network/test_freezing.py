"""Stages that do not learn stay as they are, to the bit, and the others learn."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.network.freezing import num_frozen_stages, train_all_but
from resnet_hub.finetuning.training.epochs import train_epochs

from ..conftest import TINY, finetune_command, run_command
from ..training.test_best import TINY_CONFIG, prepared


def changed_parts(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_frozen_stages_keep_their_weights_and_their_statistics(tmp_path: Path):
    run, training = prepared(tmp_path / "run", frozen_stages=2, weight_decay=0.1)
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    train_epochs(run, training)
    assert changed_parts(before, training.network.state_dict()) == {"layer2", "layer3", "fc"}


def test_stages_learn_one_after_the_other_from_above(tmp_path: Path):
    run, training = prepared(tmp_path / "run", gradual_unfreezing=2, num_train_epochs=8)
    frozen = [num_frozen_stages(run.settings.freezing, training.network, epoch) for epoch in range(8)]
    assert frozen == [3, 3, 2, 2, 1, 1, 0, 0]
    train_all_but(training.network, 3)
    assert {name.split(".")[0] for name, p in training.network.named_parameters() if p.requires_grad} == {
        "layer3",
        "fc",
    }
    assert not training.network.layer2.training
    assert training.network.layer3.training


def test_a_frozen_stage_never_learns_and_an_unfrozen_one_does(tmp_path: Path):
    run, training = prepared(tmp_path / "run", gradual_unfreezing=1, frozen_stages=1, num_train_epochs=3)
    states = [{name: tensor.clone() for name, tensor in training.network.state_dict().items()}]
    original = training.log.add

    def note(event: str, **values) -> None:
        if event == "validation":
            states.append({name: tensor.clone() for name, tensor in training.network.state_dict().items()})
        original(event, **values)

    training.log.add = note
    train_epochs(run, training)
    assert [changed_parts(*pair) for pair in pairwise(states)] == [
        {"layer3", "fc"},
        {"layer2", "layer3", "fc"},
        {"layer1", "layer2", "layer3", "fc"},
    ]


def test_more_frozen_stages_than_there_are_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="4 stages below fc"):
        prepared(tmp_path / "run", frozen_stages=5)
    assert TINY_CONFIG.frozen_stages == 0


@pytest.mark.slow
def test_two_processes_unfreeze_together_and_give_the_weights_of_one(tmp_path: Path):
    flags = (
        *("--gradual_unfreezing", "1", "--num_train_epochs", "4", "--images_per_step", "128"),
        *("--mixed_precision", "no", "--augmentation", "none", "--learning_rate", "1e-3"),
    )
    folders = tmp_path / "one", tmp_path / "two"
    assert main([*TINY, *flags, "--output_dir", str(folders[0])]) == 0
    command = finetune_command(*TINY, *flags, "--output_dir", folders[1])
    launcher = [command[0], "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = run_command([*launcher, *command[1:]], ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(folder / "export/model.safetensors") for folder in folders)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=1e-2)
