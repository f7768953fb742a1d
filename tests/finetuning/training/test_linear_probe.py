"""fc fitted on frozen features: the solution of scikit-learn, and a better start than a random one."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.training import linear_probe
from resnet_hub.finetuning.training.linear_probe import PENALTIES, Examples, fit_linear_classifier, minimise
from resnet_hub.results import RunReport

from ..conftest import TINY, events_without_time

DIGITS = ["--dataset_name", "digits", "--image_size", "8", "--horizontal_flip", "0"]


@pytest.fixture(scope="module")
def examples() -> tuple[Examples, Examples]:
    """Overlapping classes in 12 dimensions of very different scales: for training and for validation."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 12, generator=generator)
    scales = torch.logspace(-2, 2, 12)

    def draw(count: int) -> Examples:
        labels = torch.randint(0, 4, (count,), generator=generator)
        features = (centres[labels] + torch.randn(count, 12, generator=generator)) * scales + 5
        return Examples(features=features.double(), labels=labels)

    return draw(300), draw(200)


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_solution_is_that_of_scikit_learn(examples, penalty: float):
    train, _ = examples
    standard = (train.features - train.features.mean(0)) / train.features.std(0, correction=0)
    weight, bias = minimise(
        Examples(features=standard, labels=train.labels),
        standard.new_zeros(4, 12),
        standard.new_zeros(4),
        penalty=penalty,
    )
    # scikit-learn minimises |weight|^2 / 2 + C * (sum of losses)
    reference = LogisticRegression(C=1 / (penalty * len(standard)), tol=1e-8, max_iter=2000)
    reference.fit(standard.numpy(), train.labels.numpy())
    ours = torch.softmax(standard @ weight.T + bias, dim=1).numpy()
    assert np.abs(ours - reference.predict_proba(standard.numpy())).max() < 1e-4


def test_the_classifier_is_for_the_features_as_they_came(examples):
    train, validation = examples
    found = fit_linear_classifier(train, validation, num_classes=4)
    logits = validation.features @ found.weight.T + found.bias
    accuracy = float((logits.argmax(1) == validation.labels).double().mean())
    assert accuracy > 0.85


def test_the_penalty_is_the_one_of_lowest_validation_loss(examples):
    train, validation = examples
    best = fit_linear_classifier(train, validation, num_classes=4)
    best_loss = float(sum(validation.losses(best.weight, best.bias)))
    without = fit_linear_classifier(train, None, num_classes=4)
    assert without.penalty == 1e-3
    loss_at_one_penalty = float(sum(validation.losses(without.weight, without.bias)))
    assert best_loss <= loss_at_one_penalty + 1e-4  # one path starts cold, the other warm


@pytest.mark.parametrize("kind", ["plain", "weighted", "several labels"])
def test_the_classifier_is_the_same_however_many_logits_fit_into_memory(
    kind: str, examples, monkeypatch: pytest.MonkeyPatch
):
    train, validation = examples
    if kind == "weighted":
        weights = torch.tensor([0.5, 1.0, 2.0, 4.0]).double()
        train, validation = (replace(each, class_weights=weights) for each in examples)
    if kind == "several labels":
        train, validation = (replace(each, labels=F.one_hot(each.labels, 4).double()) for each in examples)
    whole = fit_linear_classifier(train, validation, num_classes=4)
    monkeypatch.setattr(linear_probe, "_MOST_LOGITS", 4 * 70)  # 300 images in five parts, the last smaller
    parts = fit_linear_classifier(train, validation, num_classes=4)
    assert parts.penalty == whole.penalty
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-3, atol=1e-5)


def test_with_class_weights_rare_classes_are_found_more_often():
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.zeros(190, dtype=torch.long), torch.ones(10, dtype=torch.long)])
    features = torch.randn(200, 3, generator=generator).double() + labels[:, None]

    def found(weights: torch.Tensor | None) -> int:
        train = Examples(features=features, labels=labels, class_weights=weights)
        fitted = fit_linear_classifier(train, None, num_classes=2)
        answers = (features @ fitted.weight.T + fitted.bias).argmax(dim=1)
        return int((answers[labels == 1] == 1).sum())

    assert found(None) < 5
    assert found(torch.tensor([200 / 380, 10.0]).double()) >= 8


def test_all_processes_try_the_same_penalties(examples):
    """Another process that would go on, or end, makes this one do so too."""
    train, validation = examples
    asked: list[bool] = []

    def ends_at_the_third(flag: bool) -> bool:
        asked.append(flag)
        return len(asked) == 3

    found = fit_linear_classifier(train, validation, num_classes=4, agree_any=ends_at_the_third)
    assert len(asked) == 3
    assert found.penalty in PENALTIES[:3]


def test_several_labels_are_fitted_each_on_its_own():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=generator).double()
    labels = torch.stack([features[:, 0] > 0, features[:, 1] > 0.3], dim=1).double()
    found = fit_linear_classifier(Examples(features=features, labels=labels), None, num_classes=2)
    assert float(((features @ found.weight.T + found.bias > 0) == labels.bool()).double().mean()) > 0.95


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A network that has seen digits for a few epochs; its export is the start for the runs below."""
    folder = tmp_path_factory.mktemp("backbone") / "run"
    assert main([*TINY, "--num_train_epochs", "6", "--output_dir", str(folder)]) == 0
    return folder / "export"


def test_quick_fits_fc_only_and_changes_and_reports_nothing_else(backbone, tmp_path, capsys):
    start = [
        "--dataset_name",
        "digits",
        "--model",
        str(backbone),
        "--image_size",
        "8",
        "--horizontal_flip",
        "0",
    ]
    assert main([*start, "--recipe", "quick", "--output_dir", str(tmp_path / "run")]) == 0
    report = RunReport.load(tmp_path / "run/report.json")
    assert report.train.steps == 0
    assert report.test is not None
    assert report.test.accuracy > 0.8
    printed = "\n".join(capsys.readouterr())
    page, card = ((tmp_path / "run" / name).read_text() for name in ("report.html", "export/README.md"))
    assert "exported   linear probe" in printed
    assert "| Exported weights | linear probe |" in card
    assert "only fc is fitted" in page
    for idle in ("learning_rate", "weight_decay", "augmentation", "horizontal_flip", "warmup_steps"):
        assert not [said for said in (printed, page, card) if idle in said or idle.replace("_", " ") in said]
    assert "Learning curves" not in page
    before, after = (
        load_file(backbone / "model.safetensors"),
        load_file(tmp_path / "run/export/model.safetensors"),
    )
    assert [name for name in before if not before[name].equal(after[name])] == ["fc.bias", "fc.weight"]


def test_balanced_begins_with_a_linear_probe_never_ends_below_it_and_names_what_it_exports(
    backbone, tmp_path, capsys
):
    start = [
        "--dataset_name",
        "digits",
        "--model",
        str(backbone),
        "--image_size",
        "8",
        "--horizontal_flip",
        "0",
    ]
    assert main([*start, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]) == 0
    events = events_without_time(tmp_path / "run")
    assert [event["event"] for event in events][:2] == ["validation", "fit_fc"]
    scores = [event["accuracy"] for event in events if event["event"] == "validation"]
    report = RunReport.load(tmp_path / "run/report.json")
    assert report.validation is not None
    assert report.validation.accuracy == max(scores)  # never worse than the linear probe
    assert report.exported is not None
    assert (report.exported.linear_probe_score, report.exported.best_epoch_score) == tuple(scores)
    assert report.exported.epoch == scores.index(max(scores))
    exported = " ".join(f"exported   {report.exported_text}".split())
    assert exported in " ".join(capsys.readouterr().out.split())
    assert ("Training did not beat it" in exported) == (report.exported.epoch == 0)
    assert set(report.asked) == {"model_name_or_path", "dataset_name", "image_size", "horizontal_flip"} | {
        "num_train_epochs",
        "output_dir",
    }


def test_quick_from_random_weights_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*TINY, "--recipe", "quick", "--output_dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "features of pretrained weights" in " ".join(capsys.readouterr().err.split())


def test_features_that_memory_does_not_hold_are_refused_with_ways_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100_000))
    folder = tmp_path / "run"
    assert main([*DIGITS, "--model", "my_resnet20", "--recipe", "quick", "--output_dir", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "features of 1,257 images" in said
    assert "--fit_fc_first False" in said
    assert not folder.exists()
