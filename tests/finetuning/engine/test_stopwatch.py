"""Every second goes to the station that it was spent at, or to none."""

import time

import torch

from resnet_hub.finetuning.engine.stopwatch import DATA, FORWARD, Stopwatch
from resnet_hub.finetuning.engine.trainer import Progress


def test_time_goes_to_the_station_of_the_next_call_and_that_before_a_start_to_none():
    seconds: dict[str, float] = {}
    stopwatch = Stopwatch(seconds, torch.device("cpu"))
    stopwatch.start()
    time.sleep(0.02)
    stopwatch.lap(DATA)
    time.sleep(0.01)
    stopwatch.lap(FORWARD)
    time.sleep(0.5)
    stopwatch.start()
    stopwatch.lap(DATA)
    stopwatch.settle()
    assert 0.02 <= seconds[DATA] < 0.3
    assert 0.01 <= seconds[FORWARD] < 0.3


def test_a_resumed_run_counts_on():
    progress = Progress(**{"step": 3, "station_seconds": {DATA: 100.0}})
    stopwatch = Stopwatch(progress.station_seconds, torch.device("cpu"))
    stopwatch.start()
    stopwatch.lap(DATA)
    assert progress.station_seconds[DATA] >= 100.0
