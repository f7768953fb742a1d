"""Callbacks hear of each event and can stop a run; metrics of the user's own are in report, log and page."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import resnet_hub
from resnet_hub.results import RunReport

from .conftest import ROOT, environment
from .runs import free_port, weights_hash
from .test_interruptions import MODEL, RUN

Event = dict[str, Any]
SHORT = RUN | {"num_train_epochs": 3, "learning_rate": 0.02}


def lines(folder: Path) -> list[Event]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Listener:
    """An object in place of a function."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    resnet_hub.finetune(MODEL, "digits", output_dir=folder, **SHORT)
    return folder


def test_functions_and_objects_get_each_event_of_the_log_and_change_nothing(straight: Path, tmp_path: Path):
    seen, listener = [], Listener()
    resnet_hub.finetune(
        MODEL, "digits", output_dir=tmp_path / "run", callbacks=[seen.append, listener], **SHORT
    )
    assert seen == listener.events == lines(tmp_path / "run")
    assert {event["event"] for event in seen} == {"train", "validation"}
    assert weights_hash(tmp_path / "run") == weights_hash(straight)


@pytest.mark.parametrize("last", ["train", "validation"])
def test_a_callback_that_returns_true_ends_training_with_a_report(last: str, tmp_path: Path):
    result = resnet_hub.finetune(
        MODEL, "digits", output_dir=tmp_path / "run",
        callbacks=lambda event: np.bool_(event["event"] == last and event["step"] >= 8), **SHORT
    )  # fmt: skip
    assert result.report.train.steps == {"train": 10, "validation": 8}[last]
    assert result.report.test is not None


def test_what_a_callback_raises_comes_through_and_the_same_call_resumes(straight: Path, tmp_path: Path):
    def stop(event: Event) -> None:
        if event["event"] == "validation" and event["step"] == 8:
            raise KeyboardInterrupt("the user's own")

    with pytest.raises(KeyboardInterrupt, match="the user's own"):
        resnet_hub.finetune(MODEL, "digits", output_dir=tmp_path / "run", callbacks=[stop], **SHORT)
    result = resnet_hub.finetune(MODEL, "digits", output_dir=tmp_path / "run", **SHORT)
    assert result.report.resumed_from_step == 8
    assert weights_hash(tmp_path / "run") == weights_hash(straight)


class Pruned(Exception):
    """As optuna.TrialPruned."""


def test_a_study_prunes_trials_by_what_other_trials_reached(tmp_path: Path):
    """What Optuna's pruners do, in a few lines: `report`, `should_prune`, and an exception of its own."""
    reached: dict[int, list[float]] = {}

    def objective(number: int, learning_rate: float) -> float:
        def report(event: Event) -> None:
            if event["event"] == "validation":
                reached.setdefault(event["step"], []).append(event["loss"])
                if event["loss"] > np.median(reached[event["step"]]):
                    raise Pruned

        options = SHORT | {"learning_rate": learning_rate}
        folder = tmp_path / f"trial-{number}"
        return resnet_hub.finetune(
            MODEL, "digits", output_dir=folder, callbacks=[report], **options
        ).report.validation.loss  # pyright: ignore[reportOptionalMemberAccess]

    assert objective(0, 0.02) < 3
    with pytest.raises(Pruned):
        objective(1, 1e-7)
    assert not (tmp_path / "trial-1/report.json").exists()
    assert len(reached[4]) == 2


def test_optuna_prunes_a_study(tmp_path: Path):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")

    def objective(trial: Any) -> float:
        def prune(event: Event) -> None:
            if event["event"] == "validation":
                trial.report(event["loss"], event["step"])
                if trial.should_prune():
                    raise optuna.TrialPruned

        rate = trial.suggest_float("learning_rate", 1e-7, 0.1, log=True)
        result = resnet_hub.finetune(
            MODEL, "digits", output_dir=tmp_path / str(trial.number), callbacks=[prune],
            **SHORT | {"learning_rate": rate},
        )  # fmt: skip
        return result.report.validation.loss  # pyright: ignore[reportOptionalMemberAccess]

    study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    study.enqueue_trial({"learning_rate": 0.02})
    study.enqueue_trial({"learning_rate": 1e-7})
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]


def test_own_metrics_are_in_the_report_the_log_and_the_page(tmp_path: Path):
    metrics = {
        "kappa": lambda labels, probabilities: cohen_kappa_score(labels, probabilities.argmax(1)),
        "area under ROC": lambda labels, shares: roc_auc_score(labels, shares, multi_class="ovr"),
    }
    result = resnet_hub.finetune(MODEL, "digits", output_dir=tmp_path / "run", metrics=metrics, **SHORT)
    for score in (result.report.validation, result.report.test):
        assert score is not None
        assert -1 <= score.metrics["kappa"] <= score.accuracy
        assert 0 <= score.metrics["area under ROC"] <= 1
    assert RunReport.load(tmp_path / "run/report.json").test == result.report.test
    logged = [event for event in lines(tmp_path / "run") if event["event"] == "validation"]
    assert all({"kappa", "area under ROC"} <= event.keys() for event in logged)
    assert "kappa" in (tmp_path / "run/report.html").read_text()
    assert "kappa" in result._repr_html_()


def test_own_metrics_of_several_labels_get_zeros_and_ones(tmp_path: Path):
    digits = resnet_hub.finetuning.data.sources.make_digits().select(range(120)).to_list()
    pairs = [
        (row["image"]["bytes"], ["even"] * (row["label"] % 2 == 0) + [str(row["label"])]) for row in digits
    ]
    seen = []

    def exact(labels: np.ndarray, probabilities: np.ndarray) -> np.float32:
        seen.append((labels, probabilities))
        return np.float32(((probabilities > 0.5) == labels).all(axis=1).mean())

    options = {"image_size": 8, "recipe": "quick", "pretrained": True}
    result = resnet_hub.finetune(
        MODEL, pairs, output_dir=tmp_path / "run", metrics={"exact": exact}, **options
    )
    test = result.report.test
    assert test is not None
    assert test.metrics["exact"] == pytest.approx(test.accuracy)
    assert {shape for pair in seen for shape in (pair[0].shape[1], pair[1].shape[1])} == {11}


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (lambda labels, shares: None, "'mine' gave None"),
    "a list": (lambda labels, shares: [0.5], r"'mine' gave \[0.5\]"),
    "several": (lambda labels, shares: shares.max(1), "'mine' gave array"),
    "an error": (lambda labels, shares: 1 / 0, "'mine' failed on .* ZeroDivisionError"),
    "no function": (0.5, "'mine' is no metric"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_metric_that_gives_no_number_is_refused_before_the_run(case: str, tmp_path: Path):
    metric, words = WRONG[case]
    with pytest.raises(resnet_hub.UserError, match=words):
        resnet_hub.finetune(MODEL, "digits", output_dir=tmp_path / "run", metrics={"mine": metric}, **SHORT)
    assert not (tmp_path / "run").exists()


def test_metrics_without_names_are_refused(tmp_path: Path):
    with pytest.raises(resnet_hub.UserError, match="Give a dictionary from name to function"):
        resnet_hub.finetune(MODEL, "digits", output_dir=tmp_path / "run", metrics=[max], **SHORT)  # pyright: ignore


@pytest.mark.parametrize("callback", [1, "print", Listener], ids=["a number", "text", "a class"])
def test_what_is_no_callback_is_refused(callback: Any, tmp_path: Path):
    with pytest.raises(resnet_hub.UserError, match="is no callback"):
        resnet_hub.finetune(MODEL, "digits", output_dir=tmp_path / "run", callbacks=[callback], **SHORT)


LAUNCHED = """
import sys
from pathlib import Path

import accelerate
import resnet_hub
from tests.finetuning.test_callbacks import MODEL, SHORT, Pruned

def train(folder):
    def end(event):
        return event["event"] == "validation"

    def prune(event):
        raise Pruned

    resnet_hub.finetune(MODEL, "digits", output_dir=folder / "ended", callbacks=[end], **SHORT)
    try:
        resnet_hub.finetune(MODEL, "digits", output_dir=folder / "pruned", callbacks=[prune], **SHORT)
    except Pruned:
        print("process 0 pruned")
    except resnet_hub.Preempted:
        print("process 1 stopped too")
    resnet_hub.finetune(MODEL, "digits", output_dir=folder / "pruned", **SHORT)

accelerate.notebook_launcher(train, (Path(sys.argv[1]),), num_processes=2, use_port=sys.argv[2])
"""


def test_two_processes_of_a_notebook_agree_on_what_a_callback_asks(tmp_path: Path):
    command = [sys.executable, "-c", LAUNCHED, tmp_path, str(free_port())]
    variables = environment(ACCELERATE_USE_CPU="true")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "process 0 pruned" in done.stdout
    assert "process 1 stopped too" in done.stdout
    ended, pruned = (RunReport.load(tmp_path / name / "report.json") for name in ("ended", "pruned"))
    assert ended.environment["machine"]["processes"] == 2
    assert ended.train.steps == 4
    assert (pruned.resumed_from_step, pruned.train.steps) == (4, 12)
