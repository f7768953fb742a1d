"""The machine as it is: devices and processes by accelerate; threads and precision chosen here."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_hub.cores import available_cores
from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.hyperrule import SMALL_IMAGE
from resnet_hub.finetuning.config.options import MachineOptions, Precision
from resnet_hub.finetuning.machine.accelerate_settings import refuse_other_settings
from resnet_hub.finetuning.machine.cpu import keep_freed_memory
from resnet_hub.finetuning.machine.lost_launcher import was_launched
from resnet_hub.models.optimize import has_bf16_units

logger = logging.getLogger(__name__)

_PRECISION_NAMES = {"no": "float32", "bf16": "bf16 mixed with float32", "fp16": "fp16 mixed with float32"}

SMALL_IMAGE_WORKERS = 4  # each gives over ten thousand small images a second
MAX_WORKERS = 16  # more loader processes than this add memory and start-up time, and no images per second


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The processes of a run and what each of them uses."""

    accelerator: Accelerator
    precision: str
    num_threads: int
    num_cores: int
    """Cores that each process may use, after sharing with the other processes of this machine."""
    local_processes: int
    """Processes of the run on this machine."""
    memory_format: torch.memory_format
    sync_batchnorm: bool = False
    """Whether BatchNorm is over the batches of all processes; decided with the batches."""
    speakers: ProcessGroup | None = None
    """The processes as they speak of what the program knows; without it as accelerate has them."""

    @property
    def rank(self) -> int:
        """Number of this process among all."""
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and talks."""
        return self.accelerator.is_main_process

    def describe(self) -> str:
        """One line on what the run computes with."""
        device = self.accelerator.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        processes = f"{self.world_size} processes" if self.world_size > 1 else "1 process"
        norm = ", BatchNorm synchronized" if self.sync_batchnorm else ""
        return (
            f"{name}, {processes}, {self.num_threads} threads each, "
            f"{_PRECISION_NAMES[self.precision]}, channels_last{norm}"
        )

    def record(self) -> dict[str, Any]:
        """What `environment.json` says of the machine."""
        return {
            "device": self.accelerator.device.type,
            "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor_name(),
            "processes": self.world_size,
            "threads_per_process": self.num_threads,
            "precision": self.precision,
            "memory_format": "channels_last",
            "sync_batchnorm": self.sync_batchnorm,
        }

    def send(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; a GPU copies it while it computes what it was given before."""
        device = self.accelerator.device
        if device.type != "cuda":
            return tensor.to(device)
        copying, computing = _copy_stream(device), torch.cuda.current_stream(device)
        with torch.cuda.stream(copying):
            there = tensor.to(device, non_blocking=True)
        computing.wait_stream(copying)
        there.record_stream(computing)  # its memory is not given away before that has used it
        return there

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes; every process has to ask."""
        if self.world_size == 1:
            return values
        return cast(Tensor, self.accelerator.reduce(values, reduction="sum"))

    def largest(self, value: float) -> float:
        """The largest of the processes' values, the same on every process; every process has to ask."""
        if self.world_size == 1:
            return value
        largest = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.speakers)
        return float(largest)

    def agree_any(self, flag: bool) -> bool:
        """Whether the flag is set on any process; every process has to ask."""
        return self.largest(float(flag)) > 0


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def machine_as_found() -> Iterator[None]:
    """Leave accelerate, torch's threads, precision and random numbers to the caller as they were."""
    had_processes, settings = bool(PartialState._shared_state), dict(AcceleratorState._shared_state)
    AcceleratorState._shared_state.clear()  # a run may have another precision than what the caller does
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    benchmark = torch.backends.cudnn.benchmark
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(settings)
        if not had_processes:
            PartialState._reset_state()


def start_machine(asked: MachineOptions, *, finds_unused: bool = False) -> Machine:
    """Start accelerate and choose threads, precision and memory format for this machine.

    With `finds_unused`, some weights may get no gradient in a step. Raises ConfigError for a precision that
    the machine does not compute in.
    """
    refuse_other_settings()
    cpu_only = _is_cpu_only()
    precision = _choose_precision(asked.mixed_precision, cpu_only=cpu_only)
    timeout = timedelta(seconds=asked.ddp_timeout)
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    gradient_as_bucket_view=True,
                    # BatchNorm's statistics are equal everywhere, or made so before they are used.
                    broadcast_buffers=False,
                    # Stages that do not learn yet give no gradient to wait for.
                    find_unused_parameters=finds_unused,
                ),
                InitProcessGroupKwargs(timeout=timeout),
            ],
        )
    except ValueError as error:  # a device without bf16, or another precision earlier in this Python process
        raise ConfigError(f"--mixed_precision {precision} cannot be had here: {error}") from error
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_cores = max(1, available_cores() // local_processes)
    torch.set_num_threads(_choose_num_threads(num_cores if cpu_only else min(num_cores, 4)))
    if cpu_only:
        keep_freed_memory()
    else:
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
        torch.backends.cudnn.benchmark = True
    return Machine(
        accelerator=accelerator,
        precision=precision,
        num_threads=torch.get_num_threads(),
        num_cores=num_cores,
        local_processes=local_processes,
        memory_format=torch.channels_last,
        speakers=_speakers(accelerator, timeout),
    )


def _speakers(accelerator: Accelerator, timeout: timedelta) -> ProcessGroup | None:
    """A group of the processes that goes by the CPU: through a GPU each question waits for all its work."""
    if accelerator.num_processes == 1:
        return None
    try:
        return cast(ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))  # this process is in it
    except RuntimeError as error:
        raise ConfigError(
            f"The processes cannot speak over the CPU ({str(error).splitlines()[0]}). If a machine has "
            f"several networks, or a name that leads to itself, name the right one: GLOO_SOCKET_IFNAME=eth0."
        ) from error


def choose_num_workers(asked: int | None, machine: Machine, image_size: tuple[int, int]) -> int:
    """Loader processes per training process: one a core beside a GPU, a few for small images, else none."""
    if asked is not None:
        return asked
    if machine.accelerator.device.type == "cpu":
        return 0  # the network needs every core; a loader process would only take turns with it
    most = SMALL_IMAGE_WORKERS if max(image_size) <= SMALL_IMAGE else MAX_WORKERS
    return min(most, machine.num_cores)


def _choose_num_threads(most: int) -> int:
    """As many threads as the process may use, or as OMP_NUM_THREADS says.

    `accelerate launch` without --cpu and torchrun both set that to 1 on a machine without GPUs, so a 1 that
    came through a launcher is nobody's wish.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if not asked.isdigit() or int(asked) < 1 or (int(asked) == 1 and was_launched()):
        return most
    return min(int(asked), most)


def _is_cpu_only() -> bool:
    forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return forced or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def _choose_precision(wanted: Precision, *, cpu_only: bool) -> str:
    # `accelerate launch --mixed_precision` counts as a wish; a flag of ours wins over it.
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") if wanted == "auto" else wanted
    if asked == "fp16" and cpu_only:
        raise ConfigError("fp16 needs a GPU; on a CPU use --mixed_precision bf16 or no.")
    if wanted != "auto" or asked != "no":
        return asked
    device = "cpu" if cpu_only else "cuda" if torch.cuda.is_available() else "mps"
    return "bf16" if has_bf16_units(torch.device(device)) else "no"


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  Linux only; elsewhere the fallback
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else "CPU"
    except OSError:
        return "CPU"
