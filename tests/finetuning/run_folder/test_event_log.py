"""The log of a run keeps its events in their order, also where the disk is full for a while."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resnet_hub.finetuning.run_folder.event_log import EventLog


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Inside, the system lets no file of this process become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_events_that_a_full_disk_does_not_take_are_written_once_there_is_room(tmp_path: Path, caplog):
    log = EventLog(tmp_path / "metrics.jsonl")
    log.add("train", step=1, epoch=0.1, loss=2.0)
    size = log.size()
    with files_up_to(size + 30):  # a part of the next line
        log.add("train", step=2, epoch=0.2, loss=1.0)
        log.add("train", step=3, epoch=0.3, loss=0.5)
        assert steps_in(tmp_path / "metrics.jsonl") == [1]
        with pytest.raises(OSError, match="File too large"):
            log.size()
    assert caplog.text.count("its events wait in memory") == 1
    log.add("train", step=4, epoch=0.4, loss=0.2)
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]


def test_rewinding_forgets_the_events_behind_a_size_and_says_how_many(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = EventLog(path)
    assert log.size() == log.rewind(0) == 0
    for step in range(1, 6):
        log.add("train", step=step, epoch=0.0)
        if step == 2:
            size = log.size()
    assert log.rewind(size) == 3
    log.add("train", step=9, epoch=0.0)
    assert steps_in(path) == [1, 2, 9]
    assert log.rewind(10**6) == 0
