"""Trackers get every number once, and whatever they do, the run goes on."""

import shutil
import time
from pathlib import Path

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_hub.finetuning import tracking
from resnet_hub.finetuning.tracking import Tracking

from .runs import ForkServer, assert_same_run, happens, log_of


@pytest.mark.slow
def test_a_tracker_that_fails_at_every_call_is_mentioned_once_and_changes_nothing(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder, calls = tmp_path / "run", tmp_path / "calls"
    faults = [{"fault": "broken_tracker", "calls": str(calls)}, {"fault": "patient_trackers", "seconds": 0}]
    assert server.run(folder, "--report_to", "broken", faults=faults) == 0, log_of(folder).read_text()
    assert log_of(folder).read_text().count("A tracker failed") == 1
    called = calls.read_text().split()
    assert called[:2] == ["start", "store_init_configuration"]
    assert called[2:] == ["log"] * 8 + ["finish"]
    assert_same_run(folder, uninterrupted)


def test_a_tracker_that_failed_is_left_alone_for_a_while_and_then_tried_again(
    tmp_path: Path, monkeypatch, caplog
):
    tracker = Tracking(Accelerator(), "tensorboard", str(tmp_path), {})
    (writer,) = tracker._accelerator.trackers
    calls = []

    def fail(*arguments, **options):
        calls.append(time.monotonic())
        raise ConnectionError("no network")

    monkeypatch.setattr(writer, "log", fail)
    for step in range(5):
        tracker.log("train", {"loss": 1.0}, step=step)
    assert len(calls) == 1
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_TRIES", 0.0)
    tracker._quiet_until = 0.0
    for step in range(5):
        tracker.log("train", {"loss": 1.0}, step=step)
    assert len(calls) == 6
    assert caplog.text.count("A tracker failed") == 1


def test_a_resumed_run_shows_each_step_once_in_tensorboard(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    """Killed after its last checkpoint, and stopped at the end of an epoch, between events of one step."""
    folder = tmp_path / "run"
    options = ("--report_to", "tensorboard", "--checkpoint_minutes", "10")
    for at, what, call, code in (
        ("loop.train_step", "SIGTERM", 10, 75),
        ("loop.train_step", "killed", 12, -9),
        ("training.evaluate", "SIGTERM", 2, 75),
    ):
        assert server.run(folder, *options, faults=[happens(at, what, call=call)]) == code
    assert server.run(folder, *options) == 0, log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)
    events = EventAccumulator(str(folder / "resnet_hub")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30]
    assert [event.step for event in events.Scalars("validation/accuracy")] == [6, 12, 18, 24, 30]


@pytest.mark.slow
def test_a_tracker_whose_folder_goes_away_does_not_stop_the_run(tmp_path: Path, caplog):
    tracker = Tracking(Accelerator(), "tensorboard", str(tmp_path), {"learning_rate": 0.1})
    tracker.log("train", {"loss": 1.0}, step=1)
    shutil.rmtree(tmp_path)
    for step in range(100):
        tracker.log("train", {"loss": 1.0}, step=step)
    tracker.finish()
    assert caplog.text.count("A tracker failed") <= 1
