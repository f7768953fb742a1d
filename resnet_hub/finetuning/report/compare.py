"""Finished runs side by side: their numbers, their options, and whether they differ by more than luck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from resnet_hub.errors import ConfigError, some_of
from resnet_hub.files import expanded
from resnet_hub.finetuning.report import figures
from resnet_hub.finetuning.report.figures import as_svg
from resnet_hub.finetuning.report.html import document
from resnet_hub.finetuning.report.page_tables import text
from resnet_hub.finetuning.report.predictions import Predictions, read_predictions
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.results import RunReport, Score

_NOT_COMPARED = (
    "output_dir",
    "resume",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_public_repo",
)


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the runs, under the name that it has in tables and figures."""

    name: str
    folder: RunFolder
    report: RunReport
    score: Score | None
    """On the split of the comparison."""
    predictions: Predictions | None


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Another run against the first on the same images."""

    first: str
    other: str
    is_paired: bool
    """Both answered the same images of the same data set; the rest is 0 and 1 otherwise."""
    only_first_right: int = 0
    only_other_right: int = 0
    p_value: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What there is to say of some runs; the first is the one that the others are held against."""

    runs: tuple[ComparedRun, ...]
    split: str | None
    """The split that all of them were scored on: test if they have it, else validation."""
    options: Mapping[str, tuple[str, ...]]
    """Option -> its value in each run, for the options that differ and had an effect in all of them."""
    tests: tuple[PairedTest, ...]


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Read finished runs; raises ConfigError for a folder that holds none, with what it holds."""
    paths = [expanded(path) for path in paths]
    folders = [_finished_run(path) for path in paths]
    reports = [RunReport.load(folder.report) for folder in folders]
    split = next((name for name in ("test", "validation") if all(getattr(r, name) for r in reports)), None)
    runs = tuple(
        ComparedRun(
            name=name,
            folder=folder,
            report=report,
            score=getattr(report, split) if split else None,
            predictions=_predictions(folder, report, split),
        )
        for name, folder, report in zip(_names(paths), folders, reports, strict=True)
    )
    return Comparison(
        runs=runs,
        split=split,
        options=_different_options(reports),
        tests=tuple(paired_test(runs[0], other) for other in runs[1:]) if split else (),
    )


def paired_test(first: ComparedRun, other: ComparedRun) -> PairedTest:
    """McNemar's exact test (McNemar 1947; for classifiers Dietterich 1998) of two runs on the same images.

    Only images that one of them has right and the other wrong count; were the two equally good, each would
    be as likely to be the right one, which a binomial test examines.
    """
    if not _same_images(first, other):
        return PairedTest(first=first.name, other=other.name, is_paired=False)
    assert first.predictions is not None
    assert other.predictions is not None
    mine, theirs = first.predictions.is_right, other.predictions.is_right
    only_first, only_other = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
    p_value = binomtest(only_first, only_first + only_other).pvalue if only_first + only_other else 1.0
    return PairedTest(
        first=first.name,
        other=other.name,
        is_paired=True,
        only_first_right=only_first,
        only_other_right=only_other,
        p_value=float(p_value),
    )


def describe_test(test: PairedTest, split: str) -> str:
    """A sentence for a person."""
    if not test.is_paired:
        return (
            f"{test.other} and {test.first} were not scored on the same {split} images, so their difference "
            f"is not tested; compare the intervals."
        )
    return (
        f"{test.other} against {test.first}: of the {split} images that only one has right, "
        f"{test.other} has {test.only_other_right} and {test.first} {test.only_first_right}; "
        f"p = {test.p_value:.3g} (McNemar's exact test)."
    )


def comparison_page(comparison: Comparison) -> str:
    """The comparison as an HTML file that stands alone."""
    runs = comparison.runs
    events = {run.name: run.folder.events() for run in runs}
    scores = {run.name: run.score for run in runs if run.score is not None}
    curves = {
        "Validation accuracy over the epochs.": figures.score_curve(events),
        "Loss over the epochs: validation drawn through; training dashed, with the augmentation and label "
        "smoothing of each run, so it can lie above.": figures.loss_curve(events),
    }
    return document(
        "compare.html",
        title=f"{len(runs)} runs compared",
        comparison=comparison,
        intervals=as_svg(figures.accuracy_intervals(scores), "Accuracy with its interval")
        if scores
        else None,
        curves={caption: as_svg(figure, caption) for caption, figure in curves.items() if figure is not None},
        sentences=[describe_test(test, comparison.split or "") for test in comparison.tests],
    )


def _finished_run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    if folder.report.is_file():
        return folder
    if not path.is_dir():
        raise ConfigError(
            f"There is no folder {path}. Name the folders of finished runs, as --output_dir had them."
        )
    if folder.config.is_file():
        raise ConfigError(
            f"{path} holds an unfinished run: there is no report.json yet. Resume it with the command that "
            f"started it: --config {folder.config}"
        )
    found = sorted(entry.name for entry in path.iterdir())
    held = f"it holds {some_of(found)}" if found else "it is empty"
    raise ConfigError(f"{path} is not the folder of a run, which has a report.json; {held}.")


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names; the paths as typed where two would be the same."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    typed = [str(path) for path in paths]
    if len(set(typed)) < len(typed):
        raise ConfigError(f"The same run is named twice: {', '.join(typed)}.")
    return typed


def _predictions(folder: RunFolder, report: RunReport, split: str | None) -> Predictions | None:
    if split is None:
        return None
    return read_predictions(folder.predictions, split, report.class_names, multi_label=report.multi_label)


def _different_options(reports: Sequence[RunReport]) -> dict[str, tuple[str, ...]]:
    applied = [report.applied_recipe for report in reports]
    shared = [name for name in applied[0] if all(name in recipe for recipe in applied)]
    values = {
        name: tuple(text(recipe[name]) for recipe in applied) for name in shared if name not in _NOT_COMPARED
    }
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def _same_images(first: ComparedRun, other: ComparedRun) -> bool:
    mine, theirs = first.predictions, other.predictions
    return (
        first.report.dataset_fields() == other.report.dataset_fields()
        and mine is not None
        and theirs is not None
        and np.array_equal(mine.rows, theirs.rows)
        and np.array_equal(mine.labels, theirs.labels)
    )
