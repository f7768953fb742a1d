"""Fine-tuning from Python, as a person types it in a script or a notebook."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import resnet_hub
from resnet_hub.finetuning import FinetuneConfig

MODEL = "my_resnet20"
SHORT: dict[str, Any] = {
    "image_size": 8,
    "horizontal_flip": 0,
    "num_train_epochs": 1,
    "mixed_precision": "no",
}
QUICK = SHORT | {"recipe": "quick", "num_train_epochs": 0}
Pair = tuple[Image.Image, str]


@pytest.fixture(scope="session")
def digits() -> list[Pair]:
    """Zeros, ones and twos with their names."""
    found: Any = load_digits(n_class=3)
    names = ("zero", "one", "two")
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return [
        (Image.fromarray(image), names[label]) for image, label in zip(pixels, found.target, strict=True)
    ][:120]


def test_a_list_of_images_and_labels_becomes_a_measured_model(digits: list[Pair], tmp_path: Path):
    result = resnet_hub.finetune(MODEL, digits, output_dir=str(tmp_path / "run"), **SHORT)
    assert result.folder == tmp_path / "run"
    assert result.report.class_names == ("one", "two", "zero")
    assert result.report.dataset == "images in memory"
    assert result.report.test is not None
    assert result.report.test.accuracy > 0.8
    assert repr(result).startswith("<my_resnet20.formula_signs500 on images in memory: test accuracy ")
    assert not result.model.training
    image = digits[0][0]
    assert resnet_hub.classify(result.model, image)[0].label == "zero"
    assert result.classify(image, top_k=1)[0].label == "zero"
    assert [found[0].label for found in result.classify([image, digits[1][0]])] == ["zero", "one"]
    assert len(result.classify(np.stack([np.asarray(image)] * 4))) == 4
    assert result.classify([]) == []


def test_a_network_is_the_start_and_stays_as_it_was(digits: list[Pair], tmp_path: Path):
    network = timm.create_model(MODEL, pretrained=True).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    table = pd.DataFrame(digits, columns=["picture", "digit"])
    result = resnet_hub.finetune(network, table, output_dir=tmp_path / "given", **QUICK)
    named = resnet_hub.finetune(MODEL, table, output_dir=tmp_path / "named", **QUICK)
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert network.num_classes == 500
    assert result.report.validation == named.report.validation
    theirs = named.model.state_dict()
    assert all(tensor.equal(theirs[name]) for name, tensor in result.model.state_dict().items())


def test_the_fc_of_a_network_is_kept_where_the_classes_are_the_same(digits: list[Pair], tmp_path: Path):
    first = resnet_hub.finetune(MODEL, digits, output_dir=tmp_path / "first", **QUICK)
    still = SHORT | {"fit_fc_first": False, "learning_rate": 1e-12, "reestimate_batchnorm": 0}
    again = resnet_hub.finetune(nn.DataParallel(first.model), digits, output_dir=tmp_path / "again", **still)
    assert again.model.fc.weight.allclose(first.model.fc.weight, atol=1e-6)  # pyright: ignore
    others = [(image, f"a {name}") for image, name in digits]
    other = resnet_hub.finetune(first.model, others, output_dir=tmp_path / "other", **still)
    assert not other.model.fc.weight.allclose(first.model.fc.weight, atol=1e-2)  # pyright: ignore


def test_a_run_is_a_model_and_the_splits_of_datasets_are_the_splits(digits: list[Pair], tmp_path: Path):
    first = resnet_hub.finetune(MODEL, digits, output_dir=tmp_path / "first", **QUICK)
    images, labels = map(list, zip(*digits, strict=True))
    data = datasets.Dataset.from_dict({"image": images, "label": labels}).train_test_split(0.25, seed=0)
    second = resnet_hub.finetune(first.folder, data, output_dir=tmp_path / "second", **QUICK)
    assert second.report.base_model == str(first.folder)
    assert second.report.splits["test"].how == "test of the data set"
    assert second.report.splits["test"].num_images == 30


def test_without_a_folder_each_run_gets_a_new_one(
    digits: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    folders = [
        resnet_hub.finetune(MODEL, digits, **QUICK, **title).folder
        for title in ({}, {}, {"dataset_title": "three digits"})
    ]
    assert folders == [
        Path(f"runs/{name}_my_resnet20{end}")
        for name, end in (("images", ""), ("images", "-2"), ("three digits", ""))
    ]
    assert "folder    runs/images_my_resnet20-2" in capfd.readouterr().err
    assert resnet_hub.load(folders[0]) is not None


def test_names_paths_and_options_are_what_they_are_on_the_command_line(photo_folder: Path, tmp_path: Path):
    result = resnet_hub.finetune(
        Path(MODEL).name,
        photo_folder,
        output_dir=tmp_path / "run",
        **QUICK | {"image_size": np.int64(8), "test_fraction": 0, "report_to": ["none"], "weight_decay": 0},
    )
    config = FinetuneConfig(
        **resnet_hub.finetuning.config.yaml_file.load_config(tmp_path / "run/config.yaml")
    )
    assert config.dataset_name == str(photo_folder)
    assert config.weight_decay == 0
    assert result.report.class_names == ("blue", "green", "red")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt option": ({"num_train_epoch": 1}, "'num_train_epoch'; did you mean 'num_train_epochs'"),
    "a name of timm's": ({"lr": 0.1}, "unknown option 'lr'; it is called learning_rate here"),
    "text for a number": ({"num_train_epochs": "many"}, "has to be of type int"),
    "a fraction for a number": ({"num_train_epochs": 1.5}, "has to be of type int"),
    "another value": ({"optimizer": "adam"}, "did you mean 'adamw'"),
    "out of range": ({"learning_rate": -1}, "learning_rate is -1"),
    "an unknown recipe": ({"recipe": "qick"}, "'quick'"),
    "the model twice": ({"model": "my_resnet18"}, "model"),
    "the data set twice": ({"dataset_name": "digits"}, "Give it as the argument dataset"),
    "two data sets": ({"train_dir": "photos"}, "an object was given"),
    "a stream of memory": ({"streaming": True}, "not streamed"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    case: str, digits: list[Pair], tmp_path: Path
):
    options, words = REFUSED[case]
    with pytest.raises((resnet_hub.UserError, TypeError), match=words):
        resnet_hub.finetune(MODEL, digits, output_dir=tmp_path / "run", **SHORT | options)
    assert not (tmp_path / "run").exists()


MODELS: dict[str, tuple[Any, str]] = {
    "another family": (lambda: timm.create_model("efficientnet_b0"), "efficientnet_b0 is not a ResNet"),
    "no model of timm": (lambda: nn.Linear(2, 2), "A Linear without timm's pretrained_cfg"),
}


@pytest.mark.parametrize("case", MODELS)
def test_networks_that_are_not_resnets_of_timm_are_refused(case: str, digits: list[Pair], tmp_path: Path):
    make, words = MODELS[case]
    with pytest.raises(resnet_hub.UserError, match=words):
        resnet_hub.finetune(make(), digits, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_folder_is_refused(digits: list[Pair], tmp_path: Path):
    resnet_hub.finetune(MODEL, digits, output_dir=tmp_path / "run", **QUICK)
    with pytest.raises(resnet_hub.UserError, match="holds a finished run"):
        resnet_hub.finetune(MODEL, digits, output_dir=tmp_path / "run", **QUICK)


def test_home_is_understood(digits: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = resnet_hub.finetune(MODEL, digits, output_dir=os.path.join("~", "run"), **QUICK)  # noqa: PTH118
    assert result.folder == tmp_path / "run"
    assert json.loads((tmp_path / "run/report.json").read_text())["dataset"] == "images in memory"
