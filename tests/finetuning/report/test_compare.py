"""`resnet-hub compare`: runs side by side, tested where they answered the same images."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_hub.cli.main import main
from resnet_hub.finetuning.report.metrics import score_predictions
from resnet_hub.finetuning.report.predictions import Predictions, write_predictions
from resnet_hub.results import RunReport, SplitRecord, TrainRecord

pytest_plugins = ["tests.browser"]

NAMES = ("cat", "dog")
LABELS = np.arange(40) % 2


def write_run(folder: Path, *, wrong: set[int], rate: float, first_row: int = 0, split: str = "test") -> Path:
    """The files of a finished run that has the given images wrong."""
    folder.mkdir(parents=True)
    answers = np.array([1 - label if place in wrong else label for place, label in enumerate(LABELS)])
    shares = np.where(np.eye(2)[answers] > 0, 0.9, 0.1).astype(np.float32)
    score = score_predictions(torch.from_numpy(shares).log(), torch.from_numpy(LABELS), NAMES)
    predictions = Predictions(
        split=split, rows=np.arange(40) + first_row, labels=LABELS, probabilities=shares
    )
    write_predictions([predictions], NAMES, folder / "predictions.parquet")
    events = [
        {"event": "train", "step": 10, "epoch": 1.0, "loss": rate, "learning_rate": rate},
        {"event": "validation", "step": 10, "epoch": 1.0, "loss": 0.4, "accuracy": score.accuracy},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    RunReport(
        model="my_resnet18",
        base_model=None,
        base_license=None,
        dataset="pets",
        dataset_revision=None,
        num_classes=2,
        class_names=NAMES,
        multi_label=False,
        image_size=32,
        splits={split: SplitRecord(num_images=40, how="of the data set")},
        validation=score if split == "validation" else None,
        test=score if split == "test" else None,
        train=TrainRecord(epochs=1, steps=10, seconds=12.0, images_per_second=34.0),
        seed=0,
        resumed_from_step=None,
        recipe={"learning_rate": rate, "seed": 0, "output_dir": str(folder)},
    ).save(folder / "report.json")
    return folder


def test_a_report_that_finds_no_room_is_not_there(tmp_path: Path):
    """It says that a run is finished: half of it would keep the same command from going on."""
    report = RunReport.load(write_run(tmp_path / "run", wrong={0}, rate=0.1) / "report.json")
    path, before = tmp_path / "report.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            report.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    report.save(path)
    assert RunReport.load(path) == report


@pytest.fixture
def two_runs(tmp_path: Path) -> list[str]:
    """One with ten mistakes, and one with one of them and another of its own."""
    good = write_run(tmp_path / "a_good_one", wrong={0, 20}, rate=0.1)
    poor = write_run(tmp_path / "poor", wrong=set(range(10)), rate=0.01)
    return [str(good), str(poor)]


def test_runs_on_the_same_images_are_tested_in_pairs(two_runs, capsys):
    assert main(["compare", *two_runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "test"
    assert [run["accuracy"] for run in found["runs"]] == [0.95, 0.75]
    assert found["different_options"] == {"learning_rate": {"a_good_one": "0.1", "poor": "0.01"}}
    (test,) = found["paired_tests"]
    assert (test["is_paired"], test["only_first_right"], test["only_other_right"]) == (True, 9, 1)
    assert test["p_value"] == pytest.approx(22 / 1024)  # both tails of nine or more of ten fair coins


def test_a_person_reads_accuracies_with_intervals_what_differs_and_the_test(two_runs, capsys):
    assert main(["compare", *two_runs]) == 0
    printed = capsys.readouterr().out
    for text in ("95.00%", "75.00%", "83.50% to 98.62%", "learning_rate", "a_good_one  poor", "p = 0.0215"):
        assert text in printed
    assert "seed" not in printed


def test_options_that_had_no_effect_in_one_of_the_runs_are_not_compared(two_runs, capsys):
    file = Path(two_runs[1]) / "report.json"
    values = json.loads(file.read_text())
    values["train"]["steps"] = 0  # a linear probe alone
    file.write_text(json.dumps(values))
    assert main(["compare", *two_runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["different_options"] == {}


def test_runs_on_other_images_are_not_tested(two_runs, tmp_path: Path, capsys):
    other = write_run(tmp_path / "other", wrong={1}, rate=0.1, first_row=7)
    assert main(["compare", two_runs[0], str(other)]) == 0
    printed = capsys.readouterr().out
    assert "not scored on the same test images" in printed
    assert "p =" not in printed


def test_runs_scored_on_different_splits_are_listed_without_accuracies(two_runs, tmp_path: Path, capsys):
    other = write_run(tmp_path / "other", wrong={1}, rate=0.1, split="validation")
    assert main(["compare", two_runs[0], str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] is None
    assert [run["accuracy"] for run in found["runs"]] == [None, None]


def test_the_page_lays_curves_over_each_other(two_runs, tmp_path: Path, browser, capsys):
    page = tmp_path / "both.html"
    assert main(["compare", *two_runs, "--output", str(page)]) == 0
    browser.open(page.as_uri(), width=360, height=740)
    assert browser.messages() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("return document.querySelectorAll('svg.chart').length") == 3
    assert browser.run("return document.documentElement.scrollWidth") == 360
    assert "p = 0.0215" in browser.text()


def test_what_is_no_finished_run_is_refused_with_what_is_there(two_runs, tmp_path: Path, capsys):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text("seed: 0\n")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    for path, words in (
        (unfinished, "unfinished run"),
        (photos, "cat.jpg"),
        (tmp_path / "nowhere", "no folder"),
    ):
        assert main(["compare", two_runs[0], str(path)]) == 2
        assert words in capsys.readouterr().err
    assert main(["compare", two_runs[0], two_runs[0]]) == 2
    assert "twice" in capsys.readouterr().err


def test_a_page_is_not_written_over(two_runs, tmp_path: Path, capsys):
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert main(["compare", *two_runs, "--output", str(page)]) == 2
    assert page.read_text() == "mine"
    assert "already exists" in capsys.readouterr().err
