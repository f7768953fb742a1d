"""Trackers get every number once, and whatever they do, the run goes on."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.run_folder import tracking
from resnet_hub.finetuning.run_folder.tracking import Tracking, check_trackers, tracker_names

from ..runs import ForkServer, assert_same_run, happens

TRAIN_STEPS, VALIDATION_STEPS = [10, 20, 30], [6, 12, 18, 24, 30]


@pytest.mark.slow
@pytest.mark.parametrize("starts", [True, False])
def test_a_tracker_that_fails_at_every_call_is_mentioned_once_and_changes_nothing(
    starts: bool, server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder, calls = tmp_path / "run", tmp_path / "calls"
    broken = {"fault": "broken_tracker", "calls": str(calls), "starts": starts}
    impatient = {"fault": "patient_trackers", "seconds": 0}
    said = server.run(folder, "--report_to", "broken,tensorboard", faults=[broken, impatient])
    assert said.count("The tracker broken failed") == 1
    once_started = ["start", "store_init_configuration", *["log"] * 8, "finish"]
    assert calls.read_text().split() == (once_started if starts else ["start"] * 9)
    assert steps_shown(folder, "train/loss") == TRAIN_STEPS
    assert steps_shown(folder, "validation/accuracy") == VALIDATION_STEPS
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_of_two_processes_one_starts_the_trackers(server: ForkServer, tmp_path: Path):
    folder, calls = tmp_path / "run", tmp_path / "calls"
    faults = [{"fault": "broken_tracker", "calls": str(calls), "starts": True}]
    server.run_two(folder, "--report_to", "broken", faults=faults)
    assert calls.read_text().split() == ["start", "store_init_configuration", "finish"]


def test_a_failed_start_is_tried_again_at_the_first_event_after_a_minute(tmp_path: Path, monkeypatch, caplog):
    tracker, clock = register(monkeypatch, "mine"), set_clock(monkeypatch)
    tracker.broken = {"start"}
    sender = Tracking(Accelerator(), "mine,tensorboard", str(tmp_path), {"learning_rate": 0.1})
    sender.log("train", {"loss": 1.0}, step=1)
    clock.now = 59
    sender.log("train", {"loss": 1.0}, step=2)
    assert tracker.calls == ["start"]
    tracker.broken = set()
    clock.now = 61
    for step in (3, 4):
        sender.log("train", {"loss": 1.0}, step=step)
    sender.finish()
    assert tracker.calls == ["start", "start", "store_init_configuration", "log 3", "log 4", "finish"]
    assert steps_shown(tmp_path, "train/loss") == [1, 2, 3, 4]
    assert caplog.text.count("The tracker mine failed") == caplog.text.count("failed") == 1


def test_a_tracker_that_failed_is_left_alone_for_a_minute_and_the_others_are_not(
    tmp_path: Path, monkeypatch, caplog
):
    one, other = register(monkeypatch, "one"), register(monkeypatch, "other")
    clock = set_clock(monkeypatch)
    sender = Tracking(Accelerator(), "one,other", str(tmp_path), {})
    one.broken = {"log"}
    for clock.now in (0, 20, 40, 61, 80):
        sender.log("train", {"loss": 1.0}, step=clock.now)
    other.broken = {"log"}
    one.broken = set()
    for clock.now in (122, 130):
        sender.log("train", {"loss": 1.0}, step=clock.now)
    assert logged(one) == [0, 61, 122, 130]
    assert logged(other) == [0, 20, 40, 61, 80, 122]
    assert caplog.text.count("The tracker one failed") == 1
    assert caplog.text.count("The tracker other failed") == 1


def test_a_tracker_that_takes_long_to_fail_is_left_alone_for_longer(tmp_path: Path, monkeypatch):
    """wandb waits for 90 seconds where there is no network; once a minute, the run would rarely train."""
    tracker, clock = register(monkeypatch, "mine"), set_clock(monkeypatch)
    tracker.broken, tracker.when_called = {"start"}, lambda: setattr(clock, "now", clock.now + 90)
    sender = Tracking(Accelerator(), "mine", str(tmp_path), {})
    for clock.now in (90 + 61, 90 + 29 * 60, 90 + 31 * 60):
        sender.log("train", {"loss": 1.0}, step=1)
    assert tracker.calls == ["start", "start"]


def test_a_tracker_that_takes_no_configuration_gets_the_numbers(tmp_path: Path, monkeypatch):
    tracker, clock = register(monkeypatch, "mine"), set_clock(monkeypatch)
    tracker.broken = {"store_init_configuration"}
    sender = Tracking(Accelerator(), "mine", str(tmp_path), {})
    clock.now = 61
    sender.log("train", {"loss": 1.0}, step=1)
    assert tracker.calls == ["start", "store_init_configuration", "log 1"]


def test_a_tracker_finds_no_terminal_to_ask_for_a_login(tmp_path: Path, monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal:
        assert terminal.isatty()
        monkeypatch.setattr(sys, "stdin", terminal)
        terminals = []
        tracker = register(monkeypatch, "mine")
        tracker.when_called = lambda: terminals.append(sys.stdin.isatty())
        Tracking(Accelerator(), "mine", str(tmp_path), {})
        assert terminals[0] is False
        assert sys.stdin is terminal
    os.close(ours)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_in_the_run_that_the_tracker_has_of_its_folder(
    name: str, tmp_path: Path, monkeypatch
):
    started = stand_in_for(name, monkeypatch)
    here, elsewhere = tmp_path / "a/flowers", tmp_path / "b/flowers"
    for folder, step in ((here, None), (here, 7), (elsewhere, None)):
        folder.mkdir(parents=True, exist_ok=True)
        Tracking(Accelerator(), name, str(folder), {}, going_on_from=step)
    shutil.rmtree(here)
    here.mkdir()
    Tracking(Accelerator(), name, str(here), {})  # another run, at the path of the first
    assert all(options["project"] == "resnet_hub" for options in started)
    assert all(options["resume"] == "allow" for options in started)
    assert all(options["name"].startswith("flowers") for options in started)
    first, resumed, *others = [options["id" if name == "wandb" else "name"] for options in started]
    assert resumed == first
    assert len({first, *others}) == 3


def test_wandb_is_told_the_id_and_name_that_its_variables_hold(tmp_path: Path, monkeypatch):
    started = stand_in_for("wandb", monkeypatch)
    monkeypatch.setenv("WANDB_RUN_ID", "of-a-sweep")
    monkeypatch.setenv("WANDB_NAME", "the one")
    Tracking(Accelerator(), "wandb", str(tmp_path), {})
    assert (started[0]["id"], started[0]["name"]) == ("of-a-sweep", "the one")


def test_an_id_that_was_lost_with_the_power_is_drawn_anew(tmp_path: Path, monkeypatch):
    started = stand_in_for("wandb", monkeypatch)
    (tmp_path / tracking.IDENTITY).touch()
    for _ in range(2):
        Tracking(Accelerator(), "wandb", str(tmp_path), {})
    assert started[0]["id"] == started[1]["id"] != ""


def test_all_trackers_are_those_that_are_installed(tmp_path: Path):
    check_trackers("all")
    assert tracker_names("all") == tracker_names("all, tensorboard") == ["tensorboard"]
    sender = Tracking(Accelerator(), "all", str(tmp_path), {})
    sender.log("train", {"loss": 1.0}, step=1)
    sender.finish()
    assert steps_shown(tmp_path, "train/loss") == [1]


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_type():
    AcceleratorState._reset_state(reset_partial_state=True)  # as in the command, where it is the first thing
    with pytest.raises(ConfigError, match=r"--report_to dvclive .* pip install dvclive"):
        check_trackers("dvclive")


def test_an_unknown_tracker_is_refused_with_those_that_are_installed_and_the_usual_ones():
    with pytest.raises(ConfigError) as refused:
        check_trackers("nonsense")
    assert "Installed: tensorboard; after `pip install NAME` also wandb, trackio, mlflow" in str(
        refused.value
    )


def test_all_trackers_where_none_is_installed_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(ConfigError, match=r"--report_to all: .* pip install tensorboard"):
        check_trackers("all")
    check_trackers("none")


@pytest.mark.slow
def test_a_resumed_run_shows_each_step_once_in_tensorboard(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    """Killed after its last checkpoint, and stopped at the end of an epoch, between events of one step."""
    folder = tmp_path / "run"
    options = ("--report_to", "tensorboard", "--checkpoint_minutes", "10")
    for at, what, call, code in (
        ("engine.step.train_step", "SIGTERM", 10, 75),
        ("engine.step.train_step", "killed", 12, -9),
        ("training.epochs.reestimate_batchnorm", "SIGTERM", 2, 75),
    ):
        server.run(folder, *options, faults=[happens(at, what, call=call)], code=code)
    server.run(folder, *options)
    assert_same_run(folder, uninterrupted)
    assert steps_shown(folder, "train/loss") == TRAIN_STEPS
    assert steps_shown(folder, "validation/accuracy") == VALIDATION_STEPS


@pytest.mark.parametrize("going_on_from", [None, 3])  # None: it was killed before its first checkpoint
def test_what_a_killed_process_had_sent_is_not_shown_again(going_on_from: int | None, tmp_path: Path):
    for first_step, last_step in ((None, 7), (going_on_from, 5)):
        sender = Tracking(Accelerator(), "tensorboard", str(tmp_path), {}, going_on_from=first_step)
        for step in range(first_step or 0, last_step):
            sender.log("train", {"loss": 1.0}, step=step)
        sender.finish()
        for file in tmp_path.glob("resnet_hub/events.out.tfevents.1*"):  # their names begin with the second
            file.rename(file.with_name(f"events.out.tfevents.{last_step == 5:d}"))
    assert steps_shown(tmp_path, "train/loss") == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_tracker_whose_folder_goes_away_does_not_stop_the_run(tmp_path: Path, caplog):
    sender = Tracking(Accelerator(), "tensorboard", str(tmp_path), {"learning_rate": 0.1})
    sender.log("train", {"loss": 1.0}, step=1)
    shutil.rmtree(tmp_path)
    for step in range(100):
        sender.log("train", {"loss": 1.0}, step=step)
    sender.finish()
    assert caplog.text.count("The tracker tensorboard failed") <= 1


class Registered(SimpleNamespace):
    """What a tracker of the user's own was called for, and the methods of it that raise."""

    calls: list[str]
    broken: set[str]
    when_called: Any

    def note(self, method: str, argument: str = "") -> None:
        self.calls.append(f"{method}{argument}")
        self.when_called()
        if method in self.broken:
            raise ConnectionError("no network")


def register(monkeypatch, called: str) -> Registered:
    """A tracker of the user's own."""
    notes = Registered(calls=[], broken=set(), when_called=lambda: None)

    class Mine(GeneralTracker):
        name = called
        requires_logging_directory = False
        tracker = None

        def start(self) -> None:
            notes.note("start")

        def store_init_configuration(self, values: dict) -> None:
            notes.note("store_init_configuration")

        def log(self, values: dict, step: int | None, **options: Any) -> None:
            notes.note("log", f" {step}")

        def finish(self) -> None:
            notes.note("finish")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, called, Mine)
    return notes


def logged(tracker: Registered) -> list[int]:
    return [int(call.split()[1]) for call in tracker.calls if call.startswith("log")]


def set_clock(monkeypatch) -> SimpleNamespace:
    """The clock by which trackers are tried again; it stands still until a test sets `now`."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def stand_in_for(package: str, monkeypatch) -> list[dict[str, Any]]:
    """The options of each run that accelerate's own tracker opens at a package that tests do not install."""
    started: list[dict[str, Any]] = []
    for variable in ("WANDB_RUN_ID", "WANDB_NAME"):
        monkeypatch.delenv(variable, raising=False)
    module = SimpleNamespace(
        init=lambda **options: started.append(options),
        config=SimpleNamespace(update=lambda values, allow_val_change: None),
    )
    monkeypatch.setitem(sys.modules, package, module)
    return started


def steps_shown(folder: Path, name: str) -> list[int]:
    """The steps that TensorBoard shows of a number."""
    return [event.step for event in EventAccumulator(str(folder / "resnet_hub")).Reload().Scalars(name)]
