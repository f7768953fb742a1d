"""Labels that may be wrong: confident learning on out-of-fold answers of the linear probe.

A probe that has not seen an image's label answers for it. Where it is surer of another class than it usually
is of that class's own images, the label is suspicious (Northcutt et al. 2021, "Confident Learning: Estimating
Uncertainty in Dataset Labels", arXiv:1911.00068, section 3.1).
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resnet_hub.csv_cells import to_cell
from resnet_hub.files import write_atomically
from resnet_hub.finetuning.data.load import groups_of
from resnet_hub.finetuning.data.roles import stratified_sides
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.engine.forward import full_float32
from resnet_hub.finetuning.report.html import save_thumbnail
from resnet_hub.finetuning.report.metrics import probabilities
from resnet_hub.finetuning.report.page import SUSPECTS_SHOWN
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.features import train_features
from resnet_hub.finetuning.training.linear_probe import (
    Examples,
    fit_linear_classifier,
    fit_with_penalty,
)

FOLDS = 5  # also the fewest images of a class that a probe can know it by
_MOST_WORK = 5e9  # images times features times classes: half a minute on two cores
_HEADER = ("row", "file", "label", "suggested", "probability_of_label", "probability_of_suggestion")


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """An image and a label of it that may be wrong; `not NAME` is a label that is missing (multi-label)."""

    place: int
    """In its split."""
    label: str
    """As the data set has it."""
    suggested: str
    """What the other images speak for."""
    probability_of_label: float
    probability_of_suggestion: float

    @property
    def strength(self) -> float:
        """How much more probable the suggestion is."""
        return self.probability_of_suggestion - self.probability_of_label


@dataclass(frozen=True, kw_only=True)
class LabelInspection:
    """A look at the labels of training images, without training."""

    split: Split
    suspects: list[Suspect]
    """The strongest first."""


def inspect_run(run: Run) -> LabelInspection:
    """Look at the labels of the training images of a run that is prepared and need not begin."""
    network = run.model.to(run.machine.accelerator.device, memory_format=run.machine.memory_format)  # pyright: ignore[reportCallIssue]
    features = train_features(run, network)
    train, seed = run.data.mapped_train, run.settings.seed
    suspects = find_suspects(
        features, train, run.data.class_names, seed=seed, between_folds=run.stop_if_asked
    )
    return LabelInspection(split=train, suspects=suspects)


def note_suspects(run: Run, features: Tensor, *, penalty: float) -> list[Suspect] | None:
    """Write `suspects.csv` of a run and print how many labels it doubts; the main process calls this.

    None where labels are not looked at: a stream has no rows to name, and with very many images the folds
    would take longer than the fit that the run waits for; `resnet-hub inspect` looks at those too.
    """
    train, class_names = run.data.mapped_train, run.data.class_names
    if run.settings.data.streaming or features.numel() * len(class_names) > _MOST_WORK:
        return None
    suspects = find_suspects(features, train, class_names, seed=run.settings.seed, penalty=penalty)
    write_atomically(run.folder.suspects, as_csv(suspects, train))
    for suspect in suspects[:SUSPECTS_SHOWN]:
        row = int(train.rows[suspect.place])
        save_thumbnail(train.image(suspect.place), run.folder.example("train", row))
    if suspects:
        found = f"{len(suspects):,} labels look" if len(suspects) > 1 else "1 label looks"
        run.display.say(f"{found} wrong to the linear probe, the strongest first in {run.folder.suspects}")
    return suspects


def find_suspects(
    features: Tensor,
    split: Split,
    class_names: Sequence[str],
    *,
    seed: int,
    penalty: float | None = None,
    between_folds: Callable[[], None] = lambda: None,
) -> list[Suspect]:
    """The suspicious labels of a split, the strongest first.

    Args:
        features: Of each image of the split, (images, features) float32.
        split: Whose labels are looked at; equal images are in one fold.
        class_names: In the order of the labels.
        seed: Decides the folds.
        penalty: Of the probe; None to choose it on the first fold.
        between_folds: Called before each fold; may raise to stop.
    """
    everything = Examples(features=features, labels=torch.as_tensor(split.labels).to(features.device))
    answers = torch.zeros(len(split), len(class_names))
    for held_out in _folds(split, seed=seed):
        between_folds()
        there = torch.from_numpy(held_out).to(features.device)
        train, rest = everything.only(~there), everything.only(there)
        if penalty is None:
            penalty = fit_linear_classifier(train, rest, num_classes=len(class_names)).penalty
        probe = fit_with_penalty(train, penalty, num_classes=len(class_names))
        with full_float32():
            logits = F.linear(rest.features, probe.weight, probe.bias)
        answers[torch.from_numpy(held_out)] = probabilities(logits, multi_label=split.labels.ndim > 1).cpu()
    return doubted(answers.numpy(), split.labels, class_names)


def doubted(answers: NDArray[np.float32], labels: NDArray[Any], class_names: Sequence[str]) -> list[Suspect]:
    """The suspects among images with these out-of-fold probabilities (images, classes), the strongest first.

    Labels of a class with fewer images than there are folds are not doubted: no probe could know them.
    """
    find = _doubted_classes if labels.ndim == 1 else _doubted_presences
    return sorted(find(answers, labels, class_names), key=lambda suspect: -suspect.strength)


def as_csv(suspects: Iterable[Suspect], split: Split) -> str:
    """The text of `suspects.csv`: where each image is, its label, and what the other images suggest."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for suspect in suspects:
        row = int(split.rows[suspect.place])
        sure = (f"{suspect.probability_of_label:.4f}", f"{suspect.probability_of_suggestion:.4f}")
        texts = (split.images.file_of(row) or "", suspect.label, suspect.suggested)
        writer.writerow([row, *map(to_cell, texts), *sure])
    return text.getvalue()


def _folds(split: Split, *, seed: int) -> Iterable[NDArray[np.bool_]]:
    """Which images each fold holds out; the classes in equal shares, equal images together."""
    _, first, same = np.unique(split.seen.digests, return_index=True, return_inverse=True)
    shares = [1 / FOLDS] * (FOLDS - 1)
    side = stratified_sides(groups_of(split.labels), first[same], shares, seed=seed)
    return (side == fold for fold in range(FOLDS))


def _doubted_classes(
    answers: NDArray[np.float32], labels: NDArray[Any], class_names: Sequence[str]
) -> Iterable[Suspect]:
    """Single-label: another class has more than its usual probability, and the most among those."""
    counts = np.bincount(labels, minlength=len(class_names))
    learned = counts >= FOLDS
    # How sure a probe usually is of a class: its mean probability over the images that bear the label.
    own = answers[np.arange(len(labels)), labels]
    usual = np.bincount(labels, own, minlength=len(class_names)) / counts.clip(min=1)
    candidates = np.where(learned & (answers >= usual), answers, -1.0)
    suggested = candidates.argmax(axis=1)
    for place in np.flatnonzero((candidates.max(axis=1) >= 0) & (suggested != labels) & learned[labels]):
        yield Suspect(
            place=int(place),
            label=class_names[int(labels[place])],
            suggested=class_names[int(suggested[place])],
            probability_of_label=float(own[place]),
            probability_of_suggestion=float(answers[place, suggested[place]]),
        )


def _doubted_presences(
    answers: NDArray[np.float32], labels: NDArray[Any], class_names: Sequence[str]
) -> Iterable[Suspect]:
    """Multi-label: each class is a question of its own, with the answers yes and no."""
    for number, name in enumerate(class_names):
        has = labels[:, number] > 0.5
        if min(has.sum(), (~has).sum()) < FOLDS:
            continue
        yes = answers[:, number]
        usual_yes, usual_no = yes[has].mean(), (1 - yes[~has]).mean()
        for place in np.flatnonzero(np.where(has, 1 - yes >= usual_no, yes >= usual_yes)):
            of_label = float(yes[place] if has[place] else 1 - yes[place])
            yield Suspect(
                place=int(place),
                label=name if has[place] else f"not {name}",
                suggested=f"not {name}" if has[place] else name,
                probability_of_label=of_label,
                probability_of_suggestion=1 - of_label,
            )
