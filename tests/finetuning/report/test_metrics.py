"""The numbers of a report, checked against scikit-learn on the same predictions and against arithmetic."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, top_k_accuracy_score

from resnet_hub.finetuning.report import metrics
from resnet_hub.finetuning.report.metrics import confusion_counts, score_predictions
from resnet_hub.finetuning.report.predictions import Predictions
from resnet_hub.prediction.classify import probabilities
from resnet_hub.results import wilson_interval

NAMES = tuple("abcdefgh")


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 8, (200,), generator=generator)
    logits = torch.randn(200, 8, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 8)
    return logits, labels


@pytest.mark.parametrize("at_a_time", [2**22, 8 * 30])
def test_scores_equal_those_of_scikit_learn(predictions, at_a_time: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        metrics, "_MOST_AT_A_TIME", at_a_time
    )  # all at once; thirty images, the last part fewer
    logits, labels = predictions
    score = score_predictions(logits, labels, NAMES)
    shares = probabilities(logits, multi_label=False).double().numpy()
    assert score.accuracy == accuracy_score(labels, logits.argmax(1))
    assert score.top5_accuracy == top_k_accuracy_score(labels, shares, k=5, labels=range(8))
    assert score.macro_f1 == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert score.loss == pytest.approx(log_loss(labels, shares), rel=1e-5)
    assert sum(row.num_images for row in score.per_class) == score.num_images == 200
    assert [row.name for row in score.per_class] == list(NAMES)


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_lower_f1():
    labels = torch.tensor([0, 1, 0, 1])
    logits = torch.nn.functional.one_hot(labels, 5).float()
    assert score_predictions(logits, labels, NAMES[:5]).macro_f1 == 1.0


def test_a_label_that_neither_occurs_nor_is_predicted_does_not_lower_f1():
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    logits = torch.where(labels > 0, 3.0, -3.0)
    assert score_predictions(logits, labels, NAMES[:4]).macro_f1 == 1.0
    logits[0, 3] = 5.0  # predicted now, and wrong
    assert score_predictions(logits, labels, NAMES[:4]).macro_f1 == 0.75


def test_several_labels_without_numbers_or_without_any_label_have_a_score_too():
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    score = score_predictions(torch.full((2, 3), torch.nan), labels, NAMES[:3])
    assert np.isnan(score.loss)
    assert np.isnan(score.mean_average_precision or 0.0)
    assert score_predictions(torch.ones(2, 3), torch.zeros(2, 3), NAMES[:3]).mean_average_precision == 0.0


def test_fewer_than_five_classes_have_a_top5_of_one():
    score = score_predictions(torch.randn(9, 3), torch.randint(0, 3, (9,)), NAMES[:3])
    assert score.top5_accuracy == 1.0


def test_the_confusion_matrix_counts_every_image_in_the_row_of_its_class(predictions):
    logits, labels = predictions
    found = Predictions(
        split="test", rows=labels.numpy(), labels=labels.numpy(), probabilities=logits.softmax(1).numpy()
    )
    counts = confusion_counts(found)
    assert counts.sum(axis=1).tolist() == np.bincount(labels, minlength=8).tolist()
    assert np.trace(counts) == int((logits.argmax(1) == labels).sum())


def test_several_labels_are_right_only_all_together():
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    logits = torch.where(labels > 0, 3.0, -3.0)
    assert score_predictions(logits, labels, NAMES[:3]).mean_average_precision == 1.0
    logits[0, 1] = 5.0
    score = score_predictions(logits, labels, NAMES[:3])
    assert score.accuracy == 0.75
    assert score.mean_average_precision is not None
    assert score.mean_average_precision < 1.0


@pytest.mark.parametrize(
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)
