"""Configuration: defaults < --config FILE < flags, and help for whatever is mistyped."""

from pathlib import Path
from typing import get_args

import pytest

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config import yaml_file
from resnet_hub.finetuning.config.flags import Recipe, parse_command_line
from resnet_hub.finetuning.config.options import FIELD_NAMES, FinetuneConfig, with_options
from resnet_hub.finetuning.config.yaml_file import (
    _NAMES_ELSEWHERE,
    RECIPES,
    dump_config,
    load_config,
    load_recipe,
    options_from_mapping,
)

# Other programs type these; taking one away breaks them.
PROMISED = [
    "model_name_or_path",
    "dataset_name",
    "dataset_config_name",
    "dataset_revision",
    "train_dir",
    "validation_dir",
    "train_split",
    "validation_split",
    "test_split",
    "image_column_name",
    "label_column_name",
    "output_dir",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "num_train_epochs",
    "max_train_steps",
    "max_minutes",
    "seed",
    "dataloader_num_workers",
    "mixed_precision",
    "image_size",
    "report_to",
    "push_to_hub",
    "pretrained",
    "hub_model_id",
    "hub_private_repo",
    "resume",
]


def test_every_promised_flag_is_there():
    assert set(PROMISED) <= set(FIELD_NAMES)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("seed: 3\nlearning_rate: 1e-3\n")
    options = parse_command_line(["--config", str(file), "--seed", "5"]).finetuning
    assert (options.seed, options.learning_rate) == (5, 1e-3)
    assert options.label_smoothing == FinetuneConfig().label_smoothing


def test_dashes_underscores_and_short_names_are_the_same_flag():
    for arguments in (["--model", "a"], ["--model-name-or-path", "a"], ["--model_name_or_path=a"]):
        assert parse_command_line(arguments).finetuning.model_name_or_path == "a"
    for arguments in (["--no-pretrained"], ["--no_pretrained"]):
        assert parse_command_line(arguments).finetuning.pretrained is False


def test_a_saved_configuration_is_taken_back(tmp_path: Path):
    config = FinetuneConfig(dataset_name="digits", max_minutes=None, learning_rate=3e-5, mixed_precision="no")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert FinetuneConfig(**load_config(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--learnin_rate", "1"], "learning_rate"),
        (["--dataset", "digits"], "dataset_name"),
        (["--lr", "1e-3"], "it is called learning_rate here"),
        (["--batch-size", "64"], "it is called per_device_train_batch_size here"),
        (["--seed", "-1"], "0 or more"),
        (["--dataset_name", "digits", "--train_dir", "x"], "not both"),
        (["--config", "nowhere.yaml"], "no such file"),
    ],
)
def test_a_mistyped_command_names_what_to_type(arguments, said, capsys):
    with pytest.raises((ConfigError, SystemExit)) as stopped:
        parse_command_line(arguments)
    shown = " ".join((str(stopped.value) + capsys.readouterr().err).replace("│", " ").split())
    assert said in shown
    if isinstance(stopped.value, SystemExit):
        assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rat": 1}, "learning_rate"),
        ({"seed": "many"}, "type int"),
        ({"epochs": 3}, "it is called num_train_epochs here"),
        ({"seed": 1.5}, "type int"),
        ({"pretrained": "perhaps"}, "type bool"),
        ({"mixed_precision": "fp8"}, "bf16"),
        ({"dataset_name": ["a"]}, "type str"),
    ],
)
def test_a_mistyped_file_names_what_to_write(values, said):
    with pytest.raises(ConfigError, match=said):
        options_from_mapping(values, source="c.yaml")


def test_a_file_may_say_model_as_the_flags_do():
    assert options_from_mapping({"model": "my_resnet20"}, source="x") == {"model_name_or_path": "my_resnet20"}


def test_names_from_elsewhere_lead_to_options_that_there_are():
    assert set(_NAMES_ELSEWHERE.values()) <= set(FIELD_NAMES)
    assert not _NAMES_ELSEWHERE.keys() & set(FIELD_NAMES)


def test_numbers_are_read_by_the_type_of_the_option():
    options = options_from_mapping(
        {"learning_rate": "1e-3", "weight-decay": 0, "max_grad_norm": None}, source="x"
    )
    assert options == {"learning_rate": 1e-3, "weight_decay": 0.0, "max_grad_norm": None}


def test_a_bare_no_in_yaml_is_the_precision_no():
    assert options_from_mapping({"mixed_precision": False}, source="x") == {"mixed_precision": "no"}


def test_a_changed_copy_is_checked_again():
    with pytest.raises(ConfigError, match="gradient_accumulation_steps"):
        with_options(FinetuneConfig(), gradient_accumulation_steps=0)


def test_every_recipe_of_the_package_has_a_flag_its_command_and_a_result():
    assert set(RECIPES) == set(get_args(Recipe))
    for name in RECIPES:
        FinetuneConfig(**load_recipe(name))
        comments = (
            (Path(yaml_file.__file__).with_name("recipes") / f"{name}.yaml").read_text().splitlines()[:3]
        )
        assert all(line.startswith("# ") for line in comments)
        assert f"--recipe {name}" in comments[1]
        assert comments[2].startswith(("# Measured:", "# Published:"))


def test_flags_and_the_file_win_over_the_recipe(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("mixup: 0.5\n")
    options = parse_command_line(["--recipe", "best", "--config", str(file), "--cutmix", "0"]).finetuning
    assert (options.mixup, options.cutmix, options.ema) == (0.5, 0.0, True)


def test_every_configuration_file_of_the_repository_loads():
    files = sorted((Path(__file__).parents[3] / "recipes/configs").glob("*.yaml"))
    assert files
    for file in files:
        FinetuneConfig(**load_config(file))
