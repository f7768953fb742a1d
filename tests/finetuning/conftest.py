"""Runs of a few steps, as users start them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

if TYPE_CHECKING:
    from .runs import ForkServer

ROOT = Path(__file__).parents[2]
TINY = ("--dataset_name", "digits", "--model", "my_resnet20", "--no-pretrained", "--image_size", "8",
        "--per_device_train_batch_size", "128", "--horizontal_flip", "0")  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the given variables set."""
    return os.environ | {"COLUMNS": "200"} | more


def finetune_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "recipes/finetune.py"), *map(str, arguments)]


def run_command(command: Sequence[str | Path], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and give what it printed."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**more),
        timeout=280,
    )


def events_without_time(folder: Path) -> list[dict]:
    """The events of a run without what no two runs share."""
    timed = {"time", "seconds", "waited_for_data"}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps precision and devices for the life of a process; each test chooses its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def server() -> Iterator["ForkServer"]:
    """Starts runs a second apart."""
    from .runs import ForkServer

    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def uninterrupted(server: "ForkServer", tmp_path_factory) -> Path:
    """The small run, done in one go on one process; with its ledger beside it."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    ledger = {"fault": "ledger", "file": str(folder.with_name("ledger"))}
    server.run(folder, faults=[ledger])
    return folder


@pytest.fixture(scope="session")
def on_two(server: "ForkServer", tmp_path_factory) -> Path:
    """The small run on two processes, done in one go."""
    folder = tmp_path_factory.mktemp("two") / "run"
    server.run_two(folder)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """Three classes of small noisy colour images, in class folders of train and validation."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 9)):
        for number, (name, colour) in enumerate(
            {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}.items()
        ):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = generator.integers(-40, 40, (36 + number, 48, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:03d}.jpg")
    return root
