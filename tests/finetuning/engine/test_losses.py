"""Losses are those of their papers, summed over the images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from resnet_hub.finetuning.engine.losses import distillation_loss, make_distillation_loss, make_loss_function

from ..settings import settings_of

LABELS = np.repeat(np.arange(5), [40, 20, 10, 5, 5])
SEVERAL = (np.arange(60)[:, None] % np.array([2, 3, 10]) == 0).astype(np.float32)


def loss_of(labels: np.ndarray, logits: Tensor, targets: Tensor, **options: object) -> Tensor:
    settings = settings_of(**{"label_smoothing": 0.0} | options).loss
    function = make_loss_function(settings, labels, num_classes=logits.shape[1], device=torch.device("cpu"))
    return function(logits, targets)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0, 1])


@pytest.mark.parametrize("options", [{}, {"loss": "binary_cross_entropy"}, {"class_weights": "balanced"}])
def test_the_loss_of_a_batch_is_the_sum_over_its_images(options: dict, logits: Tensor, targets: Tensor):
    each = [loss_of(LABELS, logits[[n]], targets[[n]], **options) for n in range(len(targets))]
    torch.testing.assert_close(loss_of(LABELS, logits, targets, **options), torch.stack(each).sum())


def test_balanced_weights_are_those_of_scikit_learn(logits: Tensor, targets: Tensor):
    weights = compute_class_weight("balanced", classes=np.arange(5), y=LABELS)
    expected = F.cross_entropy(
        logits, targets, weight=torch.from_numpy(weights).float(), label_smoothing=0.1, reduction="sum"
    )
    found = loss_of(LABELS, logits, targets, class_weights="balanced", label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


def test_binary_cross_entropy_asks_for_each_class_by_itself(logits: Tensor, targets: Tensor):
    smooth = 0.9 * F.one_hot(targets, 5) + 0.1 / 5
    expected = -(smooth * F.logsigmoid(logits) + (1 - smooth) * F.logsigmoid(-logits)).mean(dim=1).sum()
    found = loss_of(LABELS, logits, targets, loss="binary_cross_entropy", label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


def test_mixed_targets_are_smoothed_like_others(logits: Tensor, targets: Tensor):
    options = {"loss": "binary_cross_entropy", "label_smoothing": 0.1}
    mixed = F.one_hot(targets, 5).float()
    torch.testing.assert_close(
        loss_of(LABELS, logits, mixed, **options), loss_of(LABELS, logits, targets, **options)
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("is_mixed", [False, True])
def test_with_balanced_weights_the_best_constant_answer_favours_no_class(loss: str, is_mixed: bool):
    """Without them it is the share of each class, and rare ones are never answered."""
    answer = torch.zeros(5, requires_grad=True)
    targets = torch.from_numpy(LABELS)
    given = F.one_hot(targets, 5).float() if is_mixed else targets
    loss_of(LABELS, answer.expand(80, 5), given, loss=loss, class_weights="balanced").backward()
    assert answer.grad is not None
    torch.testing.assert_close(answer.grad, answer.grad.mean().expand(5), atol=1e-5, rtol=0)
    unweighted = torch.zeros(5, requires_grad=True)
    loss_of(LABELS, unweighted.expand(80, 5), given, loss=loss).backward()
    assert unweighted.grad is not None
    assert float(unweighted.grad.max() - unweighted.grad.min()) > 1


def test_above_the_threshold_a_mixed_target_is_a_whole_one(logits: Tensor):
    mixed = torch.zeros(7, 5)
    mixed[:, 0], mixed[:, 1] = 0.75, 0.25
    mixed[:3, 1], mixed[:3, 2] = 0.1, 0.15
    options = {"loss": "binary_cross_entropy", "bce_target_threshold": 0.2}
    expected = F.binary_cross_entropy_with_logits(logits, (mixed > 0.2).float(), reduction="none")
    torch.testing.assert_close(loss_of(LABELS, logits, mixed, **options), expected.mean(dim=1).sum())


def test_with_balanced_weights_images_with_a_label_weigh_as_much_as_those_without_it():
    zeros = torch.zeros(len(SEVERAL), 3, requires_grad=True)
    loss_of(SEVERAL, zeros, torch.from_numpy(SEVERAL), class_weights="balanced").backward()
    pull = zeros.grad
    assert pull is not None
    torch.testing.assert_close(pull.sum(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    unweighted = torch.zeros(len(SEVERAL), 3, requires_grad=True)
    loss_of(SEVERAL, unweighted, torch.from_numpy(SEVERAL)).backward()
    assert unweighted.grad is not None
    assert unweighted.grad.sum(dim=0)[2] > 1  # nine of ten images do not have the last label


def test_a_student_that_answers_like_its_teacher_has_no_loss(logits: Tensor):
    torch.testing.assert_close(distillation_loss(logits, logits + 3, temperature=2.0), torch.tensor(0.0))


def test_beside_binary_cross_entropy_the_teacher_weighs_no_more_the_more_classes_there_are(logits: Tensor):
    """Both are means over the classes: ten copies of each class leave the share of the labels as it is."""
    distance = make_distillation_loss(settings_of().teacher, "binary_cross_entropy")
    plain = make_distillation_loss(settings_of().teacher, "cross_entropy")
    torch.testing.assert_close(distance(0 * logits, logits) * 5, plain(0 * logits, logits))


def test_the_gradient_of_distillation_does_not_shrink_with_the_temperature(logits: Tensor):
    sizes = []
    for temperature in (8.0, 16.0):
        student = torch.zeros(7, 5, requires_grad=True)
        distillation_loss(student, logits, temperature=temperature).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
