"""Labels that are wrong are found by a probe that has not seen them, and named so that a person can look."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_hub.finetuning import FinetuneConfig, inspect_labels
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.training.suspects import doubted, find_suspects
from resnet_hub.results import RunReport

from ..image_files import class_folders

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def split() -> Split:
    train = load_data(FinetuneConfig(dataset_name="digits")).train
    assert isinstance(train, Split)
    return train.take(np.arange(300), name="train", how="the first 300 digits")


def separable(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """Features (images, 16) in which the true classes are easy to tell."""
    generator = np.random.default_rng(0)
    centers = 4 * generator.standard_normal((num_classes, 16))
    noise = generator.standard_normal((len(labels), 16))
    return torch.from_numpy((centers[labels] + noise).astype(np.float32))


def test_flipped_labels_are_the_strongest_suspects(split: Split):
    truth = np.arange(300) % 3
    wrong = np.arange(0, 300, 25)
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + 1) % 3
    suspects = find_suspects(separable(truth, 3), replace(split, labels=labels), NAMES, seed=0)
    first = suspects[:10]
    assert {suspect.place for suspect in first} <= set(wrong.tolist())
    assert all(suspect.label == NAMES[labels[suspect.place]] for suspect in first)
    assert all(suspect.suggested == NAMES[truth[suspect.place]] for suspect in first)
    assert [suspect.strength for suspect in suspects] == sorted((s.strength for s in suspects), reverse=True)


def test_clean_labels_that_are_easy_to_tell_are_hardly_doubted(split: Split):
    truth = np.arange(300) % 3
    suspects = find_suspects(separable(truth, 3), replace(split, labels=truth), NAMES, seed=0)
    assert len(suspects) <= 3


def test_multi_label_data_is_doubted_class_by_class(split: Split):
    truth = np.stack([np.arange(300) % 2, np.arange(300) % 3 == 0], axis=1).astype(np.float32)
    features = separable((truth[:, 0] + 2 * truth[:, 1]).astype(int), 4)
    labels = truth.copy()
    labels[10, 0], labels[21, 1] = 1 - labels[10, 0], 1 - labels[21, 1]
    suspects = find_suspects(features, replace(split, labels=labels), ("wet", "cold"), seed=0)
    strongest = {(suspect.place, suspect.label, suspect.suggested) for suspect in suspects[:2]}
    assert strongest == {(10, "wet", "not wet"), (21, "not cold", "cold")}


def test_classes_of_fewer_images_than_folds_are_not_doubted():
    labels = np.array([0] * 20 + [1] * 20 + [2] * 4)
    answers = np.full((44, 3), 0.01, dtype=np.float32)
    answers[np.arange(40), labels[:40]] = 0.9
    answers[40:, 0] = 0.98  # a probe that has hardly seen an owl takes them for cats
    answers[0], answers[1] = (0.02, 0.95, 0.03), (0.1, 0.05, 0.85)
    assert [(suspect.place, suspect.suggested) for suspect in doubted(answers, labels, NAMES)] == [(0, "dog")]


def test_a_run_lists_its_suspects_with_rows_that_can_be_looked_up(tmp_path: Path, capsys):
    folder = tmp_path / "run"
    arguments = [
        "--dataset_name",
        "digits",
        "--model",
        "my_resnet20",
        "--image_size",
        "16",
        "--recipe",
        "quick",
    ]
    assert main([*arguments, "--output_dir", str(folder)]) == 0
    rows = list(csv.DictReader((folder / "suspects.csv").open()))
    digits = load_data(FinetuneConfig(dataset_name="digits"))
    labels = dict(zip(digits.train.rows.tolist(), digits.train.labels.tolist(), strict=True))
    assert rows
    assert all(row["label"] == digits.class_names[labels[int(row["row"])]] for row in rows)
    assert f"{len(rows)} labels look wrong" in capsys.readouterr().err
    assert RunReport.load(folder / "report.json").test is not None


def test_inspection_names_files_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    before = set(tmp_path.rglob("*"))
    config = FinetuneConfig(
        train_dir=folder,
        model_name_or_path="my_resnet20",
        image_size=16,
        validation_fraction=0,
        test_fraction=0,
    )
    inspection = inspect_labels(config)
    assert len(inspection.split) == 16
    assert set(tmp_path.rglob("*")) == before
    assert inspection.split.images.file_of(int(inspection.split.rows[0]))
