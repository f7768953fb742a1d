"""Where the time of a run goes: seconds by station, measured without making the device wait."""

import time
from collections import deque
from typing import Any

import torch

FIT_FC, DATA, FORWARD, BACKWARD = "fit_fc", "data", "forward", "backward"
OPTIMIZER, EVALUATION, SAVING = "optimizer", "evaluation", "saving"
STATIONS = (FIT_FC, DATA, FORWARD, BACKWARD, OPTIMIZER, EVALUATION, SAVING)


class Stopwatch:
    """Adds the time from one call to the next to a station.

    CUDA works behind the program's back, so there the moments are events in the device's queue, read once
    they have passed: `data` is then the time in which the device waited for images. Elsewhere the processor's
    clock is read; a device of another kind that runs on its own is charged where the program waits for it.
    """

    def __init__(self, seconds: dict[str, float], device: torch.device) -> None:
        """Count on in `seconds`, which is changed in place."""
        self._seconds = seconds
        self._is_cuda = device.type == "cuda"
        self._moments: deque[tuple[str | None, Any]] = deque()

    def start(self) -> None:
        """Begin here; what passed since the last call belongs to no station."""
        self._mark(None)

    def lap(self, station: str) -> None:
        """Add the time since the last call to a station."""
        self._mark(station)

    def settle(self) -> None:
        """Wait for what has been measured and not yet been added; for when the device is at rest anyway."""
        if self._is_cuda and self._moments:
            self._moments[-1][1].synchronize()
        self._add_what_has_passed()

    def _mark(self, station: str | None) -> None:
        if self._is_cuda:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self._moments.append((station, moment))
        self._add_what_has_passed()

    def _add_what_has_passed(self) -> None:
        while len(self._moments) > 1 and (not self._is_cuda or self._moments[1][1].query()):
            _, earlier = self._moments.popleft()
            station, later = self._moments[0]
            if station is not None:
                passed = earlier.elapsed_time(later) / 1000 if self._is_cuda else later - earlier
                self._seconds[station] = self._seconds.get(station, 0.0) + passed
