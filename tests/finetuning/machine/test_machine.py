"""The machine is used as it is: its cores, its precision, and what the user says instead."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from resnet_hub.cores import available_cores
from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.options import MachineOptions
from resnet_hub.finetuning.machine import machine as machines
from resnet_hub.finetuning.machine.machine import (
    _choose_num_threads,
    choose_num_workers,
    start_machine,
)
from resnet_hub.models.optimize import has_bf16_units

from ..conftest import TINY, finetune_command, run_command


def test_threads_are_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    machine = start_machine(MachineOptions())
    assert machine.num_threads == torch.get_num_threads() == available_cores()
    assert f"{available_cores()} threads" in machine.describe()


@pytest.mark.parametrize(
    ("asked", "launched", "threads"),
    [("3", False, 3), ("3", True, 3), ("1", False, 1), ("1", True, 8), ("99", False, 8), ("", False, 8)],
)
def test_omp_num_threads_is_obeyed_unless_a_launcher_has_set_it(
    asked: str, launched: bool, threads: int, monkeypatch: pytest.MonkeyPatch
):
    """torchrun and accelerate launch leave a 1 behind where nobody asked for it."""
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    for name in ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_BACKEND", "RESNET_HUB_LAUNCHED"):
        monkeypatch.delenv(name, raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert _choose_num_threads(8) == threads


@pytest.mark.slow
def test_one_core_means_one_thread(tmp_path: Path):
    core = min(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(core), *finetune_command(*TINY, "--dry_run")]
    assert "1 threads each" in run_command(command).stderr


@pytest.mark.parametrize(
    ("flag", "launcher", "has_units", "chosen"),
    [
        ("auto", "no", True, "bf16"),
        ("auto", "no", False, "no"),
        ("auto", "bf16", False, "bf16"),
        ("no", "bf16", True, "no"),
        ("bf16", "no", False, "bf16"),
    ],
)
def test_precision_is_the_flag_else_the_launchers_else_the_processors(
    flag, launcher, has_units, chosen, monkeypatch
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    monkeypatch.setattr(machines, "has_bf16_units", lambda device: has_units)
    assert machines._choose_precision(flag, cpu_only=True) == chosen


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="bf16 or no"):
        machines._choose_precision("fp16", cpu_only=True)


def test_bf16_units_are_those_that_the_processor_lists():
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert has_bf16_units(torch.device("cpu")) == any(name in flags for name in ("avx512_bf16", "amx_bf16"))


@pytest.mark.slow
def test_training_in_bf16_keeps_its_weights_in_float32(tmp_path: Path):
    folder = tmp_path / "run"
    precision = ("--mixed_precision", "bf16", "--max_train_steps", "2")
    done = run_command(finetune_command(*TINY, *precision, "--output_dir", folder))
    assert done.returncode == 0, done.stderr
    assert "bf16 mixed with float32" in done.stderr
    assert json.loads((folder / "environment.json").read_text())["machine"]["precision"] == "bf16"
    weights = load_file(folder / "export/model.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if "num_batches" not in name} == {torch.float32}


def test_loader_processes_are_the_users_choice_and_none_beside_a_network_on_the_cpu():
    machine = start_machine(MachineOptions())
    assert choose_num_workers(None, machine, (224, 224)) == 0
    assert choose_num_workers(3, machine, (224, 224)) == 3


def test_beside_a_gpu_every_core_loads_large_images_and_a_few_load_small_ones():
    """There is no GPU here, so what accelerate says of itself is put here by hand."""
    accelerator: Any = SimpleNamespace(device=torch.device("cuda"))
    machine = replace(start_machine(MachineOptions()), accelerator=accelerator, num_cores=12)
    assert choose_num_workers(None, machine, (224, 224)) == 12
    assert choose_num_workers(None, machine, (32, 32)) == 4
    assert choose_num_workers(None, replace(machine, num_cores=2), (32, 32)) == 2
