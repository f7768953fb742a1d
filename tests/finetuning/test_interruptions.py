"""A call from Python can be interrupted, repeated and made in any thread; the process stays as it was."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import enumerate as all_threads
from typing import Any

import psutil
import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import resnet_hub
from resnet_hub.finetuning.data.sources import make_digits
from resnet_hub.results import RunReport

from .conftest import environment
from .runs import wait_until, weights_hash

MODEL = "my_resnet20"
# Four steps an epoch.
RUN: dict[str, Any] = {"image_size": 8, "train_split": "all[:180]", "images_per_step": 32}
RUN |= {"num_train_epochs": 3, "mixed_precision": "no", "pretrained": False}
QUICK = RUN | {"num_train_epochs": 1}
PLACE = Path(__file__).parents[2]


def at_step_four(act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """A callback that acts when the first epoch is done."""
    return lambda event: act() if event["event"] == "validation" and event["step"] == 4 else None


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The run, done in one go."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    resnet_hub.finetune(MODEL, "digits", output_dir=folder, **RUN)
    return folder


def test_a_signal_to_a_script_saves_and_the_same_call_resumes(straight: Path, tmp_path: Path):
    folder, heard = tmp_path / "run", []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        ours = signal.getsignal(signal.SIGTERM)
        stopping = at_step_four(lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(resnet_hub.Preempted, match="The same call resumes"):
            resnet_hub.finetune(MODEL, "digits", output_dir=folder, callbacks=[stopping], **RUN)
        assert signal.getsignal(signal.SIGTERM) is ours
        assert heard == []
    finally:
        signal.signal(signal.SIGTERM, before)
    result = resnet_hub.finetune(MODEL, "digits", output_dir=folder, **RUN)
    assert (result.report.resumed_from_step or 0) > 0
    assert weights_hash(folder) == weights_hash(straight)


NOTEBOOK = """
import os, signal, sys, time, types
from pathlib import Path

kernel = types.ModuleType("IPython")  # what a process sees that is the kernel of a notebook
kernel.version_info = (9, 0)
kernel.get_ipython = lambda: types.SimpleNamespace(kernel=object())
sys.modules["IPython"] = kernel

import resnet_hub
from tests.finetuning.test_interruptions import MODEL, RUN, at_step_four

folder = Path(sys.argv[1])
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
seen = []

def interrupt():
    seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(2)  # until the kernel has noticed

try:
    resnet_hub.finetune(MODEL, "digits", output_dir=folder, callbacks=[at_step_four(interrupt)], **RUN)
except KeyboardInterrupt as error:
    print("interrupted:", error)
assert seen == handlers, "a handler was installed"
assert any((folder / "checkpoints").glob("step-*"))
result = resnet_hub.finetune(MODEL, "digits", output_dir=folder, **RUN)
print("resumed from", result.report.resumed_from_step)
"""


def test_interrupting_the_kernel_of_a_notebook_saves_and_the_same_call_resumes(
    straight: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", NOTEBOOK, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=PLACE)
    assert done.returncode == 0, done.stderr
    assert "interrupted: The run was stopped, and what it needs to resume is saved." in done.stdout
    assert (RunReport.load(folder / "report.json").resumed_from_step or 0) > 0
    assert "training:" in done.stdout + done.stderr  # a bar
    assert weights_hash(folder) == weights_hash(straight)


def test_a_thread_can_fine_tune_and_another_one_after_it(tmp_path: Path):
    with ThreadPoolExecutor(2) as threads:
        for name in ("first", "second"):
            done = threads.submit(resnet_hub.finetune, MODEL, "digits", output_dir=tmp_path / name, **QUICK)
            assert done.result().report.test is not None
    assert weights_hash(tmp_path / "first") == weights_hash(tmp_path / "second")


@pytest.fixture
def clean_accelerate() -> Iterator[None]:
    """Earlier tests of this process leave accelerate as their runs had it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("callers", [None, "bf16"])
def test_a_process_is_left_as_it_was_found(callers: str | None, tmp_path: Path, clean_accelerate: None):
    """Also one whose caller uses accelerate in another precision."""
    accelerator = None if callers is None else Accelerator(mixed_precision=callers)
    torch.manual_seed(7)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(7)
    torch.set_num_threads(1)
    running, children = {thread.name for thread in all_threads()}, set(psutil.Process().children())
    for precision in ("bf16", "no"):
        options = RUN | {"num_train_epochs": 1, "mixed_precision": precision, "dataloader_num_workers": 1}
        resnet_hub.finetune(MODEL, "digits", output_dir=tmp_path / precision, **options)
        recorded = json.loads((tmp_path / precision / "environment.json").read_text())
        assert recorded["machine"]["precision"] == precision
    assert torch.rand(3).equal(expected)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    assert (accelerator is None) == (not AcceleratorState._shared_state)
    assert accelerator is None or accelerator.mixed_precision == callers
    wait_until(lambda: set(psutil.Process().children()) <= children, seconds=30)
    assert {thread.name for thread in all_threads()} <= running


def test_data_and_networks_in_memory_are_known_by_their_content_when_a_run_resumes(tmp_path: Path):
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    def call(images: list[Any], *, value: float = 0.0, **options: Any) -> resnet_hub.FinetuneResult:
        torch.manual_seed(0)
        network = timm.create_model(MODEL)
        network.get_parameter("conv1.weight").data[0, 0, 0, 0] = value
        return resnet_hub.finetune(network, images, output_dir=tmp_path / "run", **options)

    images = [(row["image"], row["label"]) for row in make_digits().select(range(180))]
    options = {name: value for name, value in RUN.items() if name not in ("train_split", "pretrained")}
    options["fit_fc_first"] = False
    with pytest.raises(Stopped):
        call(images, callbacks=[at_step_four(stop)], **options)
    with pytest.raises(resnet_hub.UserError, match="data_fingerprint was"):
        call([images[1], *images[1:]], **options)
    with pytest.raises(resnet_hub.UserError, match="weights was"):
        call(images, value=1.0, **options)
    assert call(images, **options).report.resumed_from_step == 4
    assert "Repeat the run" not in (tmp_path / "run/report.html").read_text()
